"""Prefixes that wrappers and training programs put before the names of a model's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optimizer.errors import CheckpointError
from optimizer.families.registry import model_families
from optimizer.merging.files.sources import Source, Stored

# Parts of a key that no model has, but what torch's wrappers add: DataParallel and its successors, torch.compile, FSDP,
# and Lightning's; and the entry of a saved dictionary whose names were joined.
_WRAPPERS = frozenset(
    {
        "module",
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
        "state_dict",
    }
)


def without_wrappers(source: Source) -> Source:
    """Return a source whose tensors are named as they were before a model was wrapped, with a note.

    Raises:
        CheckpointError: two of its tensors then have one name.
    """
    names = {key: ".".join(part for part in key.split(".") if part not in _WRAPPERS) for key in source.tensors}
    changed = [key for key, name in names.items() if name != key]
    if not changed:
        return source
    tensors = renamed(source.tensors, names, str(source.files[0]))
    found = sorted({part for key in changed for part in key.split(".")} & _WRAPPERS)
    note = f"{len(changed)} tensors have {', '.join(f'`{part}`' for part in found)} in their names: taken out"
    return replace(source, tensors=tensors, notes=(*source.notes, note))


def without_outer_prefix(tensors: Mapping[str, Stored], name: str) -> tuple[dict[str, Stored], list[str]]:
    """Take away what stands before the U-Net's usual prefix, or in its place; return the tensors, and notes.

    Tensors of other models below the same prefix lose it as well.

    Args:
        name: of the file, for messages.

    Raises:
        CheckpointError: there are several U-Nets, and none below the usual prefix; or two tensors then have one name.
    """
    usual = {"", *(family.keys.unet for family in model_families())}
    for family in model_families():
        convolution, unet = family.keys.first_convolution, family.keys.unet
        if convolution is None or not family.keys.bare_unet:
            continue
        found = _prefixes_of_unets(tensors, convolution.removeprefix(unet))
        if not found or found & usual:
            continue
        if len(found) > 1:
            raise CheckpointError(
                f"{name} holds several U-Nets, below {' and '.join(sorted(found))}: keep the one that is meant, "
                f"below {unet}"
            )
        (prefix,) = found
        outer = prefix.removesuffix(unet)
        names = {key: _moved(key, prefix, outer, family.keys.bare_unet, unet) for key in tensors}
        count = sum(new != key for key, new in names.items())
        return renamed(tensors, names, name), [f"{count} tensors stand below the prefix `{outer}`: taken off"]
    return dict(tensors), []


def _prefixes_of_unets(tensors: Mapping[str, Stored], convolution: str) -> set[str]:
    """Return what stands before the names of each U-Net that is there with its decoding half.

    Args:
        convolution: name of the first convolution's weight within a U-Net.
    """
    found = {key.removesuffix(convolution) for key in tensors if key.endswith(convolution)}
    usable = {prefix for prefix in found if not prefix or prefix.endswith(".")}
    return {prefix for prefix in usable if any(key.startswith(f"{prefix}output_blocks.") for key in tensors)}


def _moved(key: str, prefix: str, outer: str, beginnings: tuple[str, ...], unet: str) -> str:
    """Return a key without the outer prefix, below the U-Net's usual one if it is the U-Net's."""
    if not key.startswith(outer):
        return key
    if key.startswith(prefix) and key.removeprefix(prefix).startswith(beginnings):
        return unet + key.removeprefix(prefix)
    return key.removeprefix(outer)


def renamed(tensors: Mapping[str, Stored], names: Mapping[str, str], name: str) -> dict[str, Stored]:
    """Return the tensors under other names, in unchanged order.

    Args:
        names: own name -> new name, for every tensor.
        name: of the file, for messages.

    Raises:
        CheckpointError: two of them have one name.
    """
    owners: dict[str, str] = {}
    for key in tensors:
        other = owners.setdefault(names[key], key)
        if other != key:
            raise CheckpointError(
                f"{name} has {other} and {key}, which are one tensor but for a prefix, and it is not known which is "
                "meant: keep one of the two models"
            )
    return {names[key]: stored for key, stored in tensors.items()}
