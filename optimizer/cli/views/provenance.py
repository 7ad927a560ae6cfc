"""Merge recipes in a checkpoint's metadata, whichever program wrote them, as readable lines.

mergetune.recipe     ours, JSON
sd_merge_recipe      A1111, Forge and their extensions, JSON; models by sha256
sd_merge_models      A1111's facts about those models, JSON: sha256 -> name, legacy hash, their own recipe
mecha_recipe         sd-mecha's text: one instruction per line, `&N` is the result of the Nth
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from basics.foreign import parse_json

RECIPE_FIELDS: Final = ("mergetune.recipe", "sd_merge_recipe", "sd_merge_models", "mecha_recipe")

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NUMBERS_IN_A_LINE: Final = 4
_AUTOV2_DIGITS: Final = 10  # A1111 and Civitai show this many digits of a sha256


def parsed(text: str) -> Any:
    """Parse a metadata value: a JSON object or list becomes one; any other text is returned as it is."""
    try:
        data = parse_json(text)
    except ValueError:
        return text
    return data if isinstance(data, dict | list) else text


def recipes_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return field -> value (see `parsed`) for every recipe field of the metadata."""
    return {field: parsed(metadata[field]) for field in RECIPE_FIELDS if field in metadata}


def readable(field: str, recipes: Mapping[str, Any]) -> list[str]:
    """Return one of `recipes_in` as lines, with models by name if the metadata has it and numbers per place in rows."""
    value = recipes[field]
    if isinstance(value, str):
        return _instructions(value) if field == "mecha_recipe" else value.splitlines()
    known = recipes.get("sd_merge_models")
    names = _names(known) if isinstance(known, dict) else {}
    return list(_models(value) if field == "sd_merge_models" and isinstance(value, dict) else _tree(value, names))


def _instructions(text: str) -> list[str]:
    """Return sd-mecha's text with each instruction preceded by the name that later ones use for its result."""
    lines = [line.strip() for line in text.splitlines()]
    if not lines or not lines[0].startswith("version"):
        return lines
    numbered = (line for line in lines[1:] if line and not line.startswith("#"))
    return [lines[0], *(f"&{number} {line}" for number, line in enumerate(numbered))]


def _names(models: Mapping[str, Any]) -> dict[str, str]:
    return {
        digest: str(entry["name"]) for digest, entry in models.items() if isinstance(entry, dict) and "name" in entry
    }


def _models(models: Mapping[str, Any]) -> Iterator[str]:
    for digest, entry in models.items():
        name = _names({digest: entry}).get(digest, "no name")
        recipe = entry.get("sd_merge_recipe") if isinstance(entry, dict) else None
        inner = parsed(recipe) if isinstance(recipe, str) else recipe
        kind = inner.get("type", "unknown program") if isinstance(inner, dict) else None
        yield f"{name} {_short(digest)}" + (f", itself a merge ({kind})" if inner else "")


def _tree(value: Any, names: Mapping[str, str], indent: str = "") -> Iterator[str]:
    """Yield a JSON value as indented `name: value` lines, without null and empty values."""
    entries = value.items() if isinstance(value, dict) else (("-", inner) for inner in value)
    for name, inner in entries:
        if inner is None or inner in ({}, [], ""):
            continue
        label = indent + ("-" if name == "-" else f"{name}:")
        if not isinstance(inner, dict | list):
            yield f"{label} {_scalar(inner, names)}"
        elif (one_line := _one_line(inner, names)) is not None:
            yield f"{label} {one_line}"
        elif isinstance(inner, dict) and all(map(_is_numeric, inner.values())):
            yield label
            yield from _number_rows(inner, indent + "  ")
        else:
            inner_lines = list(_tree(inner, names, indent + "  "))
            if name == "-" and inner_lines:  # the first line goes beside the dash
                inner_lines[0] = f"{label} {inner_lines[0].lstrip()}"
                yield from inner_lines
            else:
                yield from (label, *inner_lines)


def _one_line(value: Any, names: Mapping[str, str]) -> str | None:
    """Return a model's entry or a list of plain values as one line; None if it needs more."""
    if isinstance(value, list):
        plain = not any(isinstance(inner, dict | list) for inner in value)
        return ", ".join(_scalar(inner, names) for inner in value) if plain else None
    if set(value) <= {"letter", "name", "sha256"} and {"name", "sha256"} <= set(value):
        letter = f"{value['letter']} = " if "letter" in value else ""
        return f"{letter}{value['name']} {_short(str(value['sha256']))}"
    return None


def _number_rows(numbers: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Yield the numbers of all places, several per line."""
    width = max(map(len, numbers))
    cells = [f"{name:<{width}} {_number(value):<7}" for name, value in numbers.items()]
    for start in range(0, len(cells), _NUMBERS_IN_A_LINE):
        yield (indent + " ".join(cells[start : start + _NUMBERS_IN_A_LINE])).rstrip()


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(inner, int | float) for inner in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(_number, value))
    try:
        return f"{value:.4g}"
    except OverflowError:  # an integer too large for a float
        return str(value)


def _scalar(value: Any, names: Mapping[str, str]) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return f"{names[value]} {_short(value)}" if value in names else _short(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(digest: str) -> str:
    return f"[{digest[:_AUTOV2_DIGITS]}]"
