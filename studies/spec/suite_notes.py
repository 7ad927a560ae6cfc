"""What a spec says of its suite that is not read, or is read as something else than it looks like."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from basics.names import from_home
from basics.texts import shortened
from studies.spec.sampler_names import apart
from studies.spec.samplers import OWN_SCHEDULES, ProgramName, in_program

_DYNAMIC: Final = re.compile(r"(?<!\\)\{[^{}]*\|[^{}]*\}|__[\w\-./*]+?__(?!_)")
_MOST_OF_A_PATH: Final = 500  # characters


def suite_notes(written: Mapping[str, Any], program: ProgramName, base_dir: Path) -> tuple[str, ...]:
    """Return what the user should know, one line each.

    Args:
        written: the spec as it is written.
        program: the suite's, which may be that of its pictures.
        base_dir: the folder of relative paths.
    """
    suite = written.get("suite")
    if not isinstance(suite, Mapping):
        return ()
    found = [*_unread_schedule(suite, "suite", program)]
    for place, section in (("suite", suite), ("final", written.get("final"))):
        prompts = section.get("prompts") if isinstance(section, Mapping) else None
        for number, prompt in enumerate(prompts if isinstance(prompts, (list, tuple)) else ()):
            where = f"{place}.prompts.{number}"
            if isinstance(prompt, Mapping):
                found += _unread_schedule({"sampler": suite.get("sampler"), **prompt}, where, program)
            text = prompt.get("prompt") if isinstance(prompt, Mapping) else prompt
            found += _picture(text, where, base_dir)
            if not {"dynamic", "wildcards"} & suite.keys():
                negative = prompt.get("negative") if isinstance(prompt, Mapping) else None
                found += [*_dynamic(text, where), *_dynamic(negative, f"{where}.negative")]
    if not {"dynamic", "wildcards"} & suite.keys():
        found += _dynamic(suite.get("negative"), "suite.negative")
    return tuple(found)


def _unread_schedule(settings: Mapping[str, Any], where: str, program: ProgramName) -> Iterator[str]:
    """Yield a note where a schedule is written for a sampler that has one of its own."""
    try:
        named = apart(settings)
        own = OWN_SCHEDULES.get(in_program(named["sampler"], None, program)[0])
    except (KeyError, TypeError, ValueError):  # there is none, or it is refused
        return
    if own is not None and named.get("schedule") not in (None, own):
        plain = named["sampler"].removesuffix("_a1111")
        yield (
            f"{where}: the schedule {named['schedule']} is not read, because {plain} of A1111 has its own, {own}; "
            f"ComfyUI's reads it: `sampler: {plain}_comfyui`"
        )


def _picture(text: Any, where: str, base_dir: Path) -> Iterator[str]:
    """Yield a note where a prompt is the name of a file."""
    if not isinstance(text, str) or len(text) > _MOST_OF_A_PATH:
        return
    try:
        is_file = (base_dir / from_home(Path(text))).is_file()
    except (OSError, ValueError, RuntimeError):  # it can be no path
        return
    if is_file:
        yield f"{where}: {text!r} is read as words, and there is such a file: write `image: {text}` for its settings"


def _dynamic(text: Any, where: str) -> Iterator[str]:
    """Yield a note where a text is written as for dynamic prompts."""
    if not isinstance(text, str) or not (signs := list(dict.fromkeys(_DYNAMIC.findall(text)))):
        return
    advice = "`wildcards: FOLDER`" if any(sign.startswith("__") for sign in signs) else "`dynamic: true`"
    shown = ", ".join(shortened(sign, 40) for sign in signs)
    yield f"{where}: {shown} is read as words: set {advice} under `suite` to have it replaced, or `dynamic: false`"
