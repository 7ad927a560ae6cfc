"""Canonical tensor names: those of the family's single-file layout, whatever names a file uses.

Everything that is repaired or ignored gets a note; what is ambiguous is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from optimizer.families.registry import model_families, model_family
from optimizer.merging.files.layout import StoredPart, stored_part
from optimizer.merging.files.prefixes import without_outer_prefix
from optimizer.merging.files.quantised import belongs_to_a_model, refuse_quantised
from optimizer.merging.files.single_file import in_single_file
from optimizer.merging.files.sources import Stored, abbreviated
from search_spaces.blocks import Architecture
from search_spaces.errors import UnknownArchitectureError
from search_spaces.recognition import architecture_of

_TEXT_HEADS = ("embeddings.", "encoder.", "final_layer_norm.")


def canonical(tensors: Mapping[str, Stored], name: str) -> tuple[dict[str, Stored], tuple[str, ...]]:
    """Return the tensors under their names in a single-file checkpoint, in unchanged order, and notes.

    Args:
        tensors: under the file's own names.
        name: of the file, for messages.

    Raises:
        CheckpointError: the weights are quantised, a part of a fused tensor is missing, or there are several U-Nets.
    """
    tensors, outer_notes = without_outer_prefix(tensors, name)
    renamed, notes = _rename(tensors)
    notes = outer_notes + notes
    renamed, alias_notes = _without_aliases(renamed, name)
    notes += alias_notes
    refuse_quantised({key: stored.info for key, stored in renamed.items()}, name, belongs_to_a_model)
    for key, stored in renamed.items():
        if key.endswith(".position_ids"):
            renamed[key], position_notes = _integer_positions(key, stored)
            notes += position_notes
    return renamed, tuple(notes)


def _rename(tensors: Mapping[str, Stored]) -> tuple[dict[str, Stored], list[str]]:
    """Add the prefixes that keys lack; return the renamed tensors, and notes.

    Where a file has a tensor under both names, the canonical one is used, as other programs do.
    """
    clip_prefixes = tuple(dict.fromkeys(prefix for family in model_families() for prefix in family.keys.clips))
    unet_prefix, bare_beginnings = _bare_unet(tensors)
    renamed: dict[str, Stored] = {}
    text_count, unet_count, duplicates = 0, 0, []
    for key, stored in tensors.items():
        bare = key.startswith(bare_beginnings)
        new = unet_prefix + key if bare else _with_text_model(key, clip_prefixes)
        if new != key and new in tensors:
            duplicates.append(key)
            continue
        text_count += new != key and not bare
        unet_count += bare
        renamed[new] = stored
    notes = []
    if text_count:
        notes.append(f"{text_count} tensors of the text encoder lack `text_model.` in their names (as NAI's do): added")
    if unet_count:
        notes.append(f"{unet_count} tensors of the U-Net lack the prefix `{unet_prefix}`: added")
    if duplicates:
        notes.append(f"{len(duplicates)} tensors are there under two names: those without `text_model.` are ignored")
    return renamed, notes


def _without_aliases(tensors: Mapping[str, Stored], name: str) -> tuple[dict[str, Stored], list[str]]:
    """Rename what has diffusers' or transformers' names in a single file; return all tensors, and notes.

    Raises:
        CheckpointError: a query, key or value projection is missing where the usual file has all three in one tensor.
    """
    architecture = known_architecture(tensors)
    if architecture is None:
        return dict(tensors), []
    aliases = {
        key: part for key, stored in tensors.items() if (part := _alias(key, architecture, len(stored.info.shape)))
    }
    duplicates = [key for key, part in aliases.items() if part.key in tensors]
    parts = [(aliases.get(key, StoredPart(key)), row) for key, row in tensors.items() if key not in duplicates]
    notes = []
    used = [key for key in aliases if key not in duplicates]
    if used:
        notes.append(
            f"{len(used)} tensors have other names than in most checkpoints: {used[0]} is read as "
            f"{aliases[used[0]].key}, and so on"
        )
    if duplicates:
        notes.append(f"{len(duplicates)} tensors are there under two names and ignored: {abbreviated(duplicates)}")
    return in_single_file(parts, name), notes


def known_architecture(tensors: Mapping[str, Stored]) -> Architecture | None:
    """Return the family of a file's model; None if it is of no known one."""
    try:
        return architecture_of({key: stored.info.shape for key, stored in tensors.items()})
    except UnknownArchitectureError:
        return None


def _alias(key: str, architecture: Architecture, rank: int) -> StoredPart | None:
    """Return where the family's files store a tensor; None if its key is the usual one, or not known."""
    for prefix, component in model_family(architecture).keys.aliases.items():
        if key.startswith(prefix):
            part = stored_part(component, key.removeprefix(prefix), architecture, rank)
            if part is not None and part.key != key:
                return part
    return None


def _bare_unet(tensors: Mapping[str, Stored]) -> tuple[str, tuple[str, ...]]:
    """Return the prefix that the U-Net's keys lack, and how such keys begin; no beginnings where none lacks it."""
    for family in model_families():
        prefix, beginnings = family.keys.unet, family.keys.bare_unet
        if beginnings and any(key.startswith(beginnings[0]) for key in tensors):
            return (prefix, ()) if any(key.startswith(prefix) for key in tensors) else (prefix, beginnings)
    return "", ()


def _with_text_model(key: str, prefixes: tuple[str, ...]) -> str:
    """Insert `text_model.` after a text encoder's prefix where it is missing."""
    for prefix in prefixes:
        rest = key.removeprefix(prefix)
        if rest != key and rest.startswith(_TEXT_HEADS):
            return f"{prefix}text_model.{rest}"
    return key


def _integer_positions(key: str, stored: Stored) -> tuple[Stored, list[str]]:
    """Return a text encoder's position numbers as int64, and notes.

    Old merges averaged them and cast them to half precision, which damages them: a program that trusts them then looks
    up wrong positions. Positions other than 0, 1, 2 ... therefore get a note.
    """
    values, notes = stored.read(), []
    if values.is_floating_point():
        stored = Stored.of(values.double().round().long())
        notes.append(f"{key} is stored as {str(values.dtype).removeprefix('torch.')}: read as int64")
    positions = stored.read().flatten()
    wrong = (positions != torch.arange(positions.numel())).nonzero().flatten()
    if wrong.numel():
        first = int(wrong[0])
        notes.append(
            f"{key} is damaged: {wrong.numel()} of {positions.numel()} positions are wrong, "
            f"the first is {int(positions[first])} instead of {first}; it is kept as read"
        )
    return stored, notes
