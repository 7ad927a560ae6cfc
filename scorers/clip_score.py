"""CLIP score: does the image show what its prompt asks for?

Hessel et al. 2021, CLIPScore, https://arxiv.org/abs/2104.08718, without its factor 2.5, its cut at zero and the words
"A photo depicts" before every caption: a merge that turns away from the prompt should be told how far, prompts are no
captions of photos, and 100 x cosine is what other tools report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorers.catalogue import CLIP_SCORE
from scorers.clip import ClipEmbedder, shared_embedder

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.config import ClipScoreSettings
    from scorers.protocol import BuildContext, SuiteImages


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """100 x cosine of paired embeddings, float64 [n] in -100..100, from L2-normalised rows [n, d]."""
    return 100 * (images.double() * texts.double()).sum(dim=-1)


class ClipScorer:
    """CLIP score of each image with its own prompt."""

    info = CLIP_SCORE

    def __init__(self, embedder: ClipEmbedder) -> None:
        self._embedder = embedder

    def score(self, images: SuiteImages) -> Tensor:
        """Float64 [n], 100 x cosine."""
        return clip_score(self._embedder.embed_images(images), self._embedder.embed_texts(images.prompts))


def build(settings: ClipScoreSettings, context: BuildContext) -> ClipScorer:
    """A CLIP scorer on the shared embedder of its settings."""
    return ClipScorer(shared_embedder(settings.clip, context))
