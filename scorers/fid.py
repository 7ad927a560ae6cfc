"""Distances between the rendered set and reference images: FID and KID, and the same on any timm network.

Only the Inception of 2015 gives a FID or a KID; on another network the numbers are named FD(network) and
MMD(network). All carry their n, because their values shrink as n grows: compare only at the same n, the same
prompts and seeds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scorers import catalogue, weights
from scorers.frechet import (
    FrechetReference,
    KernelReference,
    frechet_distance,
    frechet_reference,
    kernel_distance,
    kernel_reference,
)
from scorers.networks import FeatureNetwork, InceptionFeatures, TimmFeatures
from scorers.references import reference_features

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from scorers.config import InceptionSettings, NetworkSettings
    from scorers.protocol import BuildContext, ScorerInfo, SuiteImages

#: One step of a distance whose scale is the network's own, as a share of the spread of the references.
_UNIT_SHARE = 0.05


class _SetScorer:
    """What both distances share: a network, with one forward for all scorers on it."""

    def __init__(self, network: FeatureNetwork, info: ScorerInfo) -> None:
        self._network = network
        self.info = info

    def features(self, images: SuiteImages) -> Tensor:
        """Float32 [n, d]. Raises SuiteImagesError below `info.min_images`."""
        self.info.check_count(len(images))
        key = ("features", self._network.digest)
        return images.memo(key, lambda: self._network.embed(images.images))


class FrechetScorer(_SetScorer):
    """Fréchet distance of the images' features to the references'."""

    def __init__(self, network: FeatureNetwork, reference: FrechetReference, info: ScorerInfo) -> None:
        super().__init__(network, info)
        self._reference = reference

    def score(self, features: Tensor) -> float:
        """The distance, >= 0. Raises SuiteImagesError below `info.min_images` rows."""
        self.info.check_count(len(features))
        return frechet_distance(features, self._reference)


class KernelScorer(_SetScorer):
    """Kernel distance of the images' features to the references'."""

    def __init__(self, network: FeatureNetwork, reference: KernelReference, info: ScorerInfo) -> None:
        super().__init__(network, info)
        self._reference = reference

    def score(self, features: Tensor) -> float:
        """The distance, around 0 for equal sets. Raises SuiteImagesError below `info.min_images` rows."""
        self.info.check_count(len(features))
        return kernel_distance(features, self._reference)


def build_fid(settings: InceptionSettings, context: BuildContext) -> FrechetScorer:
    """FID against the reference folder."""
    network = _inception(settings, context)
    reference = frechet_reference(_references(settings.reference, network, context))
    return FrechetScorer(network, reference, catalogue.FID)


def build_kid(settings: InceptionSettings, context: BuildContext) -> KernelScorer:
    """KID against the reference folder."""
    network = _inception(settings, context)
    reference = kernel_reference(_references(settings.reference, network, context))
    return KernelScorer(network, reference, catalogue.KID)


def build_frechet(settings: NetworkSettings, context: BuildContext) -> FrechetScorer:
    """Fréchet distance on a timm network."""
    network = _timm(settings, context)
    reference = frechet_reference(_references(settings.reference, network, context))
    return FrechetScorer(network, reference, _named(catalogue.FRECHET, settings, reference.spread))


def build_kernel(settings: NetworkSettings, context: BuildContext) -> KernelScorer:
    """Kernel distance on a timm network."""
    network = _timm(settings, context)
    reference = kernel_reference(_references(settings.reference, network, context))
    return KernelScorer(network, reference, _named(catalogue.KERNEL, settings, reference.spread))


def _named(info: ScorerInfo, settings: NetworkSettings, spread: float) -> ScorerInfo:
    """`info` with the name of the network, and the unit of the settings or of the references' spread."""
    unit = settings.unit or _UNIT_SHARE * spread or info.unit  # references that are all alike have no spread
    return replace(info, label=f"{info.label}({settings.network})", unit=unit)


def _inception(settings: InceptionSettings, context: BuildContext) -> InceptionFeatures:
    key = ("inception", settings.weights, context.device)

    def load() -> InceptionFeatures:
        path = weights.resolve(settings.weights, weights.FID_INCEPTION, context.cache_dir)
        return InceptionFeatures(path, context.device, in_turns=context.in_turns)

    return context.shared.get(key, load)


def _timm(settings: NetworkSettings, context: BuildContext) -> TimmFeatures:
    key = ("timm", settings.network, settings.weights, settings.input_size, context.device)

    def load() -> TimmFeatures:
        path = weights.existing_file(settings.weights, "weights")
        return TimmFeatures(
            settings.network,
            path,
            input_size=settings.input_size,
            device=context.device,
            in_turns=context.in_turns,
        )

    return context.shared.get(key, load)


def _references(folder: Path, network: FeatureNetwork, context: BuildContext) -> Tensor:
    def compute() -> Tensor:
        return reference_features(folder, network, context.cache_dir, minimum=catalogue.SET_MIN_IMAGES)

    return context.shared.get(("references", folder, network.digest), compute)
