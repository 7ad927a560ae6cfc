"""What scorers read from disk, by content: weights and reference images must not change under a study."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from studies.errors import StudyChangedError
from studies.spec import StudySpec

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def scorer_fingerprints(spec: StudySpec) -> dict[str, str]:
    """Scorer name -> sha256 over the files its options name; files that do not exist yet are left out."""
    return {name: _digest(entry.options) for name, entry in spec.scorers.items()}


def refuse_changed_scorers(stored: Mapping[str, str], spec: StudySpec) -> None:
    """Raises StudyChangedError when a weight file or the reference images are no longer the same."""
    for name, digest in scorer_fingerprints(spec).items():
        if name in stored and stored[name] != digest:
            raise StudyChangedError(
                f"the weights or reference images of scorer {name!r} are not those the study began with: its scores "
                "could not be compared; put the old files back, or start a new study"
            )


def _digest(options: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for path in _files(options):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files(options: Mapping[str, Any]) -> Iterator[Path]:
    """Files named by absolute paths, in a fixed order; of folders, the pictures, and the architecture in use."""
    for name, value in sorted(options.items()):
        if isinstance(value, Mapping):
            yield from _files(value)
        elif isinstance(value, str) and Path(value).is_absolute():
            path = Path(value)
            if name == "config_dir":
                path /= f"{options.get('model')}.json"
            if path.is_file():
                yield path
            elif path.is_dir():
                yield from sorted(row for row in path.rglob("*") if row.suffix.lower() in PICTURES)
