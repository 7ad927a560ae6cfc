"""Files on disk: their sha256, and replacing one whole or not at all."""

from __future__ import annotations

import hashlib
import os
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
    """Give a path beside `target` that becomes it when the block ends well, and vanishes otherwise.

    Readers see the whole file or the one of before. Several may write at once: the last one wins.

    Args:
        explained: around the last step, to say in other words why the file cannot be moved into its place.

    Raises:
        OSError: it cannot.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        with explained():
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
