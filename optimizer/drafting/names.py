"""Names in a first spec: of the study, of its LoRAs, and of files as seen from the spec's folder."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from pathlib import Path

from studies.spec.study import LONGEST_NAME


def study_name(stem: str) -> str:
    """Return a name for a study, given that of its file without suffix."""
    plain = "".join(sign if sign.isalnum() or sign in " .+-_" else "_" for sign in stem).strip()
    return (plain if plain[:1].isalnum() else f"study{plain}")[:LONGEST_NAME]


def lora_names(stems: Iterable[str]) -> tuple[str, ...]:
    """Return a name of letters and digits for each LoRA, no two alike.

    Args:
        stems: the names of their files without suffix.
    """
    names: list[str] = []
    for stem in stems:
        plain = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "_-") else "_" for sign in stem)
        base = plain if plain[:1].isalpha() else f"lora_{plain}"
        numbered = (base if number == 1 else f"{base}_{number}" for number in count(1))
        names.append(next(name for name in numbered if name not in names))
    return tuple(names)


def seen_from(folder: Path, path: Path) -> str:
    """Return a path as a spec in `folder` names it: relative if it lies there or below, else from the root on."""
    absolute = path.absolute()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)
