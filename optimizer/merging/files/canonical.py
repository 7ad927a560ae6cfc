"""One name for every tensor: the single-file layout of Stable Diffusion, whatever a file calls things.

Every repair and every thing left aside is told in a note; what cannot be understood without doubt is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from optimizer.errors import CheckpointError
from optimizer.families.registry import model_families
from optimizer.merging.files.sources import Stored

_TEXT_HEADS = ("embeddings.", "encoder.", "final_layer_norm.")

# Weights that mean something only together with a scale or a code book beside them: ComfyUI's scaled fp8 and its
# successors, bitsandbytes. Averaging them would give a file that loads and paints noise.
_QUANTISED = re.compile(
    r"(?:^|\.)(scaled_fp8|scale_weight|weight_scale|comfy_quant|absmax|quant_map|quant_state\.bitsandbytes__\w+)$"
)


def canonical(tensors: Mapping[str, Stored], name: str) -> tuple[dict[str, Stored], tuple[str, ...]]:
    """Tensors under their names in a single-file checkpoint, in the order they came, and notes.

    Args:
        tensors: as the file names them.
        name: the file's, for messages.

    Raises:
        CheckpointError: the weights are quantised.
    """
    _refuse_quantised(tensors, name)
    renamed, notes = _renamed(tensors)
    for key, stored in renamed.items():
        if key.endswith(".position_ids"):
            renamed[key], note = _positions(key, stored)
            notes += note
    return renamed, tuple(notes)


def _refuse_quantised(tensors: Mapping[str, Stored], name: str) -> None:
    scales = [key for key in tensors if _QUANTISED.search(key)]
    if scales:
        raise CheckpointError(
            f"{name} is quantised ({len(scales)} scales such as {scales[0]}) and cannot be merged: "
            "use the fp16 or fp32 checkpoint it was made from"
        )


def _renamed(tensors: Mapping[str, Stored]) -> tuple[dict[str, Stored], list[str]]:
    """Where a file has a tensor under both names, the canonical one counts: other programs read that one too."""
    homes = tuple(dict.fromkeys(home for family in model_families() for home in family.keys.clips))
    prefix, heads = _bare_unet(tensors)
    found: dict[str, Stored] = {}
    text, unet, doubled = 0, 0, []
    for key, stored in tensors.items():
        bare = key.startswith(heads)
        new = prefix + key if bare else _with_text_model(key, homes)
        if new != key and new in tensors:
            doubled.append(key)
            continue
        text += new != key and not bare
        unet += bare
        found[new] = stored
    notes = []
    if text:
        notes.append(f"{text} tensors of the text encoder lack `text_model.` in their names (as NAI's do): put in")
    if unet:
        notes.append(f"{unet} tensors of the U-Net lack the prefix `{prefix}`: put in")
    if doubled:
        notes.append(f"{len(doubled)} tensors are there under two names, those without `text_model.` are ignored")
    return found, notes


def _bare_unet(tensors: Mapping[str, Stored]) -> tuple[str, tuple[str, ...]]:
    """(the prefix that a U-Net's keys lack, how they begin); no beginnings where they lack none."""
    for family in model_families():
        prefix, heads = family.keys.unet, family.keys.bare_unet
        if heads and any(key.startswith(heads[0]) for key in tensors):
            return (prefix, ()) if any(key.startswith(prefix) for key in tensors) else (prefix, heads)
    return "", ()


def _with_text_model(key: str, homes: tuple[str, ...]) -> str:
    for home in homes:
        rest = key.removeprefix(home)
        if rest != key and rest.startswith(_TEXT_HEADS):
            return f"{home}text_model.{rest}"
    return key


def _positions(key: str, stored: Stored) -> tuple[Stored, list[str]]:
    """Positions as int64: old merges averaged them and cast them to half, which is how such files break.

    A reader that trusts them then looks up wrong words, so positions that are not 0, 1, 2 ... are told.
    """
    values, notes = stored.read(), []
    if values.is_floating_point():
        stored = Stored.of(values.double().round().long())
        notes.append(f"{key} is stored as {str(values.dtype).removeprefix('torch.')}: read as int64")
    found = stored.read().flatten()
    wrong = (found != torch.arange(found.numel())).nonzero().flatten()
    if wrong.numel():
        place = int(wrong[0])
        notes.append(
            f"{key} is damaged: {wrong.numel()} of {found.numel()} positions are wrong, "
            f"the first is {int(found[place])} instead of {place}; it is kept as read"
        )
    return stored, notes
