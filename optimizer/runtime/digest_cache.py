"""A cache of the sha256 of files, which may be gigabytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from basics.files import replace_file, sha256_of
from basics.stamps import stamp_of
from optimizer.merging.files.hash_lookup import Candidate

SMALL_BYTES = 1 << 20  # smaller files, such as pictures, are hashed faster than they are looked up


class DigestCache:
    """A cache of the sha256 of files: a file is read again unless its stamp is the one that it was hashed with.

    Where a file system has no inodes or change times, nothing is taken from the cache.

    Args:
        path: the cache's file; None: only this object remembers.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._own: dict[str, Any] = {}  # what was hashed here; the file may be unwritable, or another's by now

    def of_file(self, path: Path, progress: Callable[[int], None] | None = None) -> str:
        """Return the sha256 of a single file.

        Args:
            progress: called with the bytes of each chunk that was read.
        """
        before = stamp_of(path)
        if before.size_bytes < SMALL_BYTES:
            return sha256_of(path, progress)
        key, stamp = str(path), list(before)
        loads: tuple[Callable[[], dict[str, Any]], ...] = (lambda: self._own, self._load)  # the file is read if needed
        for load in loads:
            match load().get(key):
                case [stored, str(digest)] if stored == stamp and before.is_reliable:
                    return digest
        digest = sha256_of(path, progress)
        if stamp_of(path) == before:  # else it was written to meanwhile, and the digest is of neither content
            self._own[key] = [stamp, digest]
            self._save(self._load() | {key: self._own[key]})
        return digest

    def of(self, candidate: Candidate, progress: Callable[[int], None] | None = None) -> str:
        """Return the sha256 of a model.

        Args:
            progress: called with the bytes of each chunk that was read.
        """
        return candidate.sha256(lambda file: self.of_file(file, progress))

    def _load(self) -> dict[str, Any]:
        """Read the cache; a missing or damaged one is empty."""
        if self._path is None:
            return {}
        try:
            entries = json.loads(self._path.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def _save(self, entries: Mapping[str, Any]) -> None:
        """Write the cache; if several workers write at once, the last one wins and the other files are hashed again."""
        if self._path is None:
            return
        with suppress(OSError):  # the cache only saves time
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, json.dumps(entries).encode())
