"""Replace everything in a spec that depends on other files or spellings, before it is checked and stored.

These are names in other spellings, variants and wildcards in prompts, and the settings of published pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from basics.names import with_plain_keys
from studies.spec.dynamic_prompts import expand_spec
from studies.spec.samplers import PROGRAMS
from studies.spec.suite import in_usual_spelling
from studies.spec.suite_notes import suite_notes

_WITH_PROMPTS: Final = ("suite", "final")  # sections


@dataclass(frozen=True, kw_only=True)
class ResolvedSpec:
    """A spec with everything that was read with it."""

    data: Any  # which is not checked yet, and may be anything
    notes: tuple[str, ...]  # what the user should know of it, one line each


def resolved_spec(data: Any, base_dir: Path) -> ResolvedSpec:
    """Resolve a spec.

    Args:
        data: the spec as it is written.
        base_dir: the folder of relative paths.

    Raises:
        ValueError: two keys are the same, a prompt, wildcard or picture cannot be read, or pictures do not agree.
    """
    written = _in_usual_form(with_plain_keys(data))
    resolved, of_pictures = _with_pictures(expand_spec(written, base_dir), base_dir)
    return ResolvedSpec(data=resolved, notes=(*of_pictures, *_notes_of_suite(written, resolved, base_dir)))


def _in_usual_form(spec: Any) -> Any:
    """Return a spec with the names of its suite as they are usually spelled, and a prompt alone as a list of one."""
    if not isinstance(spec, Mapping):
        return spec
    sections = {name: spec[name] for name in _WITH_PROMPTS if isinstance(spec.get(name), Mapping)}
    changed = {
        name: {**section, "prompts": [section["prompts"]]} if isinstance(section.get("prompts"), str) else section
        for name, section in sections.items()
    }
    if "suite" in changed:
        changed["suite"] = in_usual_spelling(changed["suite"])
    return {**spec, **changed}


def _with_pictures(spec: Any, base_dir: Path) -> tuple[Any, tuple[str, ...]]:
    """Return a spec with the settings of its pictures, and what the user should know of them."""
    if not _names_pictures(spec):
        return spec, ()
    from studies.spec.published.suites import with_pictures  # it loads Pillow

    return with_pictures(spec, base_dir)


def _names_pictures(spec: Any) -> bool:
    """Return whether a prompt of a spec is a picture."""
    sections = [spec.get(name) for name in _WITH_PROMPTS] if isinstance(spec, Mapping) else []
    lists = [section.get("prompts") for section in sections if isinstance(section, Mapping)]
    prompts = [prompt for each in lists if isinstance(each, (list, tuple)) for prompt in each]
    return any(isinstance(prompt, Mapping) and "image" in prompt for prompt in prompts)


def _notes_of_suite(written: Any, resolved: Any, base_dir: Path) -> tuple[str, ...]:
    """Return what the user should know of the suite as it is written; nothing where it is refused for its program."""
    suite = resolved.get("suite") if isinstance(resolved, Mapping) else None
    program = suite.get("program", "a1111") if isinstance(suite, Mapping) else None
    return suite_notes(written, program, base_dir) if program in PROGRAMS else ()
