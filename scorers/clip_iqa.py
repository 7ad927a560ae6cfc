"""CLIP-IQA: is "Good photo." or "Bad photo." the better caption?

Wang et al. 2023, Exploring CLIP for Assessing the Look and Feel of Images, https://arxiv.org/abs/2207.12396.
With CLIP as it is; the paper's removal of position embeddings serves arbitrary sizes, and we resize.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorers.catalogue import CLIP_IQA
from scorers.clip import ClipEmbedder, shared_embedder

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.config import ClipIqaSettings
    from scorers.protocol import BuildContext, SuiteImages


def antonym_probability(images: Tensor, good: Tensor, bad: Tensor, logit_scale: float) -> Tensor:
    """Mean over pairs of the softmax weight of the good prompt, float64 [n] in 0..1.

    Args:
        images: L2-normalised rows [n, d].
        good: L2-normalised rows [p, d], one a pair.
        bad: L2-normalised rows [p, d], the opposites in the same order.
        logit_scale: factor on cosines before the softmax (equation 3 of the paper has 1/temperature).
    """
    # A softmax over two is a logistic function of their difference.
    difference = images.double() @ (good.double() - bad.double()).T
    return (logit_scale * difference).sigmoid().mean(dim=-1)


class ClipIqaScorer:
    """CLIP-IQA over pairs of opposite prompts."""

    info = CLIP_IQA

    def __init__(self, embedder: ClipEmbedder, pairs: tuple[tuple[str, str], ...]) -> None:
        self._embedder = embedder
        self._good = embedder.embed_texts([good for good, _ in pairs])
        self._bad = embedder.embed_texts([bad for _, bad in pairs])

    def score(self, images: SuiteImages) -> Tensor:
        """Float64 [n] in 0..1."""
        embedded = self._embedder.embed_images(images)
        return antonym_probability(embedded, self._good, self._bad, self._embedder.logit_scale)


def build(settings: ClipIqaSettings, context: BuildContext) -> ClipIqaScorer:
    """A CLIP-IQA scorer on the shared embedder of its settings."""
    return ClipIqaScorer(shared_embedder(settings.clip, context), settings.pairs)
