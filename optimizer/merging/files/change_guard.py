"""Detection of files that change while they are in use: a merge of changed files would be a different model.

The memory map of a file that is replaced (a new file under its name) or deleted still holds the old bytes; that of a
file that is written to in place does not. Both cases are treated the same, because the file's content is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from basics.files import sha256_of
from basics.stamps import Stamp, stamp_of
from optimizer.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class OpenedFiles:
    """The state of files when they were opened."""

    stamps: Mapping[str, Mapping[Path, Stamp | None]]  # description, such as `parent A` -> its files; None: missing
    _digests: dict[Path, str] = field(default_factory=dict, init=False, repr=False)  # sha256 of the content opened
    _equal: dict[Path, Stamp] = field(default_factory=dict, init=False, repr=False)  # later stamps of that content

    @classmethod
    def now(cls, files: Mapping[str, tuple[Path, ...]]) -> OpenedFiles:
        """Record the present state of files.

        Args:
            files: description for messages, such as `parent A` -> its files.
        """
        return cls({description: stamps_of(paths) for description, paths in files.items()})

    def remember(self, hashed: Callable[[Path], str]) -> None:
        """Hash the files, so that they may be linked to, given other permissions or put back without being refused.

        Args:
            hashed: returns the sha256 of a file.

        Raises:
            CheckpointError: a file has changed since it was opened.
        """
        self.require_unchanged()
        digests = {path: hashed(path) for stamps in self.stamps.values() for path in stamps}
        self.require_unchanged()
        self._digests.update(digests)

    def require_unchanged(self) -> None:
        """Refuse files that have changed since they were opened.

        Raises:
            CheckpointError: a file is gone, replaced or written to.
        """
        for description, stamps in self.stamps.items():
            for path, stamp in stamps.items():
                now = _stamp(path)
                if now != stamp and not self._is_equal(path, stamp, now):
                    raise _changed(description, path, now)

    def _is_equal(self, path: Path, before: Stamp | None, now: Stamp | None) -> bool:
        """Return whether a file of another stamp has the content that was opened, and remember its stamp if so."""
        if now is not None and self._equal.get(path) == now:
            return True
        if before is None or now is None or now.size_bytes != before.size_bytes or path not in self._digests:
            return False
        if sha256_of(path) != self._digests[path] or _stamp(path) != now:
            return False
        self._equal[path] = now
        return True


def _changed(description: str, path: Path, now: Stamp | None) -> CheckpointError:
    change = "is gone" if now is None else "has changed"
    return CheckpointError(
        f"{description} ({path}) {change} since it was opened, so its content is unknown: put the file back and start "
        "again; a study can be resumed, and all stored scores remain valid"
    )


def stamps_of(paths: Iterable[Path]) -> Mapping[Path, Stamp | None]:
    """Return a stamp of each file, which differs after the file has changed; None for a missing file."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> Stamp | None:
    try:
        return stamp_of(path)
    except OSError:
        return None
