"""Files by their content: which of a folder's models have the sha256 that a recipe names."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from optimizer.errors import CheckpointError
from optimizer.merging.files.change_guard import Stamp, stamps_of
from optimizer.merging.files.checkpoint import SAFETENSORS_SUFFIX, TORCH_SUFFIXES, model_name, open_source
from optimizer.merging.files.diffusers_folder import INDEX
from optimizer.merging.files.sources import sha256_of_model


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model file, or the folder of a diffusers pipeline."""

    path: Path
    files: tuple[Path, ...]
    stamps: Mapping[Path, Stamp | None] = field(compare=False)  # of its files, as they were found

    @classmethod
    def of(cls, path: Path) -> Candidate:
        """Raises CheckpointError when nothing that could be a model is there."""
        files = (path,) if path.is_file() else open_source(path).files
        return cls(path, files, stamps_of(files))

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def mtime_ns(self) -> int:
        """When any of its files was last changed, in nanoseconds since the epoch."""
        return max(file.stat().st_mtime_ns for file in self.files)

    def sha256(self, progress: Callable[[int], None] | None = None) -> str:
        """As recipes name it: of the file, or of a folder as `sha256_of_model` has it."""
        return sha256_of_model(self.path, self.files, progress)


def candidates(folder: Path, names: Collection[str]) -> list[Candidate]:
    """Every model under a folder, each file once, those first that are called like what is wanted.

    Args:
        folder: searched through links as well.
        names: file names without suffix.
    """
    found: dict[tuple[int, int], Candidate] = {}
    for path in _models(folder):
        status = path.stat()
        if (status.st_dev, status.st_ino) not in found and (candidate := _candidate(path)):
            found[status.st_dev, status.st_ino] = candidate
    return sorted(found.values(), key=lambda row: (model_name(row.path) not in names, row.path))


def _models(folder: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = Path(here).resolve()
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        if INDEX in names:
            yield Path(here)
        for name in names:
            path = Path(here, name)
            if path.suffix.lower() in {SAFETENSORS_SUFFIX, *TORCH_SUFFIXES} and path.is_file():
                yield path


def _candidate(path: Path) -> Candidate | None:
    """None for the folder of a pipeline that cannot be read."""
    try:
        return Candidate.of(path)
    except CheckpointError:
        return None


def find_by_sha256(
    wanted: Collection[str], among: Iterable[Candidate], progress: Callable[[int], None] | None = None
) -> dict[str, Candidate]:
    """sha256 -> the file of those that are there; reads files in their order until all are found."""
    found: dict[str, Candidate] = {}
    for candidate in among:
        if len(found) == len(set(wanted)):
            break
        sha256 = candidate.sha256(progress)
        if sha256 in wanted:
            found.setdefault(sha256, candidate)
    return found
