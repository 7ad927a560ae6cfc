"""Finding models by content: which files under a folder have the sha256 hashes that a recipe names."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from basics.files import sha256_of
from basics.names import plain
from basics.stamps import Stamp
from optimizer.errors import CheckpointError
from optimizer.merging.files.change_guard import stamps_of
from optimizer.merging.files.checkpoint import open_source
from optimizer.merging.files.names import DIFFUSERS_INDEX, SAFETENSORS_SUFFIX, TORCH_SUFFIXES, model_name
from optimizer.merging.files.sources import sha256_of_model
from studies.recipe.lora_files import files_of_lora

FILE_SUFFIXES = frozenset({SAFETENSORS_SUFFIX, *TORCH_SUFFIXES, ".bin"})  # PEFT names an adapter of torch.save .bin


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model file, a LoRA with its configuration, or the folder of a diffusers pipeline."""

    path: Path
    files: tuple[Path, ...]
    stamps: Mapping[Path, Stamp | None] = field(compare=False)  # of its files, when they were found

    @classmethod
    def of(cls, path: Path) -> Candidate:
        """Return the model at a path.

        Raises:
            CheckpointError: there is no file, and no pipeline's folder.
        """
        files = files_of_lora(path) if path.is_file() else open_source(path).files
        return cls(path, files, stamps_of(files))

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def sha256(self, hashed: Callable[[Path], str] = sha256_of) -> str:
        """Return the hash by which recipes name the model: see `sha256_of_model`.

        Args:
            hashed: returns the sha256 of a file.
        """
        return sha256_of_model(self.path, self.files, hashed)


def candidates(folder: Path, names: Collection[str]) -> list[Candidate]:
    """Return every model under a folder, each file once; models with one of the names come first.

    Args:
        folder: searched recursively, symbolic links included.
        names: file names without suffix.
    """
    wanted = set(map(plain, names))
    by_inode: dict[tuple[int, int], Candidate] = {}
    for path in _model_paths(folder):
        status = path.stat()
        if (status.st_dev, status.st_ino) not in by_inode and (candidate := _candidate(path)):
            by_inode[status.st_dev, status.st_ino] = candidate
    return sorted(
        by_inode.values(),
        key=lambda candidate: (
            wanted.isdisjoint(map(plain, (model_name(candidate.path), candidate.path.stem))),
            candidate.path,
        ),
    )


def walked(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder at or below `folder` with the names of its files, once, whatever links lead to it."""
    visited: set[Path] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        real = Path(parent).resolve()
        if real in visited:  # reached again through a symbolic link
            subfolders.clear()
            continue
        visited.add(real)
        yield Path(parent), names


def _model_paths(folder: Path) -> Iterator[Path]:
    for parent, names in walked(folder):
        if DIFFUSERS_INDEX in names:
            yield parent
        for name in names:
            path = parent / name
            if path.suffix.lower() in FILE_SUFFIXES and path.is_file():
                yield path


def _candidate(path: Path) -> Candidate | None:
    """Return the model at a path; None for a pipeline's folder that cannot be read."""
    try:
        return Candidate.of(path)
    except CheckpointError:
        return None


def find_by_sha256(
    hashes: Collection[str], among: Iterable[Candidate], hashed: Callable[[Candidate], str] = Candidate.sha256
) -> dict[str, Candidate]:
    """Return sha256 -> model for those of the hashes that are found.

    Args:
        hashes: sha256, 64 hex digits each.
        among: read in this order until all hashes are found.
        hashed: returns the sha256 of a model.
    """
    by_hash: dict[str, Candidate] = {}
    for candidate in among:
        if len(by_hash) == len(set(hashes)):
            break
        sha256 = hashed(candidate)
        if sha256 in hashes:
            by_hash.setdefault(sha256, candidate)
    return by_hash
