"""Detection of quantised weights: codes that mean nothing without their scales, and must not be taken for numbers.

They are told by dtype, because every program names its scales in its own way: weights are floating-point numbers, so
integers in a weight's place are codes (int8 with scales, two 4-bit numbers in a byte). Floats of 8 bits are plain
numbers, unless something beside the layer's weight and bias belongs to it: then that is their scale. They are codes
as well where they stand under a name made of that of a weight which is not there (`to_q.weight._data`). Scales may also
stand apart, below a prefix of their own (`scale_weights.<key of the weight>`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import torch

from basics.messages import counted
from optimizer.errors import CheckpointError
from optimizer.families.registry import model_family
from optimizer.merging.files.layout import is_live, stored_part
from optimizer.merging.files.sources import TensorInfo
from search_spaces.blocks import EMA, OTHER, Architecture, place_of

# Names that programs give to scales and code books: ComfyUI's scaled fp8 and its successors, bitsandbytes.
_SCALES = re.compile(
    r"(?:^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale|input_scale|comfy_quant|SCB|absmax|quant_map"
    r"|quant_state\.bitsandbytes__\w+|qweight|qzeros|wscales)$"
)
# Integers that are indices or counts in models that are not quantised.
_INDICES = (".position_ids", "position_ids", ".num_batches_tracked")
_PARAMETERS = ("weight", "bias")
_SCALE_WORD = re.compile(r"(?:^|_)scales?(?:_|$)")  # in the last part of a key, such as `scale` and `output_scale`


def refuse_quantised(
    infos: Mapping[str, TensorInfo], name: str, is_part: Callable[[str], bool] = lambda _: True
) -> None:
    """Refuse tensors that are quantised.

    Args:
        infos: the tensors of one model, or of a whole checkpoint.
        name: of the file, for the message.
        is_part: as for `quantisation`.

    Raises:
        CheckpointError: they are.
    """
    if reason := quantisation(infos, is_part):
        raise CheckpointError(
            f"{name} is quantised and cannot be read as weights ({reason}): "
            "use the fp16, bf16 or fp32 file it was made from"
        )


def quantisation(infos: Mapping[str, TensorInfo], is_part: Callable[[str], bool] = lambda _: True) -> str | None:
    """Say by which of its tensors a model is quantised; None if it is not.

    Args:
        is_part: whether a key belongs to a model; others may hold integers.
    """
    codes = [key for key, info in infos.items() if is_part(key) and (_is_code(key, info) or _is_packed(key, infos))]
    if codes:
        dtype = str(infos[codes[0]].dtype).removeprefix("torch.")
        return f"{len(codes)} tensors hold {dtype} codes instead of weights, such as {codes[0]}"
    scales = [key for key in infos if _SCALES.search(key)] or list(_scales_of_narrow_floats(infos))
    scales = scales or [key for key in infos if _is_scale_of_weight(key, infos)] or list(_scales_apart(infos))
    return f"its weights mean nothing without {counted(len(scales), 'scale')} such as {scales[0]}" if scales else None


def belongs_to_a_model(key: str) -> bool:
    """Return whether a key of a single file is in a U-Net, a text encoder or a VAE of any family."""
    return any(place_of(key, architecture) not in {OTHER, EMA} for architecture in Architecture)


def _is_code(key: str, info: TensorInfo) -> bool:
    """Return whether a tensor holds integers where a model has floating-point numbers; single numbers are counts."""
    if info.dtype.is_floating_point or key.endswith(_INDICES):
        return False
    is_parameter = key.rpartition(".")[2] in _PARAMETERS
    return is_parameter or (info.size > 1 and info.dtype != torch.bool)  # a mask is no code


def _is_packed(key: str, infos: Mapping[str, TensorInfo]) -> bool:
    """Return whether a tensor holds 8-bit floats in place of a model's weight, which is not there by its own name."""
    info = infos[key]
    if not info.dtype.is_floating_point or info.dtype.itemsize > 1 or info.size == 1 or key.endswith(_INDICES):
        return False
    weight = _weight_beside(key)
    return weight != key and weight not in infos and _is_live(weight)


def _is_scale_of_weight(key: str, infos: Mapping[str, TensorInfo]) -> bool:
    """Return whether a tensor is called a scale and stands beside a model's weight, of whatever dtype."""
    weight = _weight_beside(key)
    return bool(_SCALE_WORD.search(key.rpartition(".")[2])) and weight in infos and _is_live(weight)


def _weight_beside(key: str) -> str:
    """Return the key of the weight that a tensor would belong to; for a weight or a bias, its own."""
    layer, _, leaf = key.rpartition(".")
    if leaf in _PARAMETERS:
        return key
    before, is_within, _ = key.partition(".weight.")
    return f"{before if is_within else layer}.weight"


@cache
def _is_live(key: str) -> bool:
    """Return whether a model of any family has a weight, by its key in a single file or its name in its component."""
    for architecture in Architecture:
        family = model_family(architecture)
        keys = (key, family.keys.vae + key)  # a file of a VAE alone may lack the prefix
        for rank in (2, 4):  # linear layers and convolutions
            if any(is_live(name, architecture, rank) for name in keys):
                return True
            if any(stored_part(component, key, architecture, rank) for component in family.pipeline_classes):
                return True
    return False


def _scales_of_narrow_floats(infos: Mapping[str, TensorInfo]) -> Iterator[str]:
    """Yield the keys beside an 8-bit float weight that are neither weights nor biases."""
    layers = {
        key.removesuffix(".weight")
        for key, info in infos.items()
        if key.endswith(".weight") and info.dtype.is_floating_point and info.dtype.itemsize == 1
    }
    for key in infos:
        layer, _, leaf = key.rpartition(".")
        if leaf not in _PARAMETERS and (layer in layers or layer.removesuffix(".weight") in layers):
            yield key


def _scales_apart(infos: Mapping[str, TensorInfo]) -> Iterator[str]:
    """Yield the keys that hold the key of a weight within them, or that of its layer, and are scales of it.

    Beside a weight of any width they have a part that is called a scale; beside an 8-bit float they have fewer elements
    than the weight, or what would be its key is none of the model's (`scales.input_blocks_1_1_proj_in`).
    """
    weights = {key for key in infos if key.endswith(".weight") and len(infos[key].shape) > 1}
    names = {key: key for key in weights} | {key.removesuffix(".weight"): key for key in weights}
    narrow = {key for key in weights if infos[key].dtype.is_floating_point and infos[key].dtype.itemsize == 1}
    for key, info in infos.items():
        parts = key.split(".")
        if parts[-1] == "bias" or key in weights:
            continue
        is_called_scale = any(map(_SCALE_WORD.search, parts))
        if not (is_called_scale or narrow):
            continue
        weight = _weight_within(parts, names)
        if weight is None:
            if narrow and any(map(_SCALE_WORD.search, parts[:-1])):
                yield key
        elif (is_called_scale and _is_live(weight)) or (weight in narrow and info.size < infos[weight].size):
            yield key


def _weight_within(parts: Sequence[str], names: Mapping[str, str]) -> str | None:
    """Return the weight whose key, or whose layer's, a key has within it; the longest that is there.

    Args:
        parts: of the key, between its dots.
        names: key of a weight or of its layer -> key of the weight.
    """
    lengths = range(len(parts) - 1, 1, -1)
    found = (
        names.get(".".join(parts[start : start + length]))
        for length in lengths
        for start in range(len(parts) - length + 1)
    )
    return next(filter(None, found), None)
