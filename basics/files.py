"""Files on disk: their sha256, and replacing one whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

HASH_CHUNK_BYTES = 1 << 22


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Return the sha256 of a whole file as 64 hex digits.

    Args:
        progress: called with the bytes of each chunk that was read.
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
    """Give an empty file beside `target` that becomes it when the block ends well, and vanishes otherwise.

    Readers see the whole file or the one of before. Several may write at once: the last one wins. Whoever writes it,
    and whatever the file of before allowed, it ends with the permissions that the umask (or the folder's default ACL)
    gives a new file: safetensors and `tempfile` make files that nobody else can read.

    Args:
        explained: around the first step and the last, to say in other words why the file cannot be made, or moved into
            its place.

    Raises:
        OSError: it cannot.
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
