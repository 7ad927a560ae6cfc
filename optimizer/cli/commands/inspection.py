"""`mergetune inspect`: what a checkpoint is, what it contains, whether its values are finite, and its origin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basics.names import typed_path
from optimizer.cli.common import console, errors, escaped, loading_libraries

if TYPE_CHECKING:
    from optimizer.merging.files.checkpoint import Checkpoint

VALUE_SHOWN = 200  # characters of a metadata value
LINES_SHOWN = 40  # of a merge recipe, or of a metadata value that is JSON
AUTOV2_DIGITS = 10
AUTOV3_DIGITS = 12


def inspect(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            parser=typed_path,
            metavar="CHECKPOINT",
            help="A .safetensors or .ckpt file, or a diffusers folder.",
            show_default=False,
        ),
    ],
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Read every tensor and look for NaN and Inf.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show a checkpoint's architecture, prediction type, parts, dtypes, hashes, metadata and merge recipe."""
    import json

    from optimizer.merging.files.presence import require_checkpoint_at

    require_checkpoint_at(checkpoint)
    with loading_libraries():
        from optimizer.merging.files.checkpoint import Checkpoint

    opened = Checkpoint.open(checkpoint)
    facts = _facts(opened, check=check)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    _show_file(facts)
    _show_places(facts)
    _show_recipes(facts)
    _show_metadata(facts)


@contextmanager
def reading(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar of bytes on stderr while the block runs; only in a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(escaped(what), total=total)
        yield lambda size: progress.advance(task, size)


# -------------------------------------------------------------------------------------------- facts


def _facts(opened: Checkpoint, *, check: bool) -> dict[str, Any]:
    """Return everything that `--json` prints and the tables show."""
    from collections import Counter

    from optimizer.cli.views.provenance import recipes_in
    from optimizer.merging.files.checkpoint import DTYPE_NAMES, total_bytes
    from optimizer.rendering.prediction import unmarked_flow_note

    architecture = opened.architecture  # first, because it refuses files that are not checkpoints
    infos = opened.tensors.values()
    return {
        "path": str(opened.path),
        "architecture": str(architecture),
        "prediction": _prediction(opened),
        "components": _components(opened),
        "tensors": len(infos),
        "parameters": sum(info.size for info in infos),
        "bytes": total_bytes(infos),
        "dtypes": dict(Counter(DTYPE_NAMES[info.dtype] for info in infos).most_common()),
        "places": _places(opened),
        "hashes": _hashes(opened),
        "check": _check(opened) if check else None,
        "notes": [*opened.notes, *filter(None, [unmarked_flow_note(opened)])],
        "recipes": recipes_in(opened.metadata),
        "metadata": dict(opened.metadata),
    }


def _prediction(opened: Checkpoint) -> dict[str, Any]:
    """Return what the U-Net predicts, or what is wrong with its markers."""
    from optimizer.rendering.prediction import prediction_or_problem

    prediction = prediction_or_problem(opened)
    if isinstance(prediction, str):
        return {"name": None, "zero_snr": None, "words": None, "problem": prediction}
    return {"name": prediction.name, "zero_snr": prediction.zero_snr, "words": prediction.description, "problem": None}


def _components(opened: Checkpoint) -> dict[str, list[str]]:
    from search_spaces.blocks import UNET, VAE, text_encoders

    wanted = (UNET, *text_encoders(opened.architecture), VAE)
    missing = [part for part in wanted if part not in opened.components]
    return {"present": list(opened.components), "missing": missing, "lacking": list(opened.lacking)}


def _places(opened: Checkpoint) -> list[dict[str, Any]]:
    from collections import Counter

    from optimizer.merging.files.checkpoint import DTYPE_NAMES, total_bytes
    from search_spaces.blocks import EMA, OTHER, place_of, places

    facts = []
    by_place: dict[str, list[str]] = {}
    for key in opened.tensors:
        by_place.setdefault(place_of(key, opened.architecture), []).append(key)
    for place in (*places(opened.architecture), OTHER, EMA):
        infos = [opened.tensors[key] for key in by_place.get(place, ())]
        if infos:
            dtypes = Counter(DTYPE_NAMES[info.dtype] for info in infos)
            facts.append(
                {
                    "place": place,
                    "tensors": len(infos),
                    "parameters": sum(info.size for info in infos),
                    "bytes": total_bytes(infos),
                    "dtypes": dict(dtypes.most_common()),
                }
            )
    return facts


def _hashes(opened: Checkpoint) -> dict[str, str | None]:
    """Return the hashes by the names that other programs use; None if this kind of file has no such hash."""
    with reading("hashing", opened.size_bytes) as advance:
        sha256 = opened.hash(advance)
    data = opened.data_hash
    return {
        "sha256": sha256,
        "autov2": None if opened.path.is_dir() else sha256[:AUTOV2_DIGITS],
        "autov3": None if data is None else data[:AUTOV3_DIGITS],
        "legacy": opened.legacy_hash,
    }


def _check(opened: Checkpoint) -> dict[str, Any]:
    from optimizer.merging.files.checkpoint import total_bytes
    from optimizer.merging.files.health import not_finite

    with reading("looking for NaN and Inf", total_bytes(opened.tensors.values())) as advance:
        bad_places = not_finite(opened, advance)
    places = [
        {
            "place": place,
            "nan": bad.nan,
            "infinite": bad.infinite,
            "tensors": bad.tensors,
            "first_key": bad.first_key,
        }
        for place, bad in bad_places.items()
    ]
    return {"finite": not bad_places, "places": places}


# ------------------------------------------------------------------------------------------- tables


def _show_file(facts: Mapping[str, Any]) -> None:
    from optimizer.cli.views.tables import FoldingTable

    table = FoldingTable(escaped(Path(facts["path"]).name), show_header=False)
    table.head()
    table.head()
    prediction, parts, hashes = facts["prediction"], facts["components"], facts["hashes"]
    table.add_row("architecture", facts["architecture"])
    table.add_row("prediction", escaped(prediction["words"] or f"unclear: {prediction['problem']}"))
    table.add_row("parts", ", ".join(parts["present"]))
    if parts["missing"]:
        table.add_row("missing", f"[bold yellow]{', '.join(parts['missing'])}[/]")
    if parts["lacking"]:
        table.add_row("incomplete", f"[bold yellow]without {', '.join(map(escaped, parts['lacking']))}[/]")
    table.add_row("tensors", f"{facts['tensors']:,} ({_dtypes(facts['dtypes'])})")
    table.add_row("parameters", f"{facts['parameters']:,} in {facts['bytes'] / 1e6:,.1f} MB")
    table.add_row("values", escaped(_soundness(facts["check"])))
    for name, label in (("sha256", "sha256"), ("autov2", "AutoV2"), ("autov3", "AutoV3"), ("legacy", "legacy hash")):
        if hashes[name] is not None:
            table.add_row(label, hashes[name])
    for note in facts["notes"]:
        table.add_row("note", escaped(note))
    console.print(table)


def _dtypes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _soundness(check: Mapping[str, Any] | None) -> str:
    if check is None:
        return "not read (--no-check)"
    if check["finite"]:
        return "all finite"
    return "\n".join(
        f"{bad['place']}: {bad['nan']:,} NaN and {bad['infinite']:,} Inf in {bad['tensors']} tensors, "
        f"first in {bad['first_key']}"
        for bad in check["places"]
    )


def _show_places(facts: Mapping[str, Any]) -> None:
    from optimizer.cli.views.tables import FoldingTable

    table = FoldingTable("places")
    for head in ("place", "tensors", "parameters", "dtypes"):
        table.head(head, justify="right" if head in {"tensors", "parameters"} else "left")
    section = facts["places"][0]["place"][:2]
    for place in facts["places"]:
        if place["place"][:2] != section:  # text encoders, IN, M0, OUT, VAE
            table.add_section()
        section = place["place"][:2]
        dtypes = _dtypes(place["dtypes"]) if len(place["dtypes"]) > 1 else next(iter(place["dtypes"]))
        table.add_row(place["place"], f"{place['tensors']:,}", f"{place['parameters']:,}", dtypes)
    console.print(table)


def _show_recipes(facts: Mapping[str, Any]) -> None:
    from optimizer.cli.views.provenance import readable

    for field in facts["recipes"]:
        console.print(f"[italic]{field}[/]")
        _print_lines(readable(field, facts["recipes"]))


def _show_metadata(facts: Mapping[str, Any]) -> None:
    """Print the metadata: long JSON values in lines below their name, long texts cut."""
    import json

    from optimizer.cli.views.provenance import parsed

    rest = {name: text for name, text in facts["metadata"].items() if name not in facts["recipes"]}
    if rest:
        console.print("[italic]metadata[/]")
    for name, text in rest.items():
        data = parsed(text)
        if isinstance(data, str):
            short = text if len(text) <= VALUE_SHOWN else f"{text[:VALUE_SHOWN]}... ({len(text):,} characters)"
            _print_lines([f"{name}: {' '.join(short.split())}"])
        elif len(text) <= VALUE_SHOWN:
            _print_lines([f"{name}: {json.dumps(data, ensure_ascii=False)}"])
        else:
            _print_lines([f"{name}:", *json.dumps(data, indent=2, ensure_ascii=False).splitlines()])


def _print_lines(lines: list[str]) -> None:
    """Print lines indented; cut long lines, and print only the first ones of many with the number of the rest."""
    for line in lines[:LINES_SHOWN]:
        short = line if len(line) <= 2 * VALUE_SHOWN else f"{line[: 2 * VALUE_SHOWN]}... ({len(line):,} characters)"
        console.print(f"  {escaped(short)}", soft_wrap=True)
    if len(lines) > LINES_SHOWN:
        console.print(f"  ... {len(lines) - LINES_SHOWN:,} more lines (--json prints everything)", soft_wrap=True)
