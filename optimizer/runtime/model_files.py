"""Where a stored study's files are on this machine, and which of them may be read at all.

A study that began on one machine names that machine's paths. A worker on another machine finds the same files in its
model folders by their content. The study database is not trusted beyond that: if model folders are given, no file
outside them is opened for it, wherever a path or a link leads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from basics.files import replacing
from optimizer.errors import CheckpointError, OutsideFoldersError
from optimizer.merging.files.checkpoint import model_name
from optimizer.merging.files.hash_lookup import Candidate, candidates
from studies.recipe.lora_files import files_of_lora
from studies.records.values import ParentFile, StoredStudy
from studies.spec.fingerprints import named_paths
from studies.spec.study import StudySpec


class LocatedFiles(NamedTuple):
    """A stored study's spec and parents with the paths of this machine."""

    spec: StudySpec
    parents: tuple[ParentFile, ...]  # with this machine's modification times, too


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolders:
    """Folders from which checkpoints, LoRAs, VAEs, scorers' weights and reference images may be read.

    Args:
        folders: if empty, every path is taken as the study names it.
        digests: a file that caches sha256 by path, size and modification time.
        also: further folders that may be read but are not searched for models, such as caches.
    """

    folders: tuple[Path, ...] = ()
    digests: Path | None = None
    also: tuple[Path, ...] = ()

    def locate(self, study: StoredStudy, progress: Callable[[int], None] | None = None) -> LocatedFiles:
        """Find every file of a study on this machine.

        Raises:
            CheckpointError: a parent is neither at its path nor in the folders.
            OutsideFoldersError: another file that the study reads is outside the folders.
        """
        spec = study.spec
        if not self.folders:
            return LocatedFiles(spec, study.parents)
        parents = tuple(self._parent(file, progress) for file in study.parents)
        loras = {
            name: lora.model_copy(update={"path": self._lora(lora.path, f"the LoRA {name!r}")})
            for name, lora in spec.loras.items()
        }
        vae = None if spec.vae is None else self._by_name(spec.vae, "the VAE")
        for name, entry in spec.scorers.items():
            for path in named_paths(entry.options):
                self._require(path, f"scorer {name!r}")
        for probe in spec.probes.recipes:
            if probe.recipe is None:  # mergetune stores recipes when a study begins
                raise OutsideFoldersError(
                    f"the recipe {probe.path} is not stored with this study, and recipe files are read only when a "
                    "study begins: start a new study"
                )
        changes = {"parents": tuple(file.path for file in parents), "loras": loras, "vae": vae}
        return LocatedFiles(spec.model_copy(update=changes), parents)

    def allows(self, path: Path) -> bool:
        """Return whether a path, with every link followed, is in one of the folders."""
        real = path.resolve()
        return not self.folders or any(real.is_relative_to(root.resolve()) for root in (*self.folders, *self.also))

    def _require(self, path: Path, what: str) -> Path:
        if not self.allows(path):
            raise OutsideFoldersError(
                f"{what} of this study is {path}, outside the model folders {_listed(self.folders)}: put the file "
                "there, or name its folder with --models"
            )
        return path

    def _parent(self, file: ParentFile, progress: Callable[[int], None] | None) -> ParentFile:
        """Find a parent at its own path if that may be read, else a file of the same content in the folders."""
        own = Candidate.of(file.path) if self.allows(file.path) and file.path.exists() else None
        if own is not None and (own.size_bytes, own.mtime_ns) == (file.bytes, file.mtime_ns):
            return file
        digests = DigestCache(self.digests)
        for candidate in (own,) if own is not None else self._candidates(model_name(file.path)):
            if candidate.size_bytes == file.bytes and digests.of(candidate, progress) == file.sha256:
                return replace(file, path=candidate.path, mtime_ns=candidate.mtime_ns)
        if own is not None:
            return file  # it has changed: hash_parents refuses it
        raise CheckpointError(
            f"parent {file.letter} ({file.path.name}, sha256 {file.sha256[:10]}...) is not in the model folders "
            f"{_listed(self.folders)}: put it there under any name, or name its folder with --models"
        )

    def _by_name(self, path: Path, what: str) -> Path:
        """Find a file by its name alone; its content is compared with the study's when it is loaded."""
        if self.allows(path) and path.exists():
            return path
        found = [candidate.path for candidate in self._candidates(model_name(path)) if candidate.path.name == path.name]
        if not found:
            raise OutsideFoldersError(
                f"{what} ({path.name}) is not in the model folders {_listed(self.folders)}: put it there under its "
                "name, or name its folder with --models"
            )
        return found[0]

    def _lora(self, path: Path, what: str) -> Path:
        """Find a LoRA by its name; the configuration beside it must be in the folders, too, wherever a link leads."""
        found = self._by_name(path, what)
        for file in files_of_lora(found):
            self._require(file, what)
        return found

    def _candidates(self, name: str) -> Iterator[Candidate]:
        for folder in self.folders:
            for candidate in candidates(folder, {name}):
                if all(self.allows(path) for path in candidate.files):
                    yield candidate


class DigestCache:
    """A cache of the sha256 of files: a file is read again only if its size or modification time has changed.

    Args:
        path: the cache's file; None stores nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def of(self, candidate: Candidate, progress: Callable[[int], None] | None = None) -> str:
        state = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in candidate.files]
        key, entries = str(candidate.path), self._load()
        match entries.get(key):
            case [stored, str(digest)] if stored == state:
                return digest
        digest = candidate.sha256(progress)
        self._save(entries | {key: [state, digest]})
        return digest

    def _load(self) -> dict[str, Any]:
        """Read the cache; a missing or damaged one is empty."""
        if self._path is None:
            return {}
        try:
            entries = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def _save(self, entries: Mapping[str, Any]) -> None:
        """Write the cache; if several workers write at once, the last one wins and the other files are hashed again."""
        if self._path is None:
            return
        with suppress(OSError):  # the cache only saves time
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as temporary:
                temporary.write_text(json.dumps(entries))


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))
