"""Image classifiers of deepghs, which are published as ONNX: a network, and meta.json with its labels.

They run by onnxruntime on the CPU, so that a score does not depend on the device. Images are resized to the network's
square, bilinear, and scaled to -1..1; the network ends in a softmax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from basics.foreign import in_place_of_model, read_json
from basics.messages import first_line
from scorers.errors import WrongWeightsError
from scorers.images import Preprocess, prepare

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from torch import Tensor

    from scorers.protocol import SuiteImages

_INPUT, _OUTPUT = "input", "output"
_TOLERANCE = 1e-3  # of the sum of a row in float32; networks are published in half precision too


class OnnxClassifier:
    """A classifier in memory.

    Attributes:
        labels: of the outputs, in their order.

    Raises:
        WrongWeightsError: the files are not those of such a classifier.
    """

    def __init__(self, network: Path, meta: Path, *, key: Hashable) -> None:
        self.labels = _read_labels(meta)
        self._session = _open(network)
        self.preprocess = _preprocess_of(self._session, network)
        if self._session.get_outputs()[0].shape[-1] != len(self.labels):
            raise WrongWeightsError(
                f"{network} does not give the {len(self.labels)} labels of {meta}: take both from one"
            )
        self._path, self._key = network, key

    def probabilities(self, images: SuiteImages) -> Tensor:
        """Return the probability of each label for each image: float64 [n, labels]; a row adds up to 1.

        Raises:
            WrongWeightsError: the network gives no probabilities.
        """
        return images.memo(("onnx classifier", self._key), lambda: self._all(images.images))

    def _all(self, images: Sequence[Tensor]) -> Tensor:
        found = torch.stack([*map(self._run, images)])
        total, least = float(found[0].sum()), float(found[0].min())
        if not (abs(total - 1) < _TOLERANCE and least >= 0):
            raise WrongWeightsError(
                f"{self._path} does not end in a softmax: expected probabilities that add up to 1, got {total:.4g}, "
                f"with {least:.4g} as the least: give the network as its author publishes it"
            )
        return found

    def _run(self, image: Tensor) -> Tensor:
        inputs = prepare(image.cpu(), self.preprocess)[None].numpy()
        (output,) = self._session.run([_OUTPUT], {_INPUT: inputs})
        return torch.from_numpy(output)[0].double()


def _read_labels(path: Path) -> tuple[str, ...]:
    """Read the labels from meta.json.

    Raises:
        WrongWeightsError: it has none.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise WrongWeightsError(f"{path} is not JSON ({first_line(error)}): give the classifier's") from error
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise WrongWeightsError(f"{path} has no list of labels: give the classifier's meta.json")
    return tuple(labels)


def _open(path: Path) -> Any:
    """Open a network; ONNX is data, and runs no code of the file's.

    Raises:
        WrongWeightsError: it is not ONNX.
    """
    import onnxruntime

    if (left := in_place_of_model(path)) is not None:
        raise WrongWeightsError(f"{path} {left}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what is wrong with a file is said below
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WrongWeightsError(f"{path} is not an ONNX network ({first_line(error)}): give another file") from error


def _preprocess_of(session: Any, path: Path) -> Preprocess:
    """Return the preprocessing for the network's input.

    Raises:
        WrongWeightsError: it does not take one image of a fixed size in RGB, or its ends have other names.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    named = [each.name for each in (*inputs, *outputs)] == [_INPUT, _OUTPUT]
    if not named or len(shape) != 4 or shape[1] != 3 or not all(isinstance(side, int) for side in shape[2:]):
        raise WrongWeightsError(
            f"{path} is not a classifier of deepghs: expected an input [n, 3, height, width] named {_INPUT!r} and an "
            f"output named {_OUTPUT!r}: give another file"
        )
    half = (0.5, 0.5, 0.5)
    return Preprocess(size=(shape[2], shape[3]), mean=half, std=half, interpolation="bilinear", resize_mode="squash")
