"""`mergetune inspect`: what a checkpoint file is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optimizer.cli.common import console, escaped

VALUE_SHOWN = 200  # characters of a metadata value


def inspect(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A .safetensors file.", show_default=False)],
) -> None:
    """Show a checkpoint's architecture, parts, dtypes, hashes and metadata."""
    from collections import Counter

    from rich.table import Table

    from optimizer.merging.checkpoint import DTYPE_NAMES, Checkpoint, data_hash, legacy_hash
    from search_spaces.blocks import EMA, OTHER, place_of, places

    opened = Checkpoint.open(checkpoint)
    architecture = opened.architecture
    elements: Counter[str] = Counter()
    tensors: Counter[str] = Counter()
    for key, info in opened.tensors.items():
        place = place_of(key, architecture)
        elements[place] += info.size
        tensors[place] += 1
    dtypes = Counter(DTYPE_NAMES[info.dtype] for info in opened.tensors.values())
    table = Table(title=escaped(checkpoint.name), show_header=False, title_justify="left")
    table.add_row("architecture", str(architecture))
    table.add_row(
        "tensors",
        f"{len(opened.tensors)} ({', '.join(f'{count} {name}' for name, count in dtypes.most_common())})",
    )
    table.add_row("sha256", opened.sha256)
    table.add_row("AutoV2", opened.sha256[:10])
    table.add_row("AutoV3", data_hash(checkpoint)[:12])
    table.add_row("legacy hash", legacy_hash(checkpoint))
    for name, value in opened.metadata.items():
        shown = value if len(value) <= VALUE_SHOWN else f"{value[:VALUE_SHOWN]}... ({len(value)} characters)"
        table.add_row(escaped(name), escaped(shown))
    console.print(table)
    parts = Table(title="parts", title_justify="left")
    for head in ("place", "tensors", "parameters"):
        parts.add_column(head, justify="left" if head == "place" else "right")
    for place in (*places(architecture), OTHER, EMA):
        if tensors[place]:
            parts.add_row(place, str(tensors[place]), f"{elements[place]:,}")
    console.print(parts)
