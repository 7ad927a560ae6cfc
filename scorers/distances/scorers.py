"""Distances between the rendered images and reference images: FID and KID, and the same on any timm network.

Only the Inception network of 2015 gives a FID or a KID. On another network the numbers are named FD(network) and
MMD(network). All names include n, because the Fréchet distance is biased upwards for small n: compare values only at
the same n, prompts and seeds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scorers.distances import kinds
from scorers.distances.distance import (
    FrechetReference,
    KernelReference,
    frechet_distance,
    frechet_reference,
    kernel_distance,
    kernel_reference,
)
from scorers.distances.references import reference_features
from scorers.errors import SuiteImagesError
from scorers.networks.features import FeatureNetwork, InceptionFeatures, TimmFeatures
from scorers.weights.fetch import existing_file, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from scorers.distances.kinds import InceptionSettings, NetworkSettings
    from scorers.protocol import BuildContext, ScorerInfo, SuiteImages

#: Default unit of a distance on a timm network, as a share of the spread of the references.
_UNIT_SHARE = 0.05
_FEWEST = 2  # images that have a covariance


class DistanceScorer:
    """The base of all distances: scorers on one network share one forward pass."""

    def __init__(self, network: FeatureNetwork, info: ScorerInfo) -> None:
        self._network = network
        self.info = info

    def features(self, images: SuiteImages) -> Tensor:
        """Return the features of the images, float32 [n, d].

        Raises:
            SuiteImagesError: there are fewer than `info.min_images` images.
        """
        self.info.check_count(len(images))
        key = ("features", self._network.digest)
        return images.memo(key, lambda: self._network.embed(images.images))


def require_set(features: Tensor) -> None:
    """Refuse features of which there is no distance. Standard errors need scores of fewer images than a suite has."""
    if len(features) < _FEWEST:
        raise SuiteImagesError(f"a distance of a set needs at least {_FEWEST} images, got {len(features)}")


class FrechetScorer(DistanceScorer):
    """A scorer of the Fréchet distance between the features of the images and those of the references."""

    def __init__(self, network: FeatureNetwork, reference: FrechetReference, info: ScorerInfo) -> None:
        super().__init__(network, info)
        self._reference = reference

    def score(self, features: Tensor) -> float:
        """Compute the Fréchet distance of features [n, d], >= 0.

        Raises:
            SuiteImagesError: n is smaller than 2.
        """
        require_set(features)
        return frechet_distance(features, self._reference)


class KernelScorer(DistanceScorer):
    """A scorer of the kernel distance between the features of the images and those of the references."""

    def __init__(self, network: FeatureNetwork, reference: KernelReference, info: ScorerInfo) -> None:
        super().__init__(network, info)
        self._reference = reference

    def score(self, features: Tensor) -> float:
        """Compute the kernel distance of features [n, d], around 0 for equal distributions.

        Raises:
            SuiteImagesError: n is smaller than 2.
        """
        require_set(features)
        return kernel_distance(features, self._reference)


def build_fid(settings: InceptionSettings, context: BuildContext) -> FrechetScorer:
    """Build an FID scorer against the reference folder.

    Raises:
        MissingWeightsError: the network's weights are missing and cannot be downloaded.
        WrongWeightsError: they are not what they should be.
        ReferenceImagesError: the folder is missing, unreadable, or has too few images.
    """
    network = _inception(settings, context)
    reference = frechet_reference(references_of(settings.reference, network, context))
    return FrechetScorer(network, reference, kinds.FID)


def build_kid(settings: InceptionSettings, context: BuildContext) -> KernelScorer:
    """Build a KID scorer against the reference folder; raises as `build_fid`."""
    network = _inception(settings, context)
    reference = kernel_reference(references_of(settings.reference, network, context))
    return KernelScorer(network, reference, kinds.KID)


def build_frechet(settings: NetworkSettings, context: BuildContext) -> FrechetScorer:
    """Build a scorer of the Fréchet distance on a timm network.

    Raises:
        ScorerSettingsError: timm has no such network, or it does not take the input size.
        MissingWeightsError: the weight file is missing.
        WrongWeightsError: the file does not hold weights of the network.
        ReferenceImagesError: the folder is missing, unreadable, or has too few images.
    """
    network = _timm(settings, context)
    reference = frechet_reference(references_of(settings.reference, network, context))
    return FrechetScorer(network, reference, named_after(kinds.FRECHET, settings, reference.spread))


def build_kernel(settings: NetworkSettings, context: BuildContext) -> KernelScorer:
    """Build a scorer of the kernel distance on a timm network; raises as `build_frechet`."""
    network = _timm(settings, context)
    reference = kernel_reference(references_of(settings.reference, network, context))
    return KernelScorer(network, reference, named_after(kinds.KERNEL, settings, reference.spread))


def named_after(info: ScorerInfo, settings: NetworkSettings, spread: float) -> ScorerInfo:
    """Name the network in `info`, and set the unit: the settings' own, or else a share of the references' spread."""
    unit = settings.unit or unit_of(info, spread)
    return replace(info, label=f"{info.label}({settings.network})", unit=unit)


def unit_of(info: ScorerInfo, spread: float) -> float:
    """Return a share of the references' spread; the unit of `info` if they are identical and have none."""
    return _UNIT_SHARE * spread or info.unit


def _inception(settings: InceptionSettings, context: BuildContext) -> InceptionFeatures:
    key = ("inception", settings.weights, context.device)

    def load() -> InceptionFeatures:
        path = resolve(settings.weights, kinds.FID_INCEPTION, context.cache_dir)
        return InceptionFeatures(path, context.device, in_turns=context.in_turns)

    return context.shared.get(key, load)


def _timm(settings: NetworkSettings, context: BuildContext) -> TimmFeatures:
    key = ("timm", settings.network, settings.weights, settings.input_size, context.device)

    def load() -> TimmFeatures:
        path = existing_file(settings.weights, "weights")
        return TimmFeatures(
            settings.network,
            path,
            input_size=settings.input_size,
            device=context.device,
            in_turns=context.in_turns,
        )

    return context.shared.get(key, load)


def references_of(
    folder: Path, network: FeatureNetwork, context: BuildContext, *, minimum: int = kinds.SET_MIN_IMAGES
) -> Tensor:
    """Return the features of the reference images, computed once in each context; raises as `reference_features`."""

    def compute() -> Tensor:
        return reference_features(folder, network, context.cache_dir, minimum=minimum)

    return context.shared.get(("references", folder, network.digest), compute)
