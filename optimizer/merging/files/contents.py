"""What a file of torch.save holds instead of tensors by name, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from basics.messages import counted
from optimizer.merging.files.sources import abbreviated

_NAMELESS_LORA = (
    "a LoRA of cloneofsimo's lora_diffusion, whose factors have no names of layers (its own `lora_add MODEL LORA "
    "OUTPUT.ckpt 1.0 --mode upl-ckpt-v2` bakes it into a checkpoint)"
)
# Entries that files have, and what the file is.
_BY_ENTRIES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"state", "param_groups"}), "the state of an optimizer, from which training goes on"),
    (frozenset({"string_to_param"}), "an embedding (textual inversion)"),
)


def other_content(content: Any) -> str | None:
    """Return what a file holds; None for a mapping that has tensors by name, or mappings that may have them."""
    if isinstance(content, Tensor):
        return "a single tensor without a name"
    if isinstance(content, list | tuple):
        return _NAMELESS_LORA if _are_factors(content) else f"a {type(content).__name__} of {_elements(content)}"
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__} instead of tensors by name"
    return _other_mapping(content)


def _other_mapping(content: Mapping[Any, Any]) -> str | None:
    """Return what a mapping is that holds no model's tensors by name; None for others."""
    if not content:
        return "an empty dictionary"
    if known := next((what for keys, what in _BY_ENTRIES if keys <= content.keys()), None):
        return known
    if any(isinstance(value, list | tuple) and _are_factors(value) for value in content.values()):
        return _NAMELESS_LORA
    if any(isinstance(value, Tensor) for value in content.values()):
        return None if any(isinstance(key, str) for key in content) else "tensors by number instead of by name"
    seen: dict[int, tuple[int, bool]] = {}
    if any(holds_tensors(value, seen) for value in content.values()):
        return None
    return f"a dictionary without tensors (its entries: {abbreviated([str(key) for key in content])})"


def _are_factors(values: Sequence[Any]) -> bool:
    """Return whether these are pairs of a LoRA's factors, up [out, r] before down [r, in]; convolutions as well."""
    return (
        len(values) > 1
        and len(values) % 2 == 0
        and all(isinstance(value, Tensor) and value.dim() in {2, 4} for value in values)
        and all(up.shape[1] == down.shape[0] for up, down in zip(values[::2], values[1::2], strict=True))
    )


def _elements(values: Sequence[Any]) -> str:
    kinds = sorted({type(value).__name__ for value in values})
    return f"{counted(len(values), 'element')} without names ({abbreviated(kinds)})" if values else "no elements"


def holds_tensors(value: object, seen: dict[int, tuple[int, bool]], depth: int = 4) -> bool:
    """Return whether a value is a mapping with tensors, in it or in mappings inside it.

    Args:
        seen: id of each mapping that was looked at -> how deep, and the answer: it may be in itself, or in many places.
        depth: how many mappings may lie in each other.
    """
    if not isinstance(value, Mapping) or depth == 0:
        return False
    looked_at, found = seen.get(id(value), (0, False))
    if found or depth <= looked_at:
        return found
    seen[id(value)] = (depth, False)  # in case it contains itself
    found = any(isinstance(inner, Tensor) or holds_tensors(inner, seen, depth - 1) for inner in value.values())
    seen[id(value)] = (depth, found)
    return found
