"""Files that cost far more than their size to read, or whose errors do: for tests that they are refused cheaply."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

MILLION = 1_000_000


def header(content: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    """Return a .safetensors file."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": "F16", "shape": shape, "data_offsets": [start, stop]}


def of_torch(content: object) -> bytes:
    """Return a file of torch.save."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def program(body: bytes, records: dict[str, bytes] | None = None, *, packed: bool = False) -> bytes:
    """Return a file of torch.save whose pickle is `body`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("a/version", "3\n")
        for name, content in (records or {}).items():
            archive.writestr(f"a/{name}", content)
    return file.getvalue()


def cycle(length: int, name: str | int = "state_dict") -> bytes:
    """Return a file whose state dict contains itself, after some others."""
    first: dict[str | int, Any] = {"w": torch.zeros(1)}
    last = first
    for _ in range(length - 1):
        last[name] = {"w": torch.zeros(1)}
        last = last[name]
    last[name] = first
    return of_torch(first)


def wide(keys: int = 2000) -> bytes:
    """Return a file with a mapping that is each of its own values."""
    content: dict[str, Any] = {}
    content |= {f"k{index}": content for index in range(keys)}
    return of_torch(content)


def sparse(path: Path, start: bytes, size: int) -> Path:
    """Write a file that says to have `size` bytes."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path


TORCH_FILES = {
    "itself": lambda: cycle(1),
    "itself after three": lambda: cycle(3),
    "itself as a model": lambda: cycle(2, "model"),
    "wrapped often": lambda: of_torch(_wrapped(40)),
    "wide": wide,
    "deep tuple as a key": lambda: program(b"}(" + b")" + b"\x85" * 3 * MILLION + b"K\x01u"),
    "deep tuple without zip": lambda: b"\x80\x02}(" + b")" + b"\x85" * 3 * MILLION + b"K\x01u.",
    "zeros": lambda: program(b"}", {"data/0": bytes(300 * MILLION)}, packed=True),
    "zeros in the pickle": lambda: program(b"N0" * 40 * MILLION + b"}", packed=True),
    "many steps": lambda: program(b"N0" * 3 * MILLION + b"}"),
    "one element, expanded": lambda: of_torch({"w": torch.zeros(1).expand(1 << 40)}),
    "long bytes": lambda: b"\x80\x02B\xff\xff\xff\x7f" + bytes(100),
}
HEADERS = {
    "long name": lambda: header({"a" * 47 * MILLION: 1}),
    "long dtype": lambda: header({"a": {"dtype": "F" * 47 * MILLION, "shape": [], "data_offsets": [0, 0]}}),
    "long name of a tensor that is not there": lambda: header({"a" * 47 * MILLION: entry([4], 8, 16)}, bytes(16)),
    "many tensors": lambda: header(b"{" + b",".join(b'"%d":{}' % index for index in range(3 * MILLION)) + b"}"),
    "many numbers": lambda: header({"a": entry([1] * 2 * MILLION, 0, 2)}, bytes(2)),
    "many sides": lambda: header({"a": entry([1] * 100_000, 0, 2)}, bytes(2)),
    "deep": lambda: header(b'{"a":' + b"[" * 900_000),
    "huge number": lambda: header(b'{"a":{"dtype":"F16","shape":[' + b"9" * 900_000 + b'],"data_offsets":[0,2]}}'),
    "twice": lambda: header(b'{"a":{"dtype":"F16","shape":[],"data_offsets":[0,2]},' * 2 + b'"b":1}', bytes(2)),
    "overlapping": lambda: header({"a": entry([4], 0, 8), "b": entry([4], 0, 8)}, bytes(8)),
    "a gap": lambda: header({"a": entry([4], 8, 16)}, bytes(16)),
    "NaN": lambda: header(b'{"a":{"dtype":"F16","shape":[NaN],"data_offsets":[0,2]}}', bytes(2)),
    "too large a shape": lambda: header({"a": entry([2**40, 2**40], 0, 8)}, bytes(8)),
    "no whole sides": lambda: header({"a": {"dtype": "F16", "shape": [-1, True], "data_offsets": [0, 2]}}, bytes(2)),
}


def _wrapped(times: int) -> dict[str, Any]:
    content: dict[str, Any] = {"w": torch.zeros(1)}
    for _ in range(times):
        content = {"state_dict": content}
    return content
