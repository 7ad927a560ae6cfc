"""LoRA compatibility: how well a merge works with the LoRAs on top of it.

The study's prompts say which items have a LoRA, and the scorer gets the images of these alone. With reference pictures
of the LoRA, it is 100 x the mean cosine between the CLIP embeddings of an image and of each reference: the mean and not
the nearest, so that a merge is not rewarded for copying one of them. Without, it is the CLIP score of the item's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorers.distances.scorers import references_of
from scorers.networks.clip.embedder import ClipEmbedder, shared_embedder
from scorers.prompt_fit.clip_score import clip_score
from scorers.prompt_fit.kinds import LORA_COMPATIBILITY

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.prompt_fit.kinds import LoraCompatibilitySettings
    from scorers.protocol import BuildContext, SuiteImages


def likeness(images: Tensor, references: Tensor) -> Tensor:
    """Compute 100 x the mean cosine of each image to the references: float64 [n] in -100..100.

    Args:
        images: L2-normalised embeddings [n, d].
        references: L2-normalised embeddings [m, d].
    """
    return 100 * (images.double() @ references.double().T).mean(dim=-1)


class LoraCompatibilityScorer:
    """A scorer of images that were rendered with a LoRA.

    Args:
        references: L2-normalised embeddings of the LoRA's pictures [m, d]; None: the words of the prompts are compared.
    """

    info = LORA_COMPATIBILITY

    def __init__(self, embedder: ClipEmbedder, references: Tensor | None) -> None:
        self._embedder, self._references = embedder, references

    def score(self, images: SuiteImages) -> Tensor:
        """Return the compatibility of each image, float64 [n] in -100..100."""
        embedded = self._embedder.embed_images(images)
        if self._references is None:
            return clip_score(embedded, self._embedder.embed_texts(images.prompts))
        return likeness(embedded, self._references)


def build(settings: LoraCompatibilitySettings, context: BuildContext) -> LoraCompatibilityScorer:
    """Build a scorer of LoRA compatibility on the shared embedder of its settings.

    Raises:
        ScorerError: as `shared_embedder`.
        MissingWeightsError: it compares words, and the tokenizer is missing and cannot be downloaded.
        ReferenceImagesError: the folder is missing, unreadable, or has no images.
    """
    embedder = shared_embedder(settings.clip, context)
    if settings.reference is None:
        _ = embedder.tokenizer  # if it is missing, nobody should wait for the first images
        return LoraCompatibilityScorer(embedder, None)
    return LoraCompatibilityScorer(embedder, references_of(settings.reference, embedder, context, minimum=1))
