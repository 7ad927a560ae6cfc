"""Files that a merge is made of must stay what they were when they were opened, or another model would be scored.

A file that is replaced (a new one under its name) or deleted still has its old bytes behind the memory map that was
made of it; one that is written to in place has not. Both are treated alike: it is not known any more what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import CheckpointError

Stamp = tuple[int, int, int]  # inode, bytes, nanoseconds since the epoch of the last change


@dataclass(frozen=True, slots=True)
class OpenedFiles:
    """Files as they were found."""

    stamps: Mapping[str, Mapping[Path, Stamp | None]]  # what it is, for people -> its files; None where one was missing

    @classmethod
    def now(cls, files: Mapping[str, tuple[Path, ...]]) -> OpenedFiles:
        return cls({what: stamps_of(paths) for what, paths in files.items()})

    def require_unchanged(self) -> None:
        """Raises CheckpointError when a file is gone, another one, or written to."""
        for what, stamps in self.stamps.items():
            for path, stamp in stamps.items():
                if (now := _stamp(path)) != stamp:
                    how = "is gone" if now is None else "has changed"
                    raise CheckpointError(
                        f"{what} ({path}) {how} since it was opened, so it is not known what would be merged: put the "
                        "file back and begin again; a study goes on with `mergetune study resume`, all scores that "
                        "were stored are good"
                    )


def stamps_of(paths: Iterable[Path]) -> Mapping[Path, Stamp | None]:
    """What tells whether files are the same later; None for one that is missing."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
