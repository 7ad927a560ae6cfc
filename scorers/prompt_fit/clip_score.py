"""CLIP score: how well an image shows what its prompt asks for.

Hessel et al. 2021, CLIPScore, https://arxiv.org/abs/2104.08718, with three differences. Negative values are not clipped
to zero, because they tell how far a merge is from its prompt. The prefix "A photo depicts" is left out, because prompts
are not captions of photos. The factor is 100 instead of 2.5, as in other tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorers.networks.clip.embedder import ClipEmbedder, shared_embedder
from scorers.prompt_fit.kinds import CLIP_SCORE

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.prompt_fit.kinds import ClipScoreSettings
    from scorers.protocol import BuildContext, SuiteImages


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """Compute 100 x cosine of paired L2-normalised embeddings [n, d]: float64 [n] in -100..100."""
    return 100 * (images.double() * texts.double()).sum(dim=-1)


class ClipScorer:
    """A scorer of the CLIP score of each image with its own prompt."""

    info = CLIP_SCORE

    def __init__(self, embedder: ClipEmbedder) -> None:
        self._embedder = embedder

    def score(self, images: SuiteImages) -> Tensor:
        """Return the CLIP score of each image, float64 [n] in -100..100."""
        return clip_score(self._embedder.embed_images(images), self._embedder.embed_texts(images.prompts))


def build(settings: ClipScoreSettings, context: BuildContext) -> ClipScorer:
    """Build a CLIP scorer on the shared embedder of its settings.

    Raises:
        ScorerError: as `shared_embedder`.
        MissingWeightsError: the tokenizer is missing and cannot be downloaded.
    """
    embedder = shared_embedder(settings.clip, context)
    _ = embedder.tokenizer  # if it is missing, nobody should wait for the first images
    return ClipScorer(embedder)
