"""Files on disk: their sha256, and how a new one gets its name.

A new file is written in a part folder beside its target: `.NAME.mergetune-RANDOM.part`. Its name cannot be foreseen, it
is never one that was there before, and its writer holds a lock on a file in it (flock) for as long as it lives. So
whoever writes into the same folder next can tell what a killed process has left there, also from another container,
whose process numbers mean nothing here, and removes it. Some network file systems know locks of one machine only: what
another machine has left stays for a day. It is a folder because libraries put another file in the place of the one that
they are told to write, and nobody would hold a lock on that.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, Final

from basics.file_locks import AT_ONCE, PLAINLY, content_of, take_lock

HASH_CHUNK_BYTES = 1 << 22
MAX_SAFETENSORS_HEADER_BYTES = 100_000_000  # the library refuses longer ones, and with it every program that uses it

PART_NAME: Final = re.compile(r"\..*\.mergetune-[0-9a-f]{16}\.part", re.DOTALL)
PART_NAME_SHOWN: Final = 40  # characters of the target's name: the whole would be too long now and then
LOCK_NAME: Final = ".writer"  # in a part folder; NFS knows no locks of folders
LEFT_BEHIND_SECONDS: Final = 86_400.0  # after which a part folder of another machine is removed
UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
NO_LINKS: Final = UNSUPPORTED | {errno.EPERM, errno.EMLINK, errno.EXDEV}  # as FAT says it, or AFS between folders
NO_SUCH_RENAME: Final = UNSUPPORTED | {errno.EINVAL}
AT_FDCWD: Final = -100  # Linux: paths are relative to the current folder
RENAME_NOREPLACE: Final = 1


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Return the sha256 of a whole file as 64 hex digits.

    Args:
        progress: called with the number of bytes of each chunk that was read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()


# ------------------------------------------------------------------------------------ a file's name


@contextmanager
def replacing(
    target: Path,
    explained: Callable[[], AbstractContextManager[None]] = nullcontext,
    *,
    overwrite: bool = True,
) -> Iterator[Path]:
    """Yield a new, empty file on the disk of `target`, which takes its name if the block succeeds, else is removed.

    Readers see either the whole new file or the old one. Several processes may write at once: the last one wins, or
    without `overwrite` the first. What killed processes have left in the folder is removed first.

    Whoever writes the new file, and whatever the old one allowed, it gets the permissions that the umask (or the
    folder's default ACL) gives a new file: safetensors and `tempfile` make files that nobody else can read.

    Args:
        target: the file to replace. A symbolic link is replaced itself; what it leads to stays.
        explained: context manager around making the file and around giving it its name, which may turn their errors
            into clearer ones.
        overwrite: whether the target may exist.

    Raises:
        FileExistsError: the target exists, and must not be replaced.
        OSError: the file cannot be made, the target is no regular file, or another program took the name meanwhile.
    """
    with explained():
        _require_replaceable(target, overwrite=overwrite)
        remove_dead_parts(target.parent)
        folder, handle = _new_part_folder(target)
    part = folder / target.name
    try:
        with explained():
            mode = _new_file(part)
        yield part
        with explained():
            if part.lstat().st_mode != mode:  # some file systems know no permissions and refuse to set them
                _set_permissions(part, stat.S_IMODE(mode))
            _give_name(part, target, overwrite=overwrite)
    finally:
        os.close(handle)  # first: Windows removes no file that is open
        shutil.rmtree(folder, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file, or put it in the place of another, as a whole: see `replacing`.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary, open_to_write(temporary) as file:
        file.write(content)


def open_to_write(path: Path) -> BinaryIO:
    """Open a file to be written from its beginning, or make it. A symbolic link is not followed.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | PLAINLY, 0o666)
    return open(handle, "wb")  # noqa: PTH123 - by its number


def open_lock_file(path: Path) -> int:
    """Open the file of a lock, or make it, and return its handle; nothing else that bears the name is opened.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    kind = kind_of_file(path)
    if kind not in {None, "file"}:
        raise OSError(errno.EINVAL, f"it is a {kind}, and a lock is a file: remove it", str(path))
    writes = kind is None or os.access(path, os.W_OK)
    access = os.O_RDWR | os.O_CREAT if writes else os.O_RDONLY
    handle = os.open(path, access | AT_ONCE | PLAINLY, 0o666)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "it is no file, and a lock is a file: remove it", str(path))


def kind_of_file(path: Path) -> str | None:
    """Return what bears a name: "file", "folder", "symbolic link", "device", "pipe" or "socket"; None for nothing.

    Raises:
        OSError: it cannot be known, as in a folder that may not be searched.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "pipe"}
    return kinds.get(stat.S_IFMT(mode), "socket" if stat.S_ISSOCK(mode) else "device")


def is_same_file(status: os.stat_result, path: Path) -> bool:
    """Return whether a name is borne by a file that was looked at before, under this name or another.

    Some network shares number a file anew when its name changes: there, size and time of the last write decide.
    """
    try:
        now = path.lstat()
    except OSError:
        return False
    return os.path.samestat(status, now) or (
        stat.S_ISREG(now.st_mode) and (status.st_size, status.st_mtime_ns) == (now.st_size, now.st_mtime_ns)
    )


def remove_dead_parts(folder: Path) -> None:
    """Remove the part folders in a folder whose writers have died; those that cannot be looked at stay."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if PART_NAME.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_if_dead(folder / entry.name)


def _remove_if_dead(folder: Path) -> None:
    if kind_of_file(folder) != "folder":
        return
    if kind_of_file(folder / LOCK_NAME) != "file":
        folder.rmdir()  # killed before there was a lock; one that has content is not ours
        return
    lock = folder / LOCK_NAME
    handle = os.open(lock, os.O_RDWR | PLAINLY)
    try:
        take_lock(handle)  # its writer holds it, or there is none any more
        is_ours = content_of(handle, 256) == _this_machine()
        is_dead = os.path.samestat(os.fstat(handle), lock.lstat()) and (is_ours or _is_old(handle))
    finally:
        os.close(handle)  # first: Windows removes no file that is open
    if is_dead:  # and nobody takes its lock again
        shutil.rmtree(folder)


def _is_old(handle: int) -> bool:
    return time.time() - os.fstat(handle).st_mtime > LEFT_BEHIND_SECONDS


def _this_machine() -> bytes:
    """Return what tells the running system from others: containers of one machine share it, and its locks."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    return os.fsencode(socket.gethostname())


def _new_part_folder(target: Path) -> tuple[Path, int]:
    """Make a part folder, and return it with the open handle that holds its lock."""
    while True:
        folder = target.with_name(f".{target.name[:PART_NAME_SHOWN]}.mergetune-{secrets.token_hex(8)}.part")
        folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):  # another process took it for left behind, before it was locked
            lock = folder / LOCK_NAME
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | PLAINLY, 0o600)
            if _lock(handle, lock):
                return folder, handle
            os.close(handle)
            shutil.rmtree(folder, ignore_errors=True)  # the other may have found nothing in the lock's file yet


def _lock(handle: int, lock: Path) -> bool:
    """Lock a part folder that was just made; False if another process removes it, which took it for left behind."""
    try:
        take_lock(handle)
        os.write(handle, _this_machine())  # after that: who finds this and a free lock knows that the writer is dead
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise
        return True  # a file system without locks
    return kind_of_file(lock) is not None


def _new_file(path: Path) -> int:
    """Make an empty file, and return its mode; asking for the umask itself would change it for other threads."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAINLY, 0o666)
    try:
        return os.fstat(handle).st_mode
    finally:
        os.close(handle)


def _set_permissions(part: Path, mode: int) -> None:
    if sys.platform == "win32":  # where files have what their folder allows
        return
    handle = os.open(part, os.O_RDONLY | PLAINLY)
    try:
        os.fchmod(handle, mode)
    finally:
        os.close(handle)


def _require_replaceable(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that must not be replaced.

    Raises:
        OSError: it exists and must not be replaced, or is a folder, a device, a pipe or a socket.
    """
    kind = kind_of_file(target)
    if kind is not None and not overwrite:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if kind not in {None, "file", "symbolic link"}:
        raise OSError(errno.EINVAL, f"it is a {kind}, not a file", str(target))


def _give_name(part: Path, target: Path, *, overwrite: bool) -> None:
    """Give a new file its name.

    Raises:
        OSError: it cannot be given, or another program took it meanwhile.
    """
    _require_replaceable(target, overwrite=overwrite)
    status = part.lstat()
    if overwrite:
        part.replace(target)
    else:
        _take_free_name(part, target)
    if not is_same_file(status, target):
        raise OSError(errno.ESTALE, "another program replaced it as soon as it had its name", str(target))


def _take_free_name(part: Path, target: Path) -> None:
    """Give a new file a name that nothing bears, in one step. As a link it may keep its own beside it.

    A file system without links can rename without replacing; one that can do neither takes an empty file as the name's
    reservation, and a process that is killed at this very moment leaves that.

    Raises:
        FileExistsError: something bears it by now.
    """
    if sys.platform == "win32":
        part.rename(target)  # which replaces nothing there
        return
    try:
        os.link(part, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if not _renamed_without_replacing(part, target):
            _replace_reservation(part, target)


def _renamed_without_replacing(part: Path, target: Path) -> bool:
    """Rename a file unless the new name is taken; False where the system or the file system cannot do that.

    Raises:
        FileExistsError: the name is taken.
    """
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(part), AT_FDCWD, os.fsencode(target), RENAME_NOREPLACE) == 0:
        return True
    if (code := ctypes.get_errno()) in NO_SUCH_RENAME:
        return False
    raise OSError(code, os.strerror(code), str(target))


def _replace_reservation(part: Path, target: Path) -> None:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAINLY))
    part.replace(target)
