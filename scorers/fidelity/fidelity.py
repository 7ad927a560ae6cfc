"""Fidelity: how close each image is to the same item rendered by another model, from the same noise.

Three measures, all 1 for equal pictures and at least -1:

- the cosine of the CLIP embeddings of both: what is shown, and in which style;
- the cosine of the features of a timm network, such as DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193);
- the structural similarity of the pixels, which needs no weights: Wang et al. 2004, Image quality assessment,
  https://doi.org/10.1109/TIP.2003.819861, by torchmetrics, on the three channels with a Gaussian window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from scorers.fidelity.kinds import FIDELITY
from scorers.networks.clip.embedder import shared_embedder
from scorers.networks.features import shared_timm

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.fidelity.kinds import FidelitySettings
    from scorers.protocol import BuildContext, ScorerInfo, SuiteImages

Embed = Callable[["SuiteImages"], "Tensor"]  # images -> features [n, d]

#: Roughly the smallest difference in the mean SSIM that a person sees between two models.
SSIM_UNIT = 0.02


def cosine(features: Tensor, others: Tensor) -> Tensor:
    """Compute the cosine of paired features [n, d]: float64 [n] in -1..1; exactly 1 for equal ones."""
    one, other = (F.normalize(each.double(), dim=-1) for each in (features, others))
    found = (one * other).sum(dim=-1).clamp(-1.0, 1.0)
    return torch.where((features == others).all(dim=-1), 1.0, found)


def ssim(image: Tensor, other: Tensor) -> float:
    """Compute the structural similarity of two images, uint8 [3, h, w] of one size, in -1..1; exactly 1 if equal.

    Raises:
        ValueError: their sizes differ.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # it takes a second to import

    if image.shape != other.shape:
        raise ValueError(f"expected images of one size, got {list(image.shape)} and {list(other.shape)}")
    if torch.equal(image, other):
        return 1.0
    one, reference = (each.cpu().double()[None] for each in (image, other))
    return float(structural_similarity_index_measure(one, reference, data_range=255.0))  # type: ignore[arg-type]


class CosineScorer:
    """A scorer of the cosine between the features of an image and those of its reference."""

    def __init__(self, embed: Embed, to: str, info: ScorerInfo) -> None:
        self._embed, self._to = embed, to
        self.info = info

    def score(self, images: SuiteImages) -> Tensor:
        """Return the cosine of each image, float64 [n] in -1..1.

        Raises:
            SuiteImagesError: there are no renders of the reference.
        """
        return cosine(self._embed(images), self._embed(images.of_reference(self._to)))


class SsimScorer:
    """A scorer of the structural similarity of an image and its reference."""

    def __init__(self, to: str, info: ScorerInfo) -> None:
        self._to = to
        self.info = info

    def score(self, images: SuiteImages) -> Tensor:
        """Return the similarity of each image, float64 [n] in -1..1.

        Raises:
            SuiteImagesError: there are no renders of the reference.
        """
        pairs = zip(images.images, images.of_reference(self._to).images, strict=True)
        return torch.tensor([ssim(image, other) for image, other in pairs], dtype=torch.float64)


def build(settings: FidelitySettings, context: BuildContext) -> CosineScorer | SsimScorer:
    """Build a scorer of fidelity by the measure of its settings.

    Raises:
        ScorerSettingsError, MissingWeightsError, WrongWeightsError: as `shared_embedder` and `shared_timm`.
    """
    if settings.by == "ssim":
        return SsimScorer(settings.to, replace(FIDELITY, label="fidelity(ssim)", unit=SSIM_UNIT))
    if settings.network is None or settings.weights is None:
        return CosineScorer(shared_embedder(settings.clip, context).embed_images, settings.to, FIDELITY)
    network = shared_timm(settings.network, settings.weights, settings.input_size, context)

    def embed(images: SuiteImages) -> Tensor:
        return images.memo(("features", network.digest), lambda: network.embed(images.images))

    return CosineScorer(embed, settings.to, replace(FIDELITY, label=f"fidelity({settings.network})"))
