"""What may not change under a study: its spec but for the budget, and what it reads from disk beside its parents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from basics.files import sha256_of
from search_spaces.blocks import Architecture
from search_spaces.errors import SpaceError
from studies.errors import StudyChangedError
from studies.spec.scoring import ScorerEntry
from studies.spec.study import StudySpec

FREE = frozenset({"study", "budget", "method", "steps"})  # of a spec; the last two are compared as its operations
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def fingerprints(spec: StudySpec) -> dict[str, str]:
    """What it is -> sha256 over the files its options name; files that do not exist yet are left out."""
    found = dict(scorer_fingerprint(name, entry) for name, entry in spec.scorers.items())
    found |= {f"the LoRA {name!r}": _digest({"path": str(lora.path)}) for name, lora in spec.loras.items()}
    if spec.vae is not None:
        found["the VAE"] = _digest({"path": str(spec.vae)})
    return found


def scorer_fingerprint(name: str, entry: ScorerEntry) -> tuple[str, str]:
    """(what it is, sha256) of the files that a scorer's options name."""
    return files_of_scorer(name), _digest(entry.options)


def files_of_scorer(name: str) -> str:
    """What a scorer's files are called among the fingerprints."""
    return f"the weights or reference images of scorer {name!r}"


def refuse_changed_files(stored: Mapping[str, str], spec: StudySpec) -> None:
    """Raises StudyChangedError when a file is no longer the same."""
    for what, digest in fingerprints(spec).items():
        if what in stored and stored[what] != digest:
            raise StudyChangedError(
                f"{what}: not the file the study began with, so scores could not be compared; put the old one back, "
                "or start a new study"
            )


def refuse_changed_spec(stored: StudySpec, spec: StudySpec) -> None:
    """Raises StudyChangedError when a spec file is not the one the study began with, but for its budget."""
    stored, spec = stored.as_asked, spec.as_asked
    names = {name: name for name in StudySpec.model_fields if name not in FREE} | {"operations": "method` or `steps"}
    changed = [told for name, told in names.items() if getattr(stored, name) != getattr(spec, name)]
    if "objective" in changed and _same_objective(stored, spec):
        changed.remove("objective")
    if "space" in changed and _same_space(stored, spec):
        changed.remove("space")
    if changed:
        raise StudyChangedError(
            f"`{'`, `'.join(changed)}` of the spec changed since the study began, and only `budget` may: undo the "
            "change, start a new study, or resume this one by its name"
        )


def _same_objective(stored: StudySpec, spec: StudySpec) -> bool:
    """Whether only units differ that the file does not give: they are written out when a study begins."""
    before, now = stored.terms, spec.terms
    return before.keys() == now.keys() and all(
        term.weight == before[name].weight and term.unit in {None, before[name].unit} for name, term in now.items()
    )


def _same_space(stored: StudySpec, spec: StudySpec) -> bool:
    """Whether the file's space is what the study's was understood as: a preset spelt out, weights of LoRAs among it."""
    for architecture in Architecture:
        with suppress(SpaceError):  # its blocks are those of the other one
            if spec.search_space(architecture).settings == stored.space:
                return True
    return False


def _digest(options: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for path in _files(options):
        digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def named_paths(options: Mapping[str, Any]) -> Iterator[Path]:
    """The absolute paths among a scorer's options, in a fixed order; of `config_dir`, the architecture in use."""
    for name, value in sorted(options.items()):
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(each, Mapping):
                yield from named_paths(each)
            elif isinstance(each, str) and Path(each).is_absolute():
                yield Path(each, f"{options.get('model')}.json") if name == "config_dir" else Path(each)


def _files(options: Mapping[str, Any]) -> Iterator[Path]:
    """What is read: files, and of folders the pictures."""
    for path in named_paths(options):
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from sorted(row for row in path.rglob("*") if row.suffix.lower() in PICTURES)
