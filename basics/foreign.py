"""Bounds for files that others wrote: how many bytes are read, and how much is made of what was read.

Whoever opens a file of another must not need more memory or seconds than an honest file would take. So bytes are
bounded before they are read, and structure before it is built. An honest model has thousands of tensors; the bounds are
far above that.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from basics.messages import first_line
from basics.texts import shortened

MODEL_BYTES: Final = 1 << 38  # of any model's file; a sparse file claims more in an instant
JSON_BYTES: Final = 16_000_000  # of a configuration or an index of shards
JSON_VALUES: Final = 1_000_000  # of one document; each takes about 100 bytes
READ_BYTES: Final = 1 << 26  # at once from a pickle or a zip's directory
LINE_BYTES: Final = 1 << 20  # of one argument in a pickle
PICKLE_BYTES: Final = 1 << 26  # of the pickle in a zip, unpacked
PICKLE_OPERATIONS: Final = 2_000_000  # about ten seconds
TUPLE_DEPTH: Final = 100  # Python ends without a word where it hashes a tuple that is nested a million times
INFLATION: Final = 10  # bytes of content for each byte of a file; weights can hardly be compressed
SLACK_BYTES: Final = 1 << 24  # that any file may inflate to
LEGACY_PICKLES: Final = 5  # torch before 1.6: magic number, protocol, system, the object, storage keys; then data
_START_BYTES: Final = 512  # of a file, which say what it is
_LFS_POINTER: Final = b"version https://git-lfs"
_PAGES: Final = (b"<!doctype html", b"<html", b"<head", b"<?xml")
# A text in JSON, also one without an end: looking for an end at each quotation mark again would take hours.
_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or longer than `limit` bytes.
    """
    if path.exists() and not path.is_file():  # a pipe blocks, a device may never end
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit / 1e6:g} MB")
    return content


def in_place_of_model(path: Path) -> str | None:
    """Say what a failed download left in place of a model, and what to do; None where the file may be a model."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if not start:
        return "is empty: fetch it again"
    if start.startswith(_LFS_POINTER):
        return "is a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_PAGES):
        return "is a web page, saved in place of the file: the download needs a login or another address"
    if text.startswith((b'{"', b"[{")) and b"\0" not in start:
        return "is a JSON text, such as a server's answer to a failed download: fetch the file again"
    return None


def read_json(path: Path, *, infinite: bool = False) -> Any:
    """Parse a JSON file: see `parse_json`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, is longer than `JSON_BYTES`, or not such JSON.
    """
    return parse_json(read_bytes(path, JSON_BYTES).decode("utf-8-sig"), infinite=infinite)


def parse_json(text: str, *, infinite: bool = False) -> Any:
    """Parse JSON without repeated keys, and with at most `JSON_VALUES` values.

    Args:
        infinite: whether `Infinity`, `-Infinity` and `NaN` may stand in it, as Python writes them.

    Raises:
        ValueError: it is not such JSON.
    """
    _require_few_values(text)
    constant = float if infinite else _refuse_constant
    try:
        return json.loads(text, object_pairs_hook=_without_repeats, parse_constant=constant)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def _require_few_values(text: str) -> None:
    """Count values before anything is built of them.

    Raises:
        ValueError: there are more than `JSON_VALUES`.
    """
    if len(text) <= JSON_VALUES:
        return
    values = text.count('"') - text.count('\\"')  # at least one quotation mark of each text is no escaped one
    if values // 2 <= JSON_VALUES:
        structure = _STRING.sub("", text)
        values = sum(map(structure.count, "{[,"))
    if values > JSON_VALUES:
        raise ValueError(f"it has more than {JSON_VALUES:,} values")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{double!r} is given twice")
    return values


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


# ------------------------------------------------------------------------------------ files of torch


class _Bounded(io.BufferedReader):
    """A file of which no more than `READ_BYTES` are read at once, whatever its content asks for."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            here = self.tell()
            size = self.seek(0, io.SEEK_END) - here
            self.seek(here)
        if size > READ_BYTES:
            raise ValueError(f"it asks to read {size:,} bytes at once")
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        return _line(super().readline(LINE_BYTES if size is None or size < 0 else size))


def _line(line: bytes) -> bytes:
    if len(line) >= LINE_BYTES:
        raise ValueError(f"it has a line of more than {LINE_BYTES:,} bytes")
    return line


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip whose content is not much larger than the file.

    Raises:
        ValueError: it is much larger, or its directory is.
        zipfile.BadZipFile: it is not a zip, or damaged.
    """
    with _Bounded(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        require_plausible(unpacked, path)
        yield archive


def require_plausible(content_bytes: int, path: Path) -> None:
    """Refuse a file that says to contain far more than it can.

    Raises:
        ValueError: it does.
    """
    file_bytes = path.stat().st_size
    if content_bytes > INFLATION * file_bytes + SLACK_BYTES:
        raise ValueError(f"its {file_bytes / 1e6:,.1f} MB would unpack to {content_bytes / 1e6:,.1f} MB")


def names_in_torch_file(path: Path, *, zipped: bool) -> list[str]:
    """Return every class and function that a file of torch.save names, without running anything.

    Raises:
        ValueError: the file would take more memory or time than an honest one, or is damaged.
        zipfile.BadZipFile: it is damaged.
    """
    names: dict[str, None] = {}
    if not zipped:
        with _Bounded(io.FileIO(path)) as file:
            for _ in range(LEGACY_PICKLES):
                names |= dict.fromkeys(_names_in_pickle(file))
        return list(names)
    with opened_zip(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith("data.pkl"):
                if entry.file_size > PICKLE_BYTES:
                    raise ValueError(f"its {entry.filename} has {entry.file_size / 1e6:,.1f} MB")
                names |= dict.fromkeys(_names_in_pickle(io.BytesIO(archive.read(entry))))
    return list(names)


def _names_in_pickle(file: IO[bytes]) -> Iterator[str]:
    """Yield the names in one pickle; a name assembled on the stack is taken from the last two strings."""
    texts: deque[str] = deque(("", ""), maxlen=2)
    tuples = _Tuples()
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if count >= PICKLE_OPERATIONS:
            raise ValueError(f"it has more than {PICKLE_OPERATIONS:,} steps")
        tuples.follow(operation, argument)
        if operation.name in {"GLOBAL", "INST"}:
            yield str(argument).replace(" ", ".", 1).replace("__builtin__.", "builtins.", 1)
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts)
        elif isinstance(argument, str):
            texts.append(argument)


class _Tuples:
    """How deep the tuples on a pickle's stack are nested."""

    def __init__(self) -> None:
        self._stack: list[int | None] = []  # depth of each value, 0 for what is no tuple; None: a mark
        self._memo: dict[Any, int] = {}

    def follow(self, operation: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do to the depths what an operation does to the values.

        Raises:
            ValueError: a tuple is nested too deeply, or the stack is too short.
        """
        if "PUT" in operation.name or operation.name == "MEMOIZE":
            self._memo[len(self._memo) if argument is None else argument] = (self._stack or [0])[-1] or 0
        elif operation.name == "MARK":
            self._stack.append(None)
        else:
            inner = max(self._popped(operation.stack_before), default=0)
            self._stack += [self._depth(operation.name, argument, inner)] * len(operation.stack_after)

    def _depth(self, name: str, argument: Any, inner: int) -> int:
        if "GET" in name:
            return self._memo.get(argument, 0)
        if name == "DUP":
            return inner
        if not name.startswith("TUPLE"):
            return 0
        if inner >= TUPLE_DEPTH:
            raise ValueError(f"its tuples are nested more than {TUPLE_DEPTH} deep")
        return inner + 1

    def _popped(self, expected: Iterable[pickletools.StackObject]) -> list[int]:
        popped: list[int] = []
        for each in reversed(list(expected)):
            if each is pickletools.stackslice:
                continue
            if each is pickletools.markobject:
                while (depth := self._pop()) is not None:
                    popped.append(depth)
            else:
                popped.append(self._pop() or 0)
        return popped

    def _pop(self) -> int | None:
        if not self._stack:
            raise ValueError("its stack is too short")
        return self._stack.pop()


_TORCHS_ADVICE: Final = re.compile(r"weights_only|add_safe_globals|trust")


def torch_reason(error: BaseException) -> str:
    """Return why torch cannot read a file, in one line and without its advice to read it in a way that runs code."""
    found = re.search(r"WeightsUnpickler error:\s*([^\n]*)", str(error))
    reason = shortened(found[1].split(" Please ")[0].strip()) if found else first_line(error)
    return reason if reason and not _TORCHS_ADVICE.search(reason) else type(error).__name__
