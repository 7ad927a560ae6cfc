"""`mergetune lora`: extract a LoRA from the difference of two checkpoints, or bake LoRAs into one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basics.messages import counted
from basics.names import typed_path
from basics.percent import from_percent
from optimizer.cli.commands.inspection import reading
from optimizer.cli.common import (
    console,
    errors,
    escaped,
    fail,
    loading_libraries,
    output_option,
    require_usual,
    safetensors_target,
)
from optimizer.cli.views.help import Commands

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from optimizer.merging.engine.ingredients import Ingredients
    from optimizer.merging.lora.extract import ExtractedLora
    from studies.recipe.recipe import Recipe

app = Commands(help="Extract a LoRA from two checkpoints, or bake LoRAs into one.")

KEYS_SHOWN = 3
ROUNDED_SHOWN = 0.01  # share of the difference that rounding loses, from which it is told

Output = Annotated[
    Path,
    output_option("FILE", "The .safetensors file to write."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Insist = Annotated[
    bool, typer.Option("--force", help="Replace an existing file, and take ratios and weights far beyond the usual.")
]


class NamingName(StrEnum):
    """Conventions for naming a LoRA's tensors."""

    KOHYA = "kohya"
    DIFFUSERS = "diffusers"


class DtypeChoice(StrEnum):
    """Dtypes in which weights can be saved."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"


# ------------------------------------------------------------------------------------------ extract


@app.command()
def extract(
    a: Annotated[
        Path,
        typer.Argument(parser=typed_path, metavar="A", help="The checkpoint to add the LoRA to.", show_default=False),
    ],
    b: Annotated[
        Path,
        typer.Argument(
            parser=typed_path, metavar="B", help="The checkpoint that A plus the LoRA approximates.", show_default=False
        ),
    ],
    output: Output,
    rank: Annotated[int, typer.Option(min=1, help="Rank for linear layers: larger keeps more, in a larger file.")] = 32,
    conv_rank: Annotated[
        int | None,
        typer.Option(
            min=0, help="Rank for 3x3 convolutions; 0 leaves them out. [default: as --rank]", show_default=False
        ),
    ] = None,
    naming: Annotated[NamingName, typer.Option(help="kohya for most programs, diffusers for PEFT.")] = NamingName.KOHYA,
    dtype: Annotated[DtypeChoice, typer.Option(help="Save the factors in this dtype.")] = DtypeChoice.FP16,
    force: Force = False,
) -> None:
    """Write the difference of B from A as a LoRA, and show how much of it the LoRA keeps."""
    from optimizer.merging.files.presence import require_checkpoint_at

    target = safetensors_target(output)
    for path in (a, b):
        require_checkpoint_at(path)
    with loading_libraries():
        from optimizer.merging.engine.export import atomic_file
        from optimizer.merging.engine.ingredients import EXPORT_DTYPES
        from optimizer.merging.files.checkpoint import Checkpoint
        from optimizer.merging.lora.extract import extract as extract_lora
        from optimizer.merging.lora.extract import write_lora

    first, second = Checkpoint.open(a), Checkpoint.open(b)
    _refuse_inputs(target, [*first.files, *second.files])
    with atomic_file(target, overwrite=force) as temporary:
        with _counting("tensors") as progress:
            lora = extract_lora(
                first, second, rank, conv_rank, device=_device(), dtype=EXPORT_DTYPES[dtype.value], progress=progress
            )
        write_lora(temporary, lora, naming.value, target.stem)
    _show_energy(lora)
    if (rounded := lora.overall.rounded_share) > ROUNDED_SHOWN:
        console.print(
            f"{rounded:.1%} of the difference, counted as lost to the rank, is lost by rounding the factors to "
            f"{dtype.value}: --dtype fp32 keeps more",
            soft_wrap=True,
        )
    console.print(
        f"wrote {escaped(str(target))}: {counted(len(lora.factors), 'layer')}, {target.stat().st_size / 1e6:,.1f} MB",
        soft_wrap=True,
    )


def _show_energy(lora: ExtractedLora) -> None:
    from optimizer.cli.views.tables import FoldingTable

    table = FoldingTable("share of the difference between A and B, squared")
    for head in ("place", "of the total", "kept", "lost to the rank", "not expressible"):
        table.head(head, justify="left" if head == "place" else "right")
    overall = lora.overall
    by_place = {place: energy for place, energy in lora.energy.items() if place != "vae"}
    for place, energy in (*by_place.items(), ("total", overall)):
        lost = 1 - energy.kept_share - energy.not_expressible_share
        if place == "total":
            table.add_section()
        shares = (energy.total / overall.total, energy.kept_share, max(0.0, lost), energy.not_expressible_share)
        table.add_row(place, *(f"{share:.1%}" for share in shares))
    console.print(table)
    for note in _notes(lora):
        console.print(escaped(note), soft_wrap=True)


def _notes(lora: ExtractedLora) -> Iterator[str]:
    yield "not expressible: norms, biases and embeddings, which a LoRA cannot contain"
    if "vae" in lora.energy:
        yield "the VAEs differ: a LoRA contains no VAE, so A's stays"
    if lora.unchanged:
        yield f"{counted(lora.unchanged, 'layer is', 'layers are')} equal in A and B and left out"
    if lora.one_sided:
        keys = ", ".join(lora.one_sided[:KEYS_SHOWN]) + (", ..." if len(lora.one_sided) > KEYS_SHOWN else "")
        yield f"{len(lora.one_sided)} tensors are in only one of the two and were left out: {keys}"


# --------------------------------------------------------------------------------------------- bake


@app.command()
def bake(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            parser=typed_path, metavar="CHECKPOINT", help="The checkpoint to add the LoRAs to.", show_default=False
        ),
    ],
    loras: Annotated[
        list[str],
        typer.Argument(
            metavar="LORA[:WEIGHT]...", help="LoRA files with their weights; default 1.", show_default=False
        ),
    ],
    output: Output,
    dtype: Annotated[
        DtypeChoice | None,
        typer.Option(help="Save weights in this dtype. [default: that of CHECKPOINT]", show_default=False),
    ] = None,
    force: Insist = False,
) -> None:
    """Add LoRAs to a checkpoint, W + weight * (alpha / rank) * up @ down, and write it as one file."""
    from optimizer.merging.files.presence import require_checkpoint_at, require_lora_at
    from search_spaces.slots import beyond_usual

    target = safetensors_target(output)
    refuse_early(target, force=force)
    weighted = [_path_and_weight(text) for text in loras]
    unusual = [(path.name, weight, beyond_usual("lora", weight)) for path, weight in weighted]
    require_usual([f"{name} at {weight:g} is {why}" for name, weight, why in unusual if why], force=force)
    require_checkpoint_at(checkpoint)
    for path, _ in weighted:
        require_lora_at(path)
    with loading_libraries():
        from optimizer.merging.engine.export import atomic_file, export_layout, write_merge
        from optimizer.merging.engine.ingredients import Ingredients
        from optimizer.merging.engine.metadata import merge_metadata
        from optimizer.merging.files.checkpoint import Checkpoint, total_bytes
        from optimizer.merging.files.parents import Parents
        from optimizer.merging.lora.file import Lora
        from optimizer.rendering.prediction import header_fields_of_merge

    base = Checkpoint.open(checkpoint)
    ingredients = Ingredients(Parents.of([base]), tuple(Lora.open(path) for path, _ in weighted))
    _refuse_inputs(target, [*base.files, *(path for lora in ingredients.loras for path in lora.files)])
    recipe = _recipe(ingredients, [weight for _, weight in weighted], dtype)
    device = _device()
    metadata = merge_metadata(
        recipe, ingredients, title=target.stem, prediction=header_fields_of_merge(base), device=device
    )
    size = total_bytes(export_layout(ingredients, recipe.dtype).values())
    with atomic_file(target, overwrite=force) as temporary, reading("writing", size) as advance:
        written = write_merge(temporary, recipe, ingredients, metadata, device, advance)
    _show_baked(ingredients, [weight for _, weight in weighted])
    for note in (*written.notes, *rounding_notes(recipe, ingredients, device)):
        console.print(escaped(note), soft_wrap=True)
    console.print(f"wrote {escaped(str(target))}: {written.bytes / 1e6:,.1f} MB", soft_wrap=True)


def _path_and_weight(text: str) -> tuple[Path, float]:
    """Parse `style.safetensors:0.8`; an existing file with a colon in its name needs no weight."""
    if typed_path(text).exists() or ":" not in text:
        return typed_path(text), 1.0
    path, _, number = text.rpartition(":")
    try:
        weight = float(from_percent(number))
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        fail(f"{text}: expected LORA or LORA:WEIGHT with a finite number, such as style.safetensors:0.8")
    return typed_path(path), weight


def _recipe(ingredients: Ingredients, weights: Sequence[float], dtype: DtypeChoice | None) -> Recipe:
    from search_spaces.blocks import places
    from studies.recipe.recipe import LoraUse, Parent, Recipe

    base, architecture = ingredients.parents.first, ingredients.parents.architecture
    everywhere = sorted(places(architecture))
    return Recipe(
        architecture=architecture.value,
        parents=(Parent(letter="A", name=base.name, sha256=base.sha256),),
        loras=tuple(
            LoraUse(name=lora.name, sha256=lora.sha256, weights=tuple((place, weight) for place in everywhere))
            for lora, weight in zip(ingredients.loras, weights, strict=True)
        ),
        dtype=None if dtype is None else dtype.value,
    )


def _show_baked(ingredients: Ingredients, weights: Sequence[float]) -> None:
    from optimizer.rendering.prediction import prediction_or_problem

    prediction = prediction_or_problem(ingredients.parents.first)
    unclear = [f"it is not known what it predicts: {prediction}"] if isinstance(prediction, str) else []
    for note in (*ingredients.notes, *unclear):
        console.print(escaped(note), soft_wrap=True)
    for lora, weight in zip(ingredients.loras, weights, strict=True):
        touched = lora.places(ingredients.parents.tensors, ingredients.parents.architecture)
        console.print(
            escaped(f"{lora.name} at {weight:g}: {counted(len(lora.modules), 'layer')} in {', '.join(touched)}"),
            soft_wrap=True,
        )


# ------------------------------------------------------------------------------------------- shared


def refuse_early(target: Path, *, force: bool) -> None:
    """Refuse a target before gigabytes are hashed; with --force, a link to a file that is read is named as such later.

    Raises:
        ExportError: see `refuse_target`.
    """
    from optimizer.merging.files.targets import refuse_target

    if not (force and target.is_symlink()):
        refuse_target(target, overwrite=force)


def rounding_notes(recipe: Recipe, ingredients: Ingredients, device: torch.device) -> list[str]:
    """Return a line if the file's dtype is too coarse for what the merge changes."""
    from optimizer.merging.engine.rounding import kept_change

    kept = kept_change(recipe, ingredients, device)
    note = None if kept is None else kept.note("--dtype {dtype}")
    return [] if note is None else [note]


def _refuse_inputs(target: Path, inputs: Sequence[Path]) -> None:
    """Refuse to write over a file that is read, even with --force."""
    if target.exists() and any(target.samefile(path) for path in inputs):
        fail(f"{target} is one of the files to read: give another name with -o")


def _device() -> torch.device:
    """Return a CUDA device if there is one, else the CPU; not Apple's GPU, which has no float64."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar of a count on stderr while the block runs; only in a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: Any = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
