"""Detection of files that change while they are in use: a merge of changed files would be a different model.

The memory map of a file that is replaced (a new file under its name) or deleted still holds the old bytes; that of a
file that is written to in place does not. Both cases are treated the same, because the file's content is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import CheckpointError

Stamp = tuple[int, int, int]  # inode, size in bytes, time of the last change in nanoseconds since the epoch


@dataclass(frozen=True, slots=True)
class OpenedFiles:
    """The state of files when they were opened."""

    stamps: Mapping[str, Mapping[Path, Stamp | None]]  # description, such as `parent A` -> its files; None: missing

    @classmethod
    def now(cls, files: Mapping[str, tuple[Path, ...]]) -> OpenedFiles:
        """Record the present state of files.

        Args:
            files: description for messages, such as `parent A` -> its files.
        """
        return cls({description: stamps_of(paths) for description, paths in files.items()})

    def require_unchanged(self) -> None:
        """Refuse files that have changed since they were opened.

        Raises:
            CheckpointError: a file is gone, replaced or written to.
        """
        for description, stamps in self.stamps.items():
            for path, stamp in stamps.items():
                if (now := _stamp(path)) != stamp:
                    change = "is gone" if now is None else "has changed"
                    raise CheckpointError(
                        f"{description} ({path}) {change} since it was opened, so its content is unknown: put the file "
                        "back and start again; a study can be resumed, and all stored scores remain valid"
                    )


def stamps_of(paths: Iterable[Path]) -> Mapping[Path, Stamp | None]:
    """Return a stamp of each file, which differs after the file has changed; None for a missing file."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
