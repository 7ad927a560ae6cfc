"""The tensors of real checkpoints: every key with its shape, to make synthetic files and to check complete maps."""

from __future__ import annotations

import gzip
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "data" / "layouts"


@dataclass(frozen=True, kw_only=True)
class LayoutTensor:
    """One tensor of a checkpoint."""

    key: str
    shape: tuple[int, ...]  # () for a scalar
    kind: str  # "F" for floating point of any width, else a safetensors dtype: "I64"
    optional: bool  # whether some published checkpoints lack it


def read_layout(name: str) -> list[LayoutTensor]:
    """Return the tensors of "sd15" or "sdxl", in the order of the keys."""
    text = gzip.decompress((_FOLDER / f"{name}.tsv.gz").read_bytes()).decode("utf-8")
    return [_parse_line(line) for line in text.splitlines()]


def _parse_line(line: str) -> LayoutTensor:
    key, shape, kind, optional = line.split("\t")
    return LayoutTensor(
        key=key,
        shape=() if shape == "-" else tuple(int(length) for length in shape.split("x")),
        kind=kind,
        optional=optional == "optional",
    )


def hollow(path: Path, layout: str) -> Path:
    """Write a full-size checkpoint in float16 with a true header and nothing behind it: a file of holes."""
    table: dict[str, object] = {}
    end = 0
    for row in read_layout(layout):
        if row.kind != "F" or not row.shape:
            continue
        size = 2 * math.prod(row.shape)
        table[row.key] = {"dtype": "F16", "shape": list(row.shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
    return path
