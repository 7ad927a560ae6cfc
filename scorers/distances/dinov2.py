"""FD-DINOv2: the Fréchet distance on DINOv2 ViT-L/14.

Stein et al. 2023, Exposing flaws of generative model evaluation metrics, https://arxiv.org/abs/2306.04675.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scorers.distances import embedding_kinds as kinds
from scorers.distances.distance import frechet_reference
from scorers.distances.scorers import FrechetScorer, references_of, unit_of
from scorers.networks.dinov2 import Dinov2Features
from scorers.weights.fetch import resolve

if TYPE_CHECKING:
    from scorers.distances.embedding_kinds import Dinov2Settings
    from scorers.protocol import BuildContext

NETWORK = "vit_large_patch14_dinov2"  # as timm calls it


def build(settings: Dinov2Settings, context: BuildContext) -> FrechetScorer:
    """Build a scorer of FD-DINOv2 against the reference folder.

    Raises:
        MissingWeightsError: the network's weights are missing and cannot be downloaded.
        WrongWeightsError: they are not what they should be.
        ReferenceImagesError: the folder is missing, unreadable, or has too few images.
    """

    def load() -> Dinov2Features:
        path = resolve(settings.weights, kinds.DINOV2, context.cache_dir)
        return Dinov2Features(NETWORK, path, device=context.device, in_turns=context.in_turns)

    network = context.shared.get(("dinov2", settings.weights, context.device), load)
    reference = frechet_reference(references_of(settings.reference, network, context))
    unit = unit_of(kinds.FD_DINOV2, reference.spread)
    return FrechetScorer(network, reference, replace(kinds.FD_DINOV2, unit=unit))
