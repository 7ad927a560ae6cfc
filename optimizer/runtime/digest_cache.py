"""A cache of the sha256 of files, which may be gigabytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from basics.files import open_to_write, replacing, sha256_of
from optimizer.merging.files.hash_lookup import Candidate

SMALL_BYTES = 1 << 20  # smaller files, such as pictures, are hashed faster than they are looked up


class DigestCache:
    """A cache of the sha256 of files: a file is read again only if its size or modification time has changed.

    Args:
        path: the cache's file; None stores nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def of_file(self, path: Path, progress: Callable[[int], None] | None = None) -> str:
        """Return the sha256 of a single file."""
        if path.stat().st_size < SMALL_BYTES:
            return sha256_of(path)
        return self.of(Candidate(path=path, files=(path,), stamps={}), progress)

    def of(self, candidate: Candidate, progress: Callable[[int], None] | None = None) -> str:
        """Return the sha256 of a model.

        Args:
            progress: called with the bytes of each chunk that was read.
        """
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
            with replacing(self._path) as temporary, open_to_write(temporary) as file:
                file.write(json.dumps(entries).encode())
