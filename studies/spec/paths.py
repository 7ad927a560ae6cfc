"""The paths of a spec's files. Equal files are equal wherever they lie: a path may change if its content does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basics.names import is_same, plain
from studies.spec.fingerprints import named_paths, with_paths
from studies.spec.scoring import ScorerEntry
from studies.spec.search import ProbeSettings
from studies.spec.study import LoraSettings, StudySpec
from studies.spec.suite import SuiteSettings


def paths_of(spec: StudySpec) -> tuple[Path, ...]:
    """List the paths of all files that are read while a study runs."""
    return tuple(_paths(spec))


def _paths(spec: StudySpec) -> Iterator[Path]:
    yield from spec.parents
    yield from (lora.path for lora in spec.loras.values())
    if spec.vae is not None:
        yield spec.vae
    yield from (folder for folder in (spec.suite.embeddings, spec.suite.lora_folder) if folder is not None)
    yield from (lora.path for lora in spec.suite.loras)
    for entry in spec.scorers.values():
        yield from named_paths(entry.options)


def folders_of(spec: StudySpec) -> tuple[Path, ...]:
    """List the folders of these files, each once."""
    return tuple(dict.fromkeys(path if path.is_dir() else path.parent for path in paths_of(spec)))


def with_paths_of(stored: StudySpec, spec: StudySpec) -> StudySpec:
    """Return a stored spec with the paths of another of the same files; what they hold is not looked at.

    What differs in more than its path stays as it is stored.
    """
    changes: dict[str, Any] = {
        "parents": _parents(stored, spec),
        "loras": {name: _lora(lora, spec.loras.get(plain(name))) for name, lora in stored.loras.items()},
        "scorers": {name: _scorer(entry, spec.scorers.get(plain(name))) for name, entry in stored.scorers.items()},
        "probes": _with_recipes_of(stored, spec),
    }
    if stored.vae is not None and spec.vae is not None:
        changes["vae"] = spec.vae
    changes["suite"] = _suite(stored.suite, spec.suite)
    return stored.model_copy(update=changes)


def _parents(stored: StudySpec, spec: StudySpec) -> tuple[Path, ...]:
    """Return the parents of `spec`; one that is another parent of the study has not moved but changed its letter."""
    if len(stored.parents) != len(spec.parents):
        return stored.parents
    pairs = zip(stored.parents, spec.parents, strict=True)
    return tuple(old if new in stored.parents else new for old, new in pairs)


def _lora(stored: LoraSettings, other: LoraSettings | None) -> LoraSettings:
    return stored if other is None else stored.model_copy(update={"path": other.path})


def _suite(stored: SuiteSettings, other: SuiteSettings) -> SuiteSettings:
    changes: dict[str, Any] = {
        name: getattr(other, name)
        for name in ("embeddings", "lora_folder")
        if getattr(stored, name) is not None and getattr(other, name) is not None
    }
    if stored.loras and len(stored.loras) == len(other.loras):
        pairs = zip(stored.loras, other.loras, strict=True)
        changes["loras"] = tuple(old.model_copy(update={"path": new.path}) for old, new in pairs)
    return stored.model_copy(update=changes)


def _scorer(stored: ScorerEntry, other: ScorerEntry | None) -> ScorerEntry:
    """Return a scorer with the other's paths; an option that only looks like a path is kept."""
    if other is None:
        return stored
    pairs = zip(named_paths(stored.options), named_paths(other.options), strict=False)
    places = {old: new for old, new in pairs if new.exists() or is_same(new.name, old.name)}
    return stored.model_copy(update={"options": with_paths(stored.options, places)})


def _with_recipes_of(stored: StudySpec, spec: StudySpec) -> ProbeSettings:
    recipes = stored.probes.recipes
    if len(recipes) == len(spec.probes.recipes):
        pairs = zip(recipes, spec.probes.recipes, strict=True)
        recipes = tuple(old.model_copy(update={"path": new.path}) for old, new in pairs)
    return stored.probes.model_copy(update={"recipes": recipes})
