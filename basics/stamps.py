"""What a file system says of a file, by which a change of its content is seen without reading it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Stamp(NamedTuple):
    """The state of a file: it differs after the content has changed.

    Size and modification time alone would not do: anybody can set the time (`touch -r`, `cp -p`, `rsync -t`). Nobody
    can set the change time, and another file under the same name has another inode.
    """

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int  # when the content was last changed, or whatever was set since then
    ctime_ns: int  # when content, name, permissions or mtime were last changed; 0 where the file system has none

    @property
    def is_reliable(self) -> bool:
        """Whether the file system has all of these, so that an equal stamp means an equal content."""
        return self.inode != 0 and self.ctime_ns != 0


def stamp_of(path: Path) -> Stamp:
    """Return a file's present stamp.

    Raises:
        OSError: the file is missing or cannot be reached.
    """
    return stamp_from(path.stat())


def stamp_from(status: os.stat_result) -> Stamp:
    """Return the stamp that a file's status contains."""
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
