"""CMMD: the kernel distance between CLIP embeddings of the rendered images and of reference images.

Jayasumana et al. 2024, Rethinking FID, https://arxiv.org/abs/2401.09603, on OpenAI's CLIP ViT-L/14 at 336 pixels. In
the paper's code, an image is cropped to a square and then resized; here it is resized and then cropped, as for every
CLIP. For squares the two are the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scorers.distances.distance import GaussianReference, gaussian_distance, gaussian_reference
from scorers.distances.embedding_kinds import CLIP_OF_CMMD, CMMD
from scorers.distances.scorers import DistanceScorer, references_of, require_set
from scorers.networks.clip.embedder import ClipEmbedder, shared_embedder

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.config import ClipModelSettings
    from scorers.distances.embedding_kinds import CmmdSettings
    from scorers.protocol import BuildContext, ScorerInfo, SuiteImages

_ITS_MODELS = (CLIP_OF_CMMD.model, "ViT-L-14-336")  # one network; OpenAI's tag decides the activation


class CmmdScorer(DistanceScorer):
    """A scorer of CMMD; its features are the CLIP embeddings that other scorers of the same CLIP take as well."""

    def __init__(self, embedder: ClipEmbedder, reference: GaussianReference, info: ScorerInfo) -> None:
        super().__init__(embedder, info)
        self._embedder = embedder
        self._reference = reference

    def features(self, images: SuiteImages) -> Tensor:
        """Return the embeddings of the images, L2-normalised float32 [n, d].

        Raises:
            SuiteImagesError: there are fewer than `info.min_images` images.
        """
        self.info.check_count(len(images))
        return self._embedder.embed_images(images)

    def score(self, features: Tensor) -> float:
        """Compute CMMD of embeddings [n, d], >= 0.

        Raises:
            SuiteImagesError: n is smaller than 2.
        """
        require_set(features)
        return gaussian_distance(features, self._reference)


def build(settings: CmmdSettings, context: BuildContext) -> CmmdScorer:
    """Build a CMMD scorer against the reference folder.

    Raises:
        ScorerError: CLIP is missing or wrong, as `shared_embedder`.
        ReferenceImagesError: the folder is missing, unreadable, or has too few images.
    """
    embedder = shared_embedder(settings.clip, context)
    reference = gaussian_reference(references_of(settings.reference, embedder, context))
    return CmmdScorer(embedder, reference, _named(settings.clip))


def _named(clip: ClipModelSettings) -> ScorerInfo:
    """Name the CLIP, if it is not the one that defines CMMD."""
    if clip.model in _ITS_MODELS and clip.tag in (CLIP_OF_CMMD.tag, None):
        return CMMD
    return replace(CMMD, label=f"MMD({clip.model})")
