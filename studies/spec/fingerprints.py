"""What may not change after a study has begun: its spec except the budget, and the files that it reads.

Parents are not checked here: their hashes are stored with the study.
"""

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
from studies.recipe.lora_files import files_of_lora
from studies.spec.scoring import ScorerEntry
from studies.spec.study import StudySpec

NOT_COMPARED = frozenset({"study", "budget", "method", "steps"})  # the last two are compared as operations
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def fingerprints(spec: StudySpec) -> dict[str, str]:
    """Return description -> sha256 of the scorers' files, the LoRAs and the VAE.

    Files that do not exist yet are left out.
    """
    digests = dict(scorer_fingerprint(name, entry) for name, entry in spec.scorers.items())
    for name, lora in spec.loras.items():
        digests[f"the LoRA {name!r}"] = _digest({"files": [str(path) for path in files_of_lora(lora.path)]})
    if spec.vae is not None:
        digests["the VAE"] = _digest({"path": str(spec.vae)})
    return digests


def scorer_fingerprint(name: str, entry: ScorerEntry) -> tuple[str, str]:
    """Return (description, sha256) of the files that a scorer's options name."""
    return files_of_scorer(name), _digest(entry.options)


def files_of_scorer(name: str) -> str:
    """Return the description of a scorer's files, which is their key among the fingerprints."""
    return f"the weights or reference images of scorer {name!r}"


def refuse_changed_files(stored: Mapping[str, str], spec: StudySpec) -> None:
    """Refuse to go on with files that have changed since the study began.

    Raises:
        StudyChangedError: a file has changed.
    """
    for what, digest in fingerprints(spec).items():
        if what in stored and stored[what] != digest:
            raise StudyChangedError(
                f"{what}: not the file the study began with, so scores could not be compared; put the old one back, "
                "or start a new study"
            )


def refuse_changed_spec(stored: StudySpec, spec: StudySpec) -> None:
    """Refuse a spec file that has changed since the study began, apart from its budget.

    Raises:
        StudyChangedError: it has changed.
    """
    stored, spec = stored.as_asked, spec.as_asked
    titles = {name: name for name in StudySpec.model_fields if name not in NOT_COMPARED}
    titles |= {"operations": "method` or `steps"}
    changed = [title for name, title in titles.items() if getattr(stored, name) != getattr(spec, name)]
    if "objective" in changed and _same_objective(stored, spec):
        changed.remove("objective")
    if "space" in changed and _same_space(stored, spec):
        changed.remove("space")
    if changed:
        raise StudyChangedError(
            f"`{'`, `'.join(changed)}` of the spec changed since the study began, and only `budget` may change: undo "
            "the change, start a new study, or resume this one by its name"
        )


def _same_objective(stored: StudySpec, spec: StudySpec) -> bool:
    """Return whether the objectives differ only in units that the file leaves out; a stored spec has them all."""
    before, now = stored.terms, spec.terms
    return before.keys() == now.keys() and all(
        term.weight == before[name].weight and term.unit in {None, before[name].unit} for name, term in now.items()
    )


def _same_space(stored: StudySpec, spec: StudySpec) -> bool:
    """Return whether the file's space, once resolved, is the stored one: presets spelt out, LoRAs' weights included."""
    for architecture in Architecture:
        with suppress(SpaceError):  # it may name blocks of another architecture
            if spec.search_space(architecture).settings == stored.space:
                return True
    return False


def _digest(options: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for path in _files(options):
        digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def named_paths(options: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the absolute paths among a scorer's options in a fixed order; for `config_dir`, the model's file in it."""
    for name, value in sorted(options.items()):
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(each, Mapping):
                yield from named_paths(each)
            elif isinstance(each, str) and Path(each).is_absolute():
                yield Path(each, f"{options.get('model')}.json") if name == "config_dir" else Path(each)


def _files(options: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files that a scorer reads: those its options name, and the images of the folders they name."""
    for path in named_paths(options):
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
