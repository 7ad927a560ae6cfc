"""The search for a stored study's files that are no longer where it names them: by content, under any name.

Files of the same name are tried first, so that where only a folder has moved nothing else is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from basics.names import is_same
from optimizer.merging.files.hash_lookup import Candidate, candidates, walked
from optimizer.merging.files.names import model_name
from optimizer.runtime.digest_cache import DigestCache
from scorers.config import WEIGHT_SUFFIXES
from studies.recipe.lora_files import files_of_lora
from studies.records.values import ParentFile
from studies.spec.fingerprints import IMAGE_SUFFIXES, Hash, files_at, named_paths, with_paths

NAMED_FILES = (".json",)  # found by their name, which says which architecture they describe


@dataclass(frozen=True, kw_only=True)
class MovedFiles:
    """A search in folders.

    Args:
        folders: searched with all that is below them.
        allows: says whether a file may be read.
        digests: remembers what was hashed.
        progress: called with the bytes of each chunk that was read.
    """

    folders: Sequence[Path]
    allows: Callable[[Path], bool]
    digests: DigestCache
    progress: Callable[[int], None] | None = None

    def models(self, path: Path) -> Iterator[Candidate]:
        """Yield the models of the folders, those with the name of `path` first."""
        for folder in self.folders:
            for candidate in candidates(folder, {model_name(path)}):
                if all(self.allows(file) for file in candidate.files):
                    yield candidate

    def parent(self, file: ParentFile, first: Sequence[Candidate] = ()) -> ParentFile | None:
        """Return a parent with the path of a model of its content; None if there is none.

        Args:
            first: looked at before the models of the folders.
        """
        for candidate in (*first, *self.models(file.path)):
            if candidate.size_bytes == file.bytes and self.digests.of(candidate, self.progress) == file.sha256:
                return replace(file, path=candidate.path)
        return None

    def model(self, path: Path, fingerprint: str | None, of: Callable[[Path, Hash], str]) -> Path | None:
        """Return the path of a LoRA or VAE of the same content; None if there is none.

        Args:
            path: where the study names it.
            fingerprint: of its content; None: unknown, so that its name decides.
            of: computes such a fingerprint.
        """
        allowed = self.allows(path) and all(map(self.allows, files_of_lora(path)))  # nothing else is even opened
        own = [path] if allowed and path.exists() else []
        for location in (*own, *(candidate.path for candidate in self.models(path))):
            if is_same(location.name, path.name) if fingerprint is None else of(location, self.hashed) == fingerprint:
                return location
        return None

    def options(self, options: Mapping[str, Any], fingerprint: str) -> dict[str, Any] | None:
        """Return a scorer's options with the paths of files and folders of the same content; None if they are not here.

        Args:
            fingerprint: of all that the options name, together.
        """
        paths = tuple(named_paths(options))
        for alike in (True, False):
            choices = [self._choices(path, alike=alike) for path in paths]
            found = self._match(hashlib.sha256(), choices, fingerprint)
            if found is not None:
                return with_paths(options, dict(zip(paths, found, strict=True)))
        return None

    def alike(self, path: Path) -> list[Path]:
        """List the files and image folders of the folders that have the name of a path."""
        return [location for location in (*self._files, *self._image_folders) if is_same(location.name, path.name)]

    def places(self, name: str) -> list[Path]:
        """List the folders, and all below them, that may be read; those of a name first."""
        found = [place for folder in self.folders for place, _ in walked(folder) if self.allows(place)]
        return sorted(dict.fromkeys(found), key=lambda place: not is_same(place.name, name))

    def _choices(self, path: Path, *, alike: bool) -> list[Path]:
        """List where what a scorer reads at a path may be now.

        Args:
            alike: whether only under its own name.
        """
        here = [path] if self.allows(path) else []
        there = [
            location
            for location in (*self._files, *self._image_folders)
            if is_same(location.name, path.name) or (not alike and _may_be(location, path))
        ]
        return [*here, *there] if path.exists() else [*there, *here]

    def _match(self, digested: Any, choices: Sequence[Sequence[Path]], fingerprint: str) -> tuple[Path, ...] | None:
        """Choose one location of each so that their files together have a fingerprint; None if none does.

        Args:
            digested: the digest of the locations chosen before.
        """
        if not choices:
            return () if digested.hexdigest() == fingerprint else None
        first, *others = choices
        for location in first:
            digest = digested.copy()
            digest.update(self._content(location))
            found = self._match(digest, others, fingerprint)
            if found is not None:
                return (location, *found)
        return None

    def _content(self, location: Path) -> bytes:
        """Return the digests of a file, or of a folder's images, one after the other; they are computed once."""
        if location not in self._contents:
            self._contents[location] = b"".join(bytes.fromhex(self.hashed(file)) for file in files_at(location))
        return self._contents[location]

    def hashed(self, path: Path) -> str:
        """Return the sha256 of a file, which is remembered."""
        return self.digests.of_file(path, self.progress)

    @cached_property
    def _contents(self) -> dict[Path, bytes]:
        return {}

    @cached_property
    def _files(self) -> list[Path]:
        """All files of the folders that may be read."""
        found = (Path(parent, name) for folder in self.folders for parent, names in walked(folder) for name in names)
        return sorted(path for path in found if self.allows(path) and path.is_file())

    @cached_property
    def _image_folders(self) -> list[Path]:
        """The folders that hold images, and those above them, up to the ones that are searched."""
        roots = set(self.folders)
        holders: set[Path] = set()
        for file in self._files:
            if file.suffix.lower() in IMAGE_SUFFIXES:
                above = [*file.parents]
                top = next(index for index, folder in enumerate(above) if folder in roots)
                holders.update(above[: top + 1])
        return sorted(holders)


def _may_be(location: Path, path: Path) -> bool:
    """Return whether a file or folder may be what was at a path, under another name."""
    if path.suffix.lower() in NAMED_FILES:
        return False
    if location.is_file():
        return bool(path.suffix) and location.suffix.lower() == path.suffix.lower()
    return path.suffix.lower() not in WEIGHT_SUFFIXES
