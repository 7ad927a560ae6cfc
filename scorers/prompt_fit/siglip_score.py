"""SigLIP score: how well an image shows what its prompt asks for, by a model trained on each pair for itself.

Zhai et al. 2023, https://arxiv.org/abs/2303.15343. The score is 100 x cosine, as the CLIP score is, but on another
scale, and the two do not compare: with the base model's trained factor 117.3 and bias -12.9, a cosine of 0.11 is
already an even chance that image and text belong together. Factor and bias are left out here, because the sigmoid of
them is close to 0 or 1 for most pairs, where it hides differences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorers.errors import ScorerSettingsError
from scorers.networks.clip.architecture import architecture_of
from scorers.networks.clip.embedder import ClipEmbedder, shared_embedder
from scorers.networks.clip.tokenizer import make_tokenizer
from scorers.networks.tokenizer_files import is_of_siglip
from scorers.prompt_fit.clip_score import clip_score
from scorers.prompt_fit.kinds import SIGLIP_SCORE

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.prompt_fit.kinds import SigLipScoreSettings
    from scorers.protocol import BuildContext, SuiteImages


class SigLipScorer:
    """A scorer of the SigLIP score of each image with its own prompt."""

    info = SIGLIP_SCORE

    def __init__(self, embedder: ClipEmbedder) -> None:
        self._embedder = embedder

    def score(self, images: SuiteImages) -> Tensor:
        """Return the SigLIP score of each image, float64 [n] in -100..100."""
        return clip_score(self._embedder.embed_images(images), self._embedder.embed_texts(images.prompts))


def build(settings: SigLipScoreSettings, context: BuildContext) -> SigLipScorer:
    """Build a scorer on the shared embedder of its settings.

    Raises:
        ScorerSettingsError: the architecture is not a SigLIP, or as `shared_embedder`.
        MissingWeightsError: the weights or the tokenizer are missing and cannot be downloaded.
        WrongWeightsError: the weights or the tokenizer are not those of the architecture.
    """
    text_config = architecture_of(settings.clip)["text_cfg"]
    if not is_of_siglip(text_config):
        raise ScorerSettingsError(
            f"siglip_score expects a SigLIP, got {settings.clip.model}: choose one of open_clip's, such as "
            "ViT-SO400M-14-SigLIP-384, or use clip_score"
        )
    # The tokenizer comes first: it is small, and if it is missing or another's, nobody should wait for the weights.
    make_tokenizer(settings.clip.model, text_config, settings.clip.tokenizer)
    return SigLipScorer(shared_embedder(settings.clip, context))
