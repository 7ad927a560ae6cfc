"""`mergetune diff`: where two checkpoints differ, and how much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basics.names import typed_path
from optimizer.cli.commands.inspection import reading
from optimizer.cli.common import AsJson, ReplacePlot, console, escaped, fail, loading_libraries

if TYPE_CHECKING:
    from rich.text import Text

    from optimizer.merging.files.checkpoint import Checkpoint
    from optimizer.merging.files.distance import Comparison, Distance
    from search_spaces.blocks import Architecture

BAR_WIDTH = 24  # characters of eight steps each
EIGHTHS = " ▏▎▍▌▋▊▉"
KEYS_SHOWN = 3  # of every remark about tensors


def diff(
    a: Annotated[
        Path, typer.Argument(parser=typed_path, metavar="A", help="The checkpoint to measure from.", show_default=False)
    ],
    b: Annotated[
        Path,
        typer.Argument(parser=typed_path, metavar="B", help="The checkpoint to compare with it.", show_default=False),
    ],
    tensors: Annotated[int, typer.Option(min=0, help="List this many of the most different tensors.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=typed_path, metavar="FILE.png", help="Also draw the distances to this file.", show_default=False
        ),
    ] = None,
    force: ReplacePlot = False,
    as_json: AsJson = False,
) -> None:
    """Show how far B is from A, ||B - A|| / ||A||, for every U-Net block, the text encoders and the VAE."""
    import json

    from optimizer.merging.files.presence import require_checkpoint_at

    if plot is not None:
        require_writable(plot, force=force)
    for path in (a, b):
        require_checkpoint_at(path)
    with loading_libraries():
        from optimizer.merging.files.checkpoint import Checkpoint
        from optimizer.merging.files.distance import compare, compared_bytes

    first, second = Checkpoint.open(a), Checkpoint.open(b)
    with reading("comparing", compared_bytes(first, second)) as advance:
        compared = compare(first, second, advance)
    facts = _facts(first, second, compared, tensors)
    if plot is not None:
        _draw(plot, facts, first, second, force=force)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, allow_nan=False))
        return
    _show(facts)
    if plot is not None:
        console.print(f"wrote {escaped(str(plot))}", soft_wrap=True)


def require_writable(plot: Path, *, force: bool) -> None:
    """Refuse a plot that cannot be written, before anything is read."""
    if plot.suffix.lower() != ".png":
        fail(f"--plot writes a .png file, got {plot}: give a name that ends in .png")
    from optimizer.merging.files.targets import refuse_target

    refuse_target(plot, overwrite=force, option="--plot")


def _draw(plot: Path, facts: Mapping[str, Any], first: Checkpoint, second: Checkpoint, *, force: bool) -> None:
    from optimizer.cli.views.difference_plot import draw_distances
    from optimizer.merging.engine.export import atomic_file

    distances = {row["place"]: row["relative_distance"] for row in facts["places"]}
    with atomic_file(plot, overwrite=force, option="--plot") as temporary:
        draw_distances(temporary, distances, first.architecture, a=first.path.name, b=second.path.name)


# -------------------------------------------------------------------------------------------- facts


def _facts(first: Checkpoint, second: Checkpoint, compared: Comparison, tensors: int) -> dict[str, Any]:
    """Return everything that `--json` prints and the tables show."""
    from optimizer.merging.files.distance import combined
    from search_spaces.blocks import places

    by_place = compared.by_place()
    ordered = [place for place in places(first.architecture) if place in by_place]
    return {
        "a": str(first.path),
        "b": str(second.path),
        "architecture": str(first.architecture),
        "places": [{"place": place} | _numbers(by_place[place]) for place in ordered],
        "components": _components(by_place, first.architecture),
        "total": _numbers(combined(by_place.values())),
        "most_different": [
            {
                "key": tensor.key,
                "place": tensor.place,
                "shape": list(first.tensors[tensor.key].shape),
                "relative_distance": _finite(tensor.distance.relative),
            }
            for tensor in compared.most_different(tensors)
        ],
        "not_finite": [tensor.key for tensor in compared.tensors if not tensor.distance.finite],
        "not_averaged": {
            "identical": list(compared.unaveraged),
            "different": list(compared.unaveraged_different),
        },
        "only_in_a": list(compared.only_in_a),
        "only_in_b": list(compared.only_in_b),
        "other_shapes": [
            {"key": key, "a": list(first.tensors[key].shape), "b": list(second.tensors[key].shape)}
            for key in compared.other_shapes
        ],
    }


def _components(by_place: Mapping[str, Distance], architecture: Architecture) -> list[dict[str, Any]]:
    """Return the distances of the whole U-Net, each text encoder, and the VAE."""
    from optimizer.merging.files.distance import combined
    from search_spaces.blocks import UNET, VAE, blocks, text_encoders

    groups = {UNET: blocks(architecture)} | {name: (name,) for name in (*text_encoders(architecture), VAE)}
    rows = []
    for name, members in groups.items():
        found = [by_place[place] for place in members if place in by_place]
        if found:
            rows.append({"component": name} | _numbers(combined(found)))
    return rows


def _numbers(distance: Distance) -> dict[str, Any]:
    return {
        "tensors": distance.tensors,
        "identical_tensors": distance.identical,
        "parameters": distance.size,
        "relative_distance": _finite(distance.relative),
        "difference_cosine": distance.cosine,
    }


def _finite(value: float) -> float | None:
    """Return None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


# ------------------------------------------------------------------------------------------- tables


def _show(facts: Mapping[str, Any]) -> None:
    from optimizer.cli.views.tables import FoldingTable

    largest = max((row["relative_distance"] or 0.0 for row in facts["places"]), default=0.0)
    table = FoldingTable("distance of B from A, ||B - A|| / ||A||")
    for head in ("place", "distance", "", "same", "cos(B-A, A)"):
        table.head(head, justify="left" if head in {"place", ""} else "right")
    section = facts["places"][0]["place"][:2] if facts["places"] else ""
    for row in facts["places"]:
        if row["place"][:2] != section:  # text encoders, IN, M0, OUT, VAE
            table.add_section()
        section = row["place"][:2]
        table.add_row(row["place"], *_cells(row, largest))
    table.add_section()
    unet = [row for row in facts["components"] if row["component"] == "unet"]
    for name, row in (*(("U-Net", row) for row in unet), ("everything", facts["total"])):
        table.add_row(name, *_cells(row, 0.0))
    console.print(f"A {escaped(facts['a'])}\nB {escaped(facts['b'])}\n{facts['architecture']}", soft_wrap=True)
    console.print(table)
    _show_tensors(facts["most_different"])
    _show_remarks(facts)


def _cells(row: Mapping[str, Any], largest: float) -> tuple[str | Text, ...]:
    """Return the cells of a row: distance, bar, equal tensors, cosine."""
    from rich.text import Text

    distance, cosine = row["relative_distance"], row["difference_cosine"]
    return (
        _distance(distance),
        Text(bar(distance or 0.0, largest), style="cyan"),
        f"{row['identical_tensors']}/{row['tensors']}",
        "" if cosine is None else f"{cosine:+.3f}",
    )


def _distance(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6f}" if 1e-4 <= value < 100 or value == 0 else f"{value:.2e}"


def bar(value: float, largest: float) -> str:
    """Draw a bar of at most `BAR_WIDTH` characters, proportional to the value; above 0, at least a thin line."""
    if largest <= 0 or value <= 0:
        return ""
    eighths = max(1, round(value / largest * BAR_WIDTH * 8))
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def _show_tensors(tensors: Sequence[Mapping[str, Any]]) -> None:
    if tensors:
        console.print(f"the {len(tensors)} most different tensors" if len(tensors) > 1 else "the most different tensor")
    for tensor in tensors:
        shape = "x".join(map(str, tensor["shape"])) or "scalar"
        line = f"  {_distance(tensor['relative_distance'])}  {tensor['place']}  {tensor['key']}  {shape}"
        console.print(line, soft_wrap=True, markup=False)


def _show_remarks(facts: Mapping[str, Any]) -> None:
    shapes = [
        f"{tensor['key']} ({'x'.join(map(str, tensor['a']))} in A, {'x'.join(map(str, tensor['b']))} in B)"
        for tensor in facts["other_shapes"]
    ]
    for what, keys in (
        ("hold NaN or Inf in A or B, so their places have no distance", facts["not_finite"]),
        ("have other shapes and were not compared", shapes),
        ("are only in A", facts["only_in_a"]),
        ("are only in B", facts["only_in_b"]),
        ("that a merge does not average differ", facts["not_averaged"]["different"]),
    ):
        if keys:
            more = ", ..." if len(keys) > KEYS_SHOWN else ""
            console.print(
                f"{len(keys)} tensors {what}: {', '.join(keys[:KEYS_SHOWN])}{more}", soft_wrap=True, markup=False
            )
