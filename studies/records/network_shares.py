"""Whether a SQLite file lies on a network share, where its locks do not hold: workers would break each other's writes.

See https://www.sqlite.org/faq.html#q5, and section 2.1 of https://www.sqlite.org/howtocorrupt.html.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from studies.errors import DatabaseError
from studies.system.database_url import database_file

MOUNTS = Path("/proc/self/mountinfo")
DRIVE = "network drive"  # of Windows
SHARES = frozenset(
    {"9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre"}
) | frozenset({"nfs", "nfs4", "smb", "smb2", "smb3", "smbfs", "webdav", DRIVE})
SHARES_BY_PROGRAMS = frozenset(
    {"ceph", "davfs2", "gcsfuse", "glusterfs", "juicefs", "rclone", "s3fs", "smbnetfs", "sshfs"}
)


class Mount(NamedTuple):
    point: str
    kind: str  # of file system

    @property
    def is_share(self) -> bool:
        """Whether the files on it lie on another machine."""
        if self == ("/", "9p"):
            return False  # a sandbox's own disk (gVisor, Kata); no machine starts from a share of this kind
        return self.kind in SHARES or self.kind.removeprefix("fuse.") in SHARES_BY_PROGRAMS


def require_local(url: str) -> None:
    """Refuse to write to a SQLite database on a network share; a server's URL passes.

    Raises:
        DatabaseError: where it lies, and what to do.
    """
    file = database_file(url)
    if file is None:
        return
    location = file.resolve()
    mount = mount_of(location, mounts())
    if mount is not None and mount.is_share:
        raise DatabaseError(
            f"the study database {location} is on a network share ({mount.point}, {mount.kind}), where SQLite's locks "
            "do not hold and a study would be damaged: name a file on a local disk with --storage, or use PostgreSQL"
        )


def mounts() -> list[Mount]:
    """List the file systems of this machine, as this process sees them."""
    if MOUNTS.exists():
        return parse_mountinfo(MOUNTS.read_text(encoding="utf-8", errors="surrogateescape"))
    import psutil

    return [
        Mount(each.mountpoint, DRIVE if "remote" in each.opts.split(",") else each.fstype)  # so Windows calls them
        for each in psutil.disk_partitions(all=True)
    ]


def parse_mountinfo(text: str) -> list[Mount]:
    """List the mounts of `/proc/PID/mountinfo`, in their order; see proc_pid_mountinfo(5)."""
    found = []
    for line in text.split("\n"):
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if separator and len(fields) > 4:
            found.append(Mount(_unescaped(fields[4]), kinds[0]))
    return found


def _unescaped(text: str) -> str:
    r"""Replace octal numbers, which stand for blanks, tabs, newlines and backslashes, as `\040` does."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def mount_of(path: PurePath, known: Sequence[Mount]) -> Mount | None:
    r"""Return the mount that an absolute path lies on.

    It is that of the longest prefix, and of several the last, which hides the others. A path of Windows that begins
    with `\\server\share` needs no mount.
    """
    if path.drive.startswith("\\\\"):
        return Mount(path.drive, DRIVE)
    above = [mount for mount in known if path.is_relative_to(mount.point)]
    return max(reversed(above), key=lambda mount: len(type(path)(mount.point).parts), default=None)
