"""CLIP-IQA: whether "Good photo." or "Bad photo." is the better caption of an image.

Wang et al. 2023, Exploring CLIP for Assessing the Look and Feel of Images, https://arxiv.org/abs/2207.12396.
CLIP is used unchanged. The paper removes the position embeddings to take images of any size; here images are resized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorers.aesthetics.kinds import CLIP_IQA
from scorers.networks.clip.embedder import ClipEmbedder, shared_embedder

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.aesthetics.kinds import ClipIqaSettings
    from scorers.protocol import BuildContext, SuiteImages


def antonym_probability(images: Tensor, good: Tensor, bad: Tensor, logit_scale: float) -> Tensor:
    """Average the softmax weight of the good prompt over all pairs: float64 [n] in 0..1.

    Args:
        images: L2-normalised embeddings [n, d].
        good: L2-normalised embeddings of the good prompts [p, d].
        bad: L2-normalised embeddings of their opposites [p, d], in the same order.
        logit_scale: factor on cosines before the softmax; 1/temperature in equation 3 of the paper.
    """
    # A softmax over two values is the logistic function of their difference.
    difference = images.double() @ (good.double() - bad.double()).T
    return (logit_scale * difference).sigmoid().mean(dim=-1)


class ClipIqaScorer:
    """A CLIP-IQA scorer over pairs of opposite prompts."""

    info = CLIP_IQA

    def __init__(self, embedder: ClipEmbedder, pairs: tuple[tuple[str, str], ...]) -> None:
        self._embedder = embedder
        self._good = embedder.embed_texts([good for good, _ in pairs])
        self._bad = embedder.embed_texts([bad for _, bad in pairs])

    def score(self, images: SuiteImages) -> Tensor:
        """Return the CLIP-IQA of each image, float64 [n] in 0..1."""
        embedded = self._embedder.embed_images(images)
        return antonym_probability(embedded, self._good, self._bad, self._embedder.logit_scale)


def build(settings: ClipIqaSettings, context: BuildContext) -> ClipIqaScorer:
    """Build a CLIP-IQA scorer on the shared embedder of its settings; raises as `shared_embedder`."""
    return ClipIqaScorer(shared_embedder(settings.clip, context), settings.pairs)
