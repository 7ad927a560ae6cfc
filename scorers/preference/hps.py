"""Human Preference Score v2.1: CLIP ViT-H/14 trained on people's rankings of images of one prompt.

Wu et al. 2023, Human Preference Score v2, https://arxiv.org/abs/2306.09341; weights of January 2024. The score is 100 x
the cosine of image and prompt, as in the authors' tables; their function returns the cosine. Scores of different
prompts do not compare.

Images fit into the frame and are padded with black, as the authors' code does with every image that it scores. There,
bicubic values between grey levels and beyond 0..255 are kept; here they are rounded as Pillow does (see images.resize).
Their code antialiases with torchvision 0.17 and later, as is done here, but did not with earlier versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorers.networks.clip.vit_h import make_embedder
from scorers.preference import kinds
from scorers.prompt_fit.clip_score import clip_score
from scorers.weights.fetch import resolve
from scorers.weights.tensors import load_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.networks.clip.embedder import ClipEmbedder
    from scorers.preference.kinds import HpsSettings
    from scorers.protocol import BuildContext, SuiteImages


class HpsScorer:
    """A scorer of each image with its own prompt."""

    info = kinds.HPS

    def __init__(self, embedder: ClipEmbedder) -> None:
        self._embedder = embedder

    def score(self, images: SuiteImages) -> Tensor:
        """Return the score of each image, float64 [n] in -100..100, for models about 20 to 35."""
        return clip_score(self._embedder.embed_images(images), self._embedder.embed_texts(images.prompts))


def build(settings: HpsSettings, context: BuildContext) -> HpsScorer:
    """Build a scorer, on one network for all with the same weights.

    Raises:
        MissingWeightsError: the weights are missing and cannot be downloaded.
        WrongWeightsError: the file does not hold HPS, or has another digest than the public file.
    """
    key = ("hps", settings, context.device)
    return HpsScorer(context.shared.get(key, lambda: _load(settings, context)))


def _load(settings: HpsSettings, context: BuildContext) -> ClipEmbedder:
    path = resolve(settings.weights, kinds.HPS_V21, context.cache_dir)
    key = ("hps", settings, context.device)
    return make_embedder(load_tensors(path), path, context, resize_mode="longest", key=key)
