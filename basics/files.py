"""Files on disk: their sha256, and atomic replacement."""

from __future__ import annotations

import hashlib
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

HASH_CHUNK_BYTES = 1 << 22
MAX_SAFETENSORS_HEADER_BYTES = 100_000_000  # the library refuses longer ones, and with it every program that uses it


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


@contextmanager
def replacing(target: Path, explained: Callable[[], AbstractContextManager[None]] = nullcontext) -> Iterator[Path]:
    """Yield an empty file beside `target`, which replaces it if the block succeeds and is removed otherwise.

    Readers see either the whole new file or the old one. Several processes may write at once; the last one wins.
    Whoever writes the new file, and whatever the old one allowed, it gets the permissions that the umask (or the
    folder's default ACL) gives a new file: safetensors and `tempfile` make files that nobody else can read.

    Args:
        target: the file to replace.
        explained: context manager around making the file and around the replacement, which may turn their errors into
            clearer ones.

    Raises:
        OSError: the file cannot be replaced.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        with explained():
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode  # asking for the umask itself would change it for other threads
        yield temporary
        with explained():
            if temporary.stat().st_mode != mode:  # some file systems know no permissions and refuse to set them
                temporary.chmod(stat.S_IMODE(mode))
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
