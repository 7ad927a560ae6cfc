"""Image classifiers of transformers, from the files that they are published in.

A folder has config.json (the architecture and its labels), preprocessor_config.json and weights. transformers has
renamed the layers of its networks since, and knows the old names, so it puts the tensors into the network; the file is
opened here, as every other.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils import logging as transformers_logging

from basics.foreign import read_json
from basics.messages import first_line
from scorers.errors import WrongWeightsError
from scorers.images import Preprocess, prepare_batch
from scorers.networks.inference import Runner
from scorers.weights.tensors import load_tensors

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from pathlib import Path

    from torch import Tensor

    from scorers.images import Interpolation
    from scorers.protocol import SuiteImages

#: Architecture, as config.json names it -> its classes in transformers.
ARCHITECTURES = {"vit": (ViTConfig, ViTForImageClassification), "beit": (BeitConfig, BeitForImageClassification)}

_INTERPOLATIONS: dict[Image.Resampling, Interpolation] = {
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


_RESCALE_FACTOR = 1 / 255


@dataclass(frozen=True, kw_only=True)
class ClassifierFiles:
    """The files of a classifier."""

    weights: Path
    config: Path
    preprocessor: Path


class ImageClassifier:
    """A classifier in memory.

    Attributes:
        labels: of the outputs, in their order.

    Raises:
        WrongWeightsError: the files are not those of such a classifier.
    """

    def __init__(
        self, files: ClassifierFiles, architecture: str, *, key: Hashable, device: str = "cpu", in_turns: bool = False
    ) -> None:
        config = _read_config(files.config, architecture)
        self.labels: tuple[str, ...] = tuple(config.id2label[index] for index in range(config.num_labels))
        self.preprocess = read_preprocess(files.preprocessor)
        self._network = _load_network(config, architecture, files)
        self._network.float().eval().requires_grad_(requires_grad=False)
        self._runner = Runner(self._network, device, in_turns=in_turns)
        self._key = key

    def probabilities(self, images: SuiteImages) -> Tensor:
        """Return the probability of each label for each image: float64 [n, labels]; a row adds up to 1."""
        logits = images.memo(("classifier", self._key), lambda: self._runner.map(images.images, self._logits))
        return logits.double().softmax(dim=-1)

    def _logits(self, batch: list[Tensor]) -> Tensor:
        logits: Tensor = self._network(prepare_batch(batch, self.preprocess, self._runner.device)).logits
        return logits


def read_preprocess(path: Path) -> Preprocess:
    """Read a preprocessor_config.json that resizes to a fixed height and width, and normalises.

    Raises:
        WrongWeightsError: it is not one, or does something else.
    """
    config = _read_mapping(path)
    size = config.get("size")
    if isinstance(size, int):
        size = {"height": size, "width": size}
    try:
        height, width = int(size["height"]), int(size["width"])  # type: ignore[index]
        mean, std = (tuple(float(value) for value in config[name]) for name in ("image_mean", "image_std"))
        resample = Image.Resampling(config.get("resample", Image.Resampling.BILINEAR))
    except (KeyError, TypeError, ValueError) as error:
        raise _not_a_preprocessor(path, first_line(error)) from error
    if resample not in _INTERPOLATIONS or len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise _not_a_preprocessor(path, "resampling or normalisation is another")
    if (difference := _difference(config)) is not None:
        raise _not_a_preprocessor(path, difference)
    return Preprocess(
        size=(height, width),
        mean=mean,
        std=std,
        interpolation=_INTERPOLATIONS[resample],
        resize_mode="squash",
    )


def _difference(config: dict[str, Any]) -> str | None:
    """Return what a preprocessor does otherwise than to resize, to scale to 0..1 and to normalise; None: nothing."""
    if config.get("do_center_crop"):
        return "it crops"
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if config.get(key, True) is not True:
            return f"it has {key}: false"
    scale = config.get("rescale_factor", _RESCALE_FACTOR)
    if not isinstance(scale, int | float) or not math.isclose(scale, _RESCALE_FACTOR, rel_tol=1e-6):
        return f"its rescale_factor is {str(scale)[:20]}, not 1/255"
    return None


def _not_a_preprocessor(path: Path, reason: str) -> WrongWeightsError:
    return WrongWeightsError(
        f"{path} does not say how to resize to a height and width and to normalise ({reason}): give the classifier's"
    )


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise WrongWeightsError(f"{path} is not JSON ({first_line(error)}): give the classifier's") from error
    if not isinstance(content, dict):
        raise WrongWeightsError(f"{path} is not a mapping in JSON: give the classifier's")
    return content


def _read_config(path: Path, architecture: str) -> Any:
    """Read a config.json.

    Raises:
        WrongWeightsError: it is that of another architecture.
    """
    content = _read_mapping(path)
    if content.get("model_type") != architecture:
        raise WrongWeightsError(
            f"{path}: expected a classifier with model_type {architecture!r}, got {content.get('model_type')!r}: "
            "give the scorer's own files"
        )
    kind, _ = ARCHITECTURES[architecture]
    try:
        return kind.from_dict(content)
    except Exception as error:
        raise WrongWeightsError(f"{path} does not describe a {architecture} ({first_line(error)})") from error


def _load_network(config: Any, architecture: str, files: ClassifierFiles) -> Any:
    """Make the network with its weights; every key must fit.

    Raises:
        WrongWeightsError: the weights are not its own.
    """
    state = load_tensors(files.weights)
    _, network = ARCHITECTURES[architecture]
    try:
        with _quiet():
            loaded, found = network.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float32
            )
    except (RuntimeError, ValueError) as error:
        raise _other_weights(files, "shapes differ") from error
    faults = [f"{what} {key}" for what in ("missing", "unexpected") for key in sorted(found[f"{what}_keys"])]
    if faults:
        raise _other_weights(files, ", ".join(faults[:3]))
    return loaded


def _other_weights(files: ClassifierFiles, reason: str) -> WrongWeightsError:
    return WrongWeightsError(
        f"{files.weights} does not hold the weights of the network in {files.config} ({reason}): "
        "take both from one classifier"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' reports and progress bars off the terminal."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
