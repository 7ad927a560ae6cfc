"""Merge recipes that a checkpoint's metadata holds, whoever wrote them, as lines for people.

mergetune.recipe     ours, JSON
sd_merge_recipe      A1111, Forge and their extensions, JSON; models by sha256
sd_merge_models      what A1111 knows of those models, JSON: sha256 -> name, legacy hash, their own recipe
mecha_recipe         sd-mecha's text: one instruction a line, `&N` is the result of the Nth
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

RECIPE_FIELDS: Final = ("mergetune.recipe", "sd_merge_recipe", "sd_merge_models", "mecha_recipe")

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NUMBERS_IN_A_LINE: Final = 4
_AUTOV2_DIGITS: Final = 10  # A1111 and Civitai show a sha256 by these


def parsed(text: str) -> Any:
    """What a metadata value holds: a JSON object or list as such, all else as the text it is."""
    try:
        data = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text
    return data if isinstance(data, dict | list) else text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def recipes_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Field -> what it holds (see `parsed`), for the recipes that are there."""
    return {field: parsed(metadata[field]) for field in RECIPE_FIELDS if field in metadata}


def readable(field: str, recipes: Mapping[str, Any]) -> list[str]:
    """One of `recipes_in` as lines: models by name where the metadata knows it, numbers per place in rows."""
    value = recipes[field]
    if isinstance(value, str):
        return _instructions(value) if field == "mecha_recipe" else value.splitlines()
    known = recipes.get("sd_merge_models")
    names = _names(known) if isinstance(known, dict) else {}
    return list(_models(value) if field == "sd_merge_models" and isinstance(value, dict) else _tree(value, names))


def _instructions(text: str) -> list[str]:
    """sd-mecha's text with every instruction under the name by which later ones use it."""
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
    """A JSON value as indented `name: value` lines; what is null or empty says nothing and is left out."""
    rows = value.items() if isinstance(value, dict) else (("-", inner) for inner in value)
    for name, inner in rows:
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
            if name == "-" and inner_lines:  # the first line stands beside the dash
                inner_lines[0] = f"{label} {inner_lines[0].lstrip()}"
                yield from inner_lines
            else:
                yield from (label, *inner_lines)


def _one_line(value: Any, names: Mapping[str, str]) -> str | None:
    """A model's entry, or a short list of plain values; None for what needs more than a line."""
    if isinstance(value, list):
        plain = not any(isinstance(inner, dict | list) for inner in value)
        return ", ".join(_scalar(inner, names) for inner in value) if plain else None
    if set(value) <= {"letter", "name", "sha256"} and {"name", "sha256"} <= set(value):
        letter = f"{value['letter']} = " if "letter" in value else ""
        return f"{letter}{value['name']} {_short(str(value['sha256']))}"
    return None


def _number_rows(numbers: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Numbers per place, several to a line."""
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
    except OverflowError:  # an integer beyond all floats
        return str(value)


def _scalar(value: Any, names: Mapping[str, str]) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return f"{names[value]} {_short(value)}" if value in names else _short(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(digest: str) -> str:
    return f"[{digest[:_AUTOV2_DIGITS]}]"
