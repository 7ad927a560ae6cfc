"""Networks that turn images into feature vectors, for distances between sets of images."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Protocol

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from basics.files import sha256_of
from basics.messages import nearest
from scorers.errors import ScorerSettingsError, WrongWeightsError
from scorers.images import Preprocess, prepare_batch
from scorers.networks.digest import digest_of
from scorers.networks.inference import Runner
from scorers.networks.state_dict import first_finding
from scorers.weights.fetch import existing_file
from scorers.weights.tensors import load_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from scorers.protocol import BuildContext


class FeatureNetwork(Protocol):
    """A network that turns images into feature vectors."""

    @property
    def digest(self) -> str:
        """A digest of weights and preprocessing: networks with equal digests give the same features."""
        ...

    def embed(self, images: Sequence[Tensor]) -> Tensor:
        """Embed n >= 1 images, uint8 [3, h, w] of any sizes: float32 [n, d] on the CPU."""
        ...


class InceptionFeatures:
    """The Inception network that defines FID, including the resizing of TensorFlow 1; d = 2048.

    The network is torch-fidelity's, but the weights are loaded here: its own loader, like that of torchmetrics, opens a
    file in a way that may run code.

    Raises:
        WrongWeightsError: the file does not hold this network's weights.
    """

    def __init__(self, weights_file: Path, device: str = "cpu", *, in_turns: bool = False) -> None:
        self._network = _make_inception(load_tensors(weights_file), weights_file)
        self._runner = Runner(self._network, device, in_turns=in_turns)
        self.digest = digest_of("inception-2015-12-05", sha256_of(weights_file))

    def embed(self, images: Sequence[Tensor]) -> Tensor:
        """Embed the images: float32 [n, 2048] on the CPU."""
        return self._runner.map(images, lambda batch: self._network(torch.stack(batch).to(self._runner.device))[0])


class TimmFeatures:
    """The pooled output of a timm network, before its classifier.

    Images are resized to a square, ignoring their aspect ratio, so that the whole picture counts. Renders are mostly
    square anyway.

    A vision transformer that takes images of one size only has its position embeddings resampled for another, as timm
    does it.

    Args:
        network: an architecture of timm, or one with the tag of its weights, as `vit_small_patch14_dinov2.lvd142m`: the
            normalisation is that of the tag.

    Raises:
        ScorerSettingsError: timm has no such network, or it does not take the input size.
        WrongWeightsError: the file does not hold this network's weights.
    """

    def __init__(
        self,
        network: str,
        weights_file: Path,
        *,
        input_size: int | None = None,
        device: str = "cpu",
        in_turns: bool = False,
    ) -> None:
        self._network = _load_timm(network, load_tensors(weights_file), weights_file)
        default = _made_for(self._network, network, input_size)
        self._network.eval().requires_grad_(requires_grad=False)
        self._runner = Runner(self._network, device, in_turns=in_turns)
        self.preprocess = timm_preprocess(network, default, input_size)
        self.digest = digest_of(network, sha256_of(weights_file), repr(self.preprocess))

    def embed(self, images: Sequence[Tensor]) -> Tensor:
        """Embed the images: float32 [n, d] on the CPU."""
        return self._runner.map(images, self._forward)

    def _forward(self, batch: list[Tensor]) -> Tensor:
        inputs = prepare_batch(batch, self.preprocess, self._runner.device)
        pooled: Tensor = self._network.forward_head(self._network.forward_features(inputs), pre_logits=True)
        return pooled.flatten(1)


def shared_timm(network: str, weights: Path, input_size: int | None, context: BuildContext) -> TimmFeatures:
    """Return a timm network with these weights, loaded once in each context.

    Raises:
        ScorerSettingsError, WrongWeightsError: as `TimmFeatures`.
        MissingWeightsError: the weight file is missing.
    """

    def load() -> TimmFeatures:
        path = existing_file(weights, "weights")
        return TimmFeatures(network, path, input_size=input_size, device=context.device, in_turns=context.in_turns)

    return context.shared.get(("timm", network, weights, input_size, context.device), load)


def timm_preprocess(network: str, default: Mapping[str, Any], input_size: int | None) -> Preprocess:
    """Return the preprocessing that a network was trained with, by timm's `default_cfg`, or at another input size.

    Raises:
        ScorerSettingsError: the network does not take the input size.
    """
    own = int(default["input_size"][-1])
    if input_size not in (None, own) and default.get("fixed_input_size"):
        raise ScorerSettingsError(
            f"network {network!r} takes images of {own} pixels only, got input_size {input_size}: leave it out"
        )
    size = input_size or own
    return Preprocess(
        size=(size, size),
        mean=tuple(default["mean"]),
        std=tuple(default["std"]),
        interpolation="bilinear" if default.get("interpolation") == "bilinear" else "bicubic",
        resize_mode="squash",
    )


def _made_for(model: Any, network: str, input_size: int | None) -> Mapping[str, Any]:
    """Make a vision transformer of a fixed size take another, and return its `default_cfg` for it.

    Raises:
        ScorerSettingsError: the size is no multiple of its patches.
    """
    default: dict[str, Any] = model.pretrained_cfg
    if not isinstance(model, VisionTransformer) or not default.get("fixed_input_size"):
        return default
    own = int(default["input_size"][-1])
    if input_size in (None, own):
        return default
    patch = model.patch_embed.patch_size[0]
    if input_size % patch:
        raise ScorerSettingsError(
            f"network {network!r} takes images of {own} pixels, or of another multiple of {patch}, got input_size "
            f"{input_size}: give {max(round(input_size / patch), 1) * patch}, or leave it out"
        )
    model.set_input_size(img_size=(input_size, input_size))
    return {**default, "input_size": (3, input_size, input_size)}


def _make_inception(state: dict[str, Tensor], source: Path) -> torch.nn.Module:
    # torch-fidelity's constructor downloads or unpickles a file, and takes no state. So it gets a file in memory,
    # written here from tensors that were opened safely.
    safe = io.BytesIO()
    torch.save(state, safe)
    safe.seek(0)
    try:
        network: torch.nn.Module = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=safe
        )
    except RuntimeError as error:
        raise WrongWeightsError(
            f"{source} does not hold the FID Inception of torch-fidelity ({first_finding(error)}): give another file"
        ) from error
    return network


def _load_timm(network: str, state: dict[str, Tensor], source: Path) -> Any:
    """Make a timm network with these weights; every key must fit. The file may include the classifier or not.

    Raises:
        ScorerSettingsError: timm has no such network.
        WrongWeightsError: the weights do not fit it.
    """
    _check_name(network)
    config = timm.get_pretrained_cfg(network, allow_unregistered=True)
    classifier = state.get(f"{getattr(config, 'classifier', None)}.weight")
    classes = 0 if classifier is None else classifier.shape[0]
    model = timm.create_model(network, pretrained=False, num_classes=classes)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WrongWeightsError(
            f"{source} does not hold weights of {network!r} ({first_finding(error)}): give its weights"
        ) from error
    return model


def _check_name(network: str) -> None:
    """Refuse a name of a network, or a tag behind its point, that timm does not have."""
    architecture, _, tag = network.partition(".")
    if architecture not in timm.list_models():
        names = ", ".join(nearest(architecture, timm.list_models(), count=3)) or "those of timm.list_models()"
        raise ScorerSettingsError(f"timm has no network {network!r}: use one such as {names}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and network not in tagged:
        known = ", ".join(tagged) or "the name without a tag"
        raise ScorerSettingsError(f"timm has no weights {tag!r} of {architecture!r}: use {known}")
