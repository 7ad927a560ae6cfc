"""PickScore: CLIP ViT-H/14 trained on half a million choices between two images of one prompt.

Kirstain et al. 2023, Pick-a-Pic, https://arxiv.org/abs/2305.01569. The score is the trained factor, about 100, times
the cosine of image and prompt, so that the sigmoid of a difference is the probability of being preferred. Scores of
different prompts do not compare.

The weights are published for transformers. They are renamed for open_clip, whose embedder shares forward passes. Images
are resized by their shorter edge and cropped, as in training. Texts go through open_clip's tokenizer, which also mends
broken characters and HTML signs; that of transformers leaves them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorers.errors import WrongWeightsError
from scorers.networks.clip.transformers_keys import as_open_clip, is_of_transformers
from scorers.networks.clip.vit_h import make_embedder
from scorers.preference import kinds
from scorers.weights.fetch import resolve
from scorers.weights.tensors import load_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.networks.clip.embedder import ClipEmbedder
    from scorers.preference.kinds import PickScoreSettings
    from scorers.protocol import BuildContext, SuiteImages


def pickscore(images: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """Compute `logit_scale` x cosine of paired L2-normalised embeddings [n, d]: float64 [n]."""
    return logit_scale * (images.double() * texts.double()).sum(dim=-1)


class PickScorer:
    """A scorer of each image with its own prompt."""

    info = kinds.PICKSCORE

    def __init__(self, embedder: ClipEmbedder) -> None:
        self._embedder = embedder

    def score(self, images: SuiteImages) -> Tensor:
        """Return the PickScore of each image, float64 [n], for today's models about 18 to 24."""
        embedder = self._embedder
        return pickscore(embedder.embed_images(images), embedder.embed_texts(images.prompts), embedder.logit_scale)


def build(settings: PickScoreSettings, context: BuildContext) -> PickScorer:
    """Build a scorer, on one network for all with the same weights.

    Raises:
        MissingWeightsError: the weights are missing and cannot be downloaded.
        WrongWeightsError: the file does not hold PickScore.
    """
    key = ("pickscore", settings, context.device)
    return PickScorer(context.shared.get(key, lambda: _load(settings, context)))


def _load(settings: PickScoreSettings, context: BuildContext) -> ClipEmbedder:
    path = resolve(settings.weights, kinds.PICKSCORE_V1, context.cache_dir)
    state = load_tensors(path)
    if not is_of_transformers(state):
        raise WrongWeightsError(
            f"{path} does not hold PickScore: expected the keys of transformers' CLIPModel, such as "
            f"visual_projection.weight, got {', '.join(sorted(state)[:3])}: give another file with option 'weights'"
        )
    return make_embedder(
        as_open_clip(state), path, context, resize_mode="shortest", key=("pickscore", settings, context.device)
    )
