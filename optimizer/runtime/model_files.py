"""Where the files that a stored study names are on this machine, and which of them may be read at all.

A study begun on one machine names paths of that machine. A worker elsewhere finds the same files by their content in
its model folders. What the study database says is not trusted beyond that: with model folders given, nothing outside
them is opened for it, wherever a path or a link leads.
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
from studies.records.values import ParentFile, StoredStudy
from studies.spec.fingerprints import named_paths
from studies.spec.study import StudySpec


class Located(NamedTuple):
    """A stored study's files as they are on this machine."""

    spec: StudySpec
    parents: tuple[ParentFile, ...]  # with paths and times of here


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolders:
    """Folders from which checkpoints, LoRAs, VAEs, scorers' weights and reference images may be read.

    Args:
        folders: none means that every path is taken as the study names it.
        digests: a file that keeps the sha256 of what was hashed, by path, size and time.
        also: further folders that may be read, but hold no models to look for: caches.
    """

    folders: tuple[Path, ...] = ()
    digests: Path | None = None
    also: tuple[Path, ...] = ()

    def located(self, study: StoredStudy, progress: Callable[[int], None] | None = None) -> Located:
        """Where every file of the study is here.

        Raises:
            CheckpointError: a parent is neither at its path nor in the folders.
            OutsideFoldersError: something else that the study reads lies outside the folders.
        """
        spec = study.spec
        if not self.folders:
            return Located(spec, study.parents)
        parents = tuple(self._parent(file, progress) for file in study.parents)
        loras = {
            name: lora.model_copy(update={"path": self._named(lora.path, f"the LoRA {name!r}")})
            for name, lora in spec.loras.items()
        }
        vae = None if spec.vae is None else self._named(spec.vae, "the VAE")
        for name, entry in spec.scorers.items():
            for path in named_paths(entry.options):
                self._require(path, f"scorer {name!r}")
        for probe in spec.probes.recipes:
            if probe.recipe is None:  # of a study that was begun by mergetune it is stored
                raise OutsideFoldersError(f"the recipe {probe.path} is not stored with this study, and is not read now")
        changes = {"parents": tuple(file.path for file in parents), "loras": loras, "vae": vae}
        return Located(spec.model_copy(update=changes), parents)

    def allows(self, path: Path) -> bool:
        """Whether a path, with every link followed, lies in one of the folders."""
        real = path.resolve()
        return not self.folders or any(real.is_relative_to(root.resolve()) for root in (*self.folders, *self.also))

    def _require(self, path: Path, what: str) -> Path:
        if not self.allows(path):
            raise OutsideFoldersError(
                f"{what} of this study is {path}, outside the model folders {_told(self.folders)}: put the file there, "
                "or name its folder with --models"
            )
        return path

    def _parent(self, file: ParentFile, progress: Callable[[int], None] | None) -> ParentFile:
        """At its own path where that may be read, or a file of the same content, with the time that one has."""
        own = Candidate.of(file.path) if self.allows(file.path) and file.path.exists() else None
        if own is not None and (own.size_bytes, own.mtime_ns) == (file.bytes, file.mtime_ns):
            return file
        known = Digests(self.digests)
        for candidate in (own,) if own is not None else self._candidates(model_name(file.path)):
            if candidate.size_bytes == file.bytes and known.of(candidate, progress) == file.sha256:
                return replace(file, path=candidate.path, mtime_ns=candidate.mtime_ns)
        if own is not None:
            return file  # it has changed: who hashes the parents refuses it
        raise CheckpointError(
            f"parent {file.letter} ({file.path.name}, sha256 {file.sha256[:10]}...) is not in the model folders "
            f"{_told(self.folders)}: put it there under any name, or name its folder with --models"
        )

    def _named(self, path: Path, what: str) -> Path:
        """A file of the same name, in whatever folder: its content is compared with the study's when it is loaded."""
        if self.allows(path) and path.exists():
            return path
        found = [candidate.path for candidate in self._candidates(model_name(path)) if candidate.path.name == path.name]
        if not found:
            raise OutsideFoldersError(
                f"{what} ({path.name}) is not in the model folders {_told(self.folders)}: put it there under its name, "
                "or name its folder with --models"
            )
        return found[0]

    def _candidates(self, name: str) -> Iterator[Candidate]:
        for folder in self.folders:
            for candidate in candidates(folder, {name}):
                if all(self.allows(path) for path in candidate.files):
                    yield candidate


class Digests:
    """sha256 of files, each read once: what has the size and time it had is not read again.

    Args:
        path: where they are kept; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def of(self, candidate: Candidate, progress: Callable[[int], None] | None = None) -> str:
        state = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in candidate.files]
        key, known = str(candidate.path), self._known()
        match known.get(key):
            case [stored, str(digest)] if stored == state:
                return digest
        digest = candidate.sha256(progress)
        self._keep(known | {key: [state, digest]})
        return digest

    def _known(self) -> dict[str, Any]:
        """Empty when there is nothing, or nothing that can be used."""
        if self._path is None:
            return {}
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _keep(self, known: Mapping[str, Any]) -> None:
        """Several workers may write at once: the last one wins, and the others' files are read again some day."""
        if self._path is None:
            return
        with suppress(OSError):  # it only saves time
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as temporary:
                temporary.write_text(json.dumps(known))


def _told(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))
