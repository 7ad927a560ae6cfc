"""WD taggers: timm networks that give each tag of Danbooru's vocabulary a probability.

https://huggingface.co/SmilingWolf, "wd-...-tagger-v3": timm's config.json and model.safetensors, and selected_tags.csv,
whose rows are the network's outputs in their order. Its columns are tag_id, name, category and count; categories are 0
for general tags, 4 for characters and 9 for ratings.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import timm

from basics.foreign import read_bytes, read_json
from basics.messages import first_line
from scorers.errors import WrongWeightsError
from scorers.images import centre, prepare_batch
from scorers.networks.features import timm_preprocess
from scorers.networks.inference import Runner
from scorers.weights.tensors import load_tensors

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from torch import Tensor

    from scorers.protocol import SuiteImages

_TAGS_BYTES = 16_000_000  # of a table of tags; the published ones have 0.3 MB
_PROMPT_CATEGORIES = ("0", "4")  # general tags and characters; a rating is no part of a prompt
_WHITE = 255.0
_COMPUTED = (
    "relative_position_index",
    "relative_coords_table",
    "attn_mask",
)  # by timm, of SwinV2; older files hold them


@dataclass(frozen=True, kw_only=True)
class TaggerFiles:
    """The files of a tagger."""

    weights: Path
    config: Path  # timm's config.json
    tags: Path  # selected_tags.csv


class Tagger:
    """A tagger in memory.

    Attributes:
        outputs: name of each tag -> the network's output for it; general tags and characters only.

    Raises:
        WrongWeightsError: the files are not those of a tagger, or do not belong together.
    """

    def __init__(self, files: TaggerFiles, *, key: Hashable, device: str = "cpu", in_turns: bool = False) -> None:
        config = _read_config(files.config)
        names, self.outputs = read_tags(files.tags)
        if config["num_classes"] != names:
            raise WrongWeightsError(
                f"{files.tags} has {names} tags, the network of {files.config} has {config['num_classes']} outputs: "
                "take both from one tagger"
            )
        self._network = _make_network(config, files)
        self._network.eval().requires_grad_(requires_grad=False)
        self._runner = Runner(self._network, device, in_turns=in_turns)
        self.preprocess = timm_preprocess(config["architecture"], self._network.pretrained_cfg, None)
        self._key = key

    def probabilities(self, images: SuiteImages) -> Tensor:
        """Return the probability of every output for each image: float64 [n, outputs] in 0..1."""
        logits = images.memo(("tagger", self._key), lambda: self._runner.map(images.images, self._logits))
        return logits.double().sigmoid()

    def _logits(self, batch: list[Tensor]) -> Tensor:
        inputs = prepare_batch([_on_white_square(image) for image in batch], self.preprocess, self._runner.device)
        logits: Tensor = self._network(inputs.flip(1))  # trained on BGR
        return logits


def read_tags(path: Path) -> tuple[int, dict[str, int]]:
    """Read a table of tags.

    Returns:
        The number of its rows, and the names of general tags and characters with the numbers of their rows.

    Raises:
        WrongWeightsError: it is not such a table.
    """
    try:
        text = read_bytes(path, _TAGS_BYTES).decode()
        rows = [(row["name"], row["category"]) for row in csv.DictReader(io.StringIO(text))]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise WrongWeightsError(
            f"{path} is not a table of tags with the columns name and category ({first_line(error)}): give the tagger's"
        ) from error
    return len(rows), {name: index for index, (name, category) in enumerate(rows) if category in _PROMPT_CATEGORIES}


def _on_white_square(image: Tensor) -> Tensor:
    """Pad an image [3, h, w] with white to a square, before it is resized, as the taggers were trained."""
    size = max(image.shape[-2:])
    return centre(image, (size, size), _WHITE)


def _read_config(path: Path) -> dict[str, Any]:
    """Read timm's config.json.

    Raises:
        WrongWeightsError: it is not JSON, or names no network of timm's.
    """
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise WrongWeightsError(f"{path} is not JSON ({first_line(error)}): give the tagger's") from error
    known = isinstance(config, dict) and isinstance(config.get("num_classes"), int)
    if not known or config.get("architecture") not in timm.list_models():
        raise WrongWeightsError(f"{path} names no network of timm's with num_classes: give the tagger's config.json")
    return dict(config)


def _make_network(config: dict[str, Any], files: TaggerFiles) -> Any:
    """Make the network with its weights; every key must fit.

    Raises:
        WrongWeightsError: timm cannot build it, or the weights are not its own.
    """
    arguments = {"global_pool": config.get("global_pool"), **config.get("model_args", {})}
    try:
        network = timm.create_model(
            config["architecture"],
            pretrained=False,
            pretrained_cfg=config.get("pretrained_cfg"),
            num_classes=config["num_classes"],
            **arguments,
        )
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
        raise WrongWeightsError(f"timm cannot build the network of {files.config} ({first_line(error)})") from error
    state = {name: tensor for name, tensor in load_tensors(files.weights).items() if not name.endswith(_COMPUTED)}
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WrongWeightsError(
            f"{files.weights} does not hold the weights of {config['architecture']!r} in {files.config}: "
            "take both from one tagger"
        ) from error
    return network
