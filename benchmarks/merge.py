"""Compare resident merges with a plain copy of one parent into the live buffers, in the same run.

    python benchmarks/merge.py [--layout sd15|sdxl] [--device cpu|cuda] [--live fp16|fp32] [--merges 200]
                               [--method NAME[:INPUTS] ...] [--clip] [--lora] [--placement device|host|files]
                               [--small]

Prints the seconds of both, their ratio, and the process's memory over many merges; of a random method also the seconds
of its draws, beside those of torch's own generator, which draws on the CPU so that every device gets the same numbers.
Parents have random weights of the true shapes; all values of a method lie in the middle of their usual range. `--small`
takes small parents, to see that it runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from memory import anonymous_bytes
from records import add_records_option, record
from synthetic import write_lora, write_synthetic

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from checkpoints import write_checkpoint

from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.philox import uniform
from optimizer.merging.engine.placement import Placement
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint, letters
from optimizer.merging.files.layout import Component
from optimizer.merging.files.parents import Parents
from optimizer.merging.lora.file import Lora
from search_spaces.blocks import places
from search_spaces.slots import Slot
from studies.recipe.methods import METHODS
from studies.recipe.recipe import LoraUse, Operation, Parent, Recipe, Step, canonical_values

COMPONENTS: tuple[Component, ...] = ("unet", "vae", "text_encoder", "text_encoder_2")
DRAWN = 1 << 24  # numbers in the comparison of generators
COMMON_METHODS = ("weighted_sum:2", "weighted_sum:3", "add_difference:3")


def operation_of(text: str, *, clip: bool) -> Operation:
    """Parse an operation: `ties:3` is ties of A, B and C; without a number it has the least inputs possible."""
    name, _, count = text.partition(":")
    if name not in METHODS:
        raise SystemExit(f"unknown method {name!r}: use one of {', '.join(METHODS)}")
    info = METHODS[name]
    if count and not (count.isdecimal() and info.accepts(int(count))):
        raise SystemExit(f"{name} takes {info.wanted_inputs} inputs, got {count}")
    return Operation(method=name, inputs=letters(int(count or info.least_inputs)), clip=clip)


def recipe(model: ResidentModel, operation: Operation, share: float) -> Recipe:
    """Return a recipe with the same values in every place.

    Args:
        share: position of every value between its usual bounds, 0 to 1.
    """
    all_places = places(model.architecture)
    values = tuple(_within(slot, share) for slot in operation.slots)
    weights = tuple((place, share) for place in sorted(all_places))
    return Recipe(
        architecture=model.architecture.value,
        parents=tuple(
            Parent(letter=letter, name=letter, sha256="0" * 64)
            for letter in letters(len(model.ingredients.parents.checkpoints))
        ),
        steps=(Step(operation=operation, values=canonical_values(dict.fromkeys(all_places, values))),),
        loras=tuple(LoraUse(name=lora.name, sha256=lora.sha256, weights=weights) for lora in model.ingredients.loras),
    )


def _within(slot: Slot, share: float) -> float:
    return slot.low + share * (slot.high - slot.low)


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Measure the median wall time over repeats, after one warm-up run."""
    times = []
    for index in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if index:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", choices=("sd15", "sdxl"), default="sd15")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--live", choices=("fp16", "fp32"), default=None, help="default: fp32 on a CPU, fp16 on a GPU")
    parser.add_argument("--method", nargs="+", default=COMMON_METHODS, metavar="NAME[:INPUTS]", help="or `all`")
    parser.add_argument("--clip", action="store_true", help="with weights clip")
    parser.add_argument("--lora", action="store_true", help="with a LoRA of rank 16 on every attention layer")
    parser.add_argument("--placement", choices=[placement.name.lower() for placement in Placement], default="device")
    parser.add_argument(
        "--merges",
        type=int,
        default=200,
        help="number of merges of the first method in which memory is watched; 0: none",
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where parents are written, and reused; default: a temporary folder"
    )
    add_records_option(parser)
    options = parser.parse_args()
    names = list(METHODS) if options.method == ["all"] else options.method
    operations = [operation_of(name, clip=options.clip) for name in names]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        paths = [
            parent(folder / f"{options.layout}-{letter}.safetensors", options.layout, seed, small=options.small)
            for seed, letter in enumerate(letters(max(len(operation.inputs) for operation in operations)))
        ]
        lora = write_lora(Path(temporary) / "lora.safetensors", options.layout) if options.lora else None
        for index, operation in enumerate(operations):
            model = resident(paths[: len(operation.inputs)], lora, options)
            measure(model, operation, options)
            if index == 0 and options.merges:
                watch_memory(model, operation, options.merges)
            del model


def parent(path: Path, layout: str, seed: int, *, small: bool) -> Path:
    if path.exists():
        return path
    return write_checkpoint(path, layout, seed) if small else write_synthetic(path, layout, seed)


def resident(paths: list[Path], lora: Path | None, options: argparse.Namespace) -> ResidentModel:
    live = options.live or ("fp32" if torch.device(options.device).type == "cpu" else "fp16")
    dtype = torch.float32 if live == "fp32" else torch.float16
    loras = () if lora is None else (Lora.open(lora),)
    return ResidentModel(
        Ingredients(Parents.of([Checkpoint.open(path) for path in paths]), loras),
        device=options.device,
        live_dtypes=dict.fromkeys(COMPONENTS, dtype),
        placement=Placement[options.placement.upper()],
    )


def measure(model: ResidentModel, operation: Operation, options: argparse.Namespace) -> None:
    # Equal plans are skipped. Every recipe has another seed, so that each is a new merge even where it has no values.
    recipes = iter(
        [
            recipe(model, replace(operation, seed=index), 0.4 + 0.2 * index / (options.repeats + 1))
            for index in range(options.repeats + 1)
        ]
    )
    merge = median_seconds(lambda: model.merge(next(recipes)), model.device, options.repeats)
    title = f"{options.layout} {model.device}, {operation.method} of {len(operation.inputs)}"
    title += " clipped" * operation.clip + " with a LoRA" * bool(model.ingredients.loras)
    if model.placement is Placement.FILES:
        print(f"{title}: merge {merge:.3f} s from files")
        record(options.records, "merge", what=title, placement="files", merge_seconds=merge)
        return
    copy = median_seconds(lambda: copy_parent_a(model), model.device, options.repeats)
    print(f"{title}: merge {merge:.3f} s, copy {copy:.3f} s, ratio {merge / copy:.2f}", flush=True)
    sizes = {"live_bytes": sum(tensor.nbytes for tensor in model.live_tensors().values()), "held_bytes": model.nbytes()}
    name = model.placement.name.lower()
    record(options.records, "merge", what=title, placement=name, merge_seconds=merge, copy_seconds=copy, **sizes)
    if operation.info.random:
        measure_draws(model, title, len(operation.inputs) - 1, copy, options)


def measure_draws(model: ResidentModel, title: str, inputs: int, copy: float, options: argparse.Namespace) -> None:
    """Compare the draws of a whole merge with a copy, and some numbers with torch's generator on the CPU, in turns.

    Args:
        inputs: those with draws of their own.
        copy: seconds of a copy of parent A.
    """
    device = model.device
    sizes = [tensor.numel() for tensor in model.live_tensors().values()] * inputs
    draws = median_seconds(lambda: [uniform((1, 2), size, device) for size in sizes], device, 1)
    generator = torch.Generator()
    ours, torchs = [], []
    for _ in range(options.repeats):
        ours.append(median_seconds(lambda: uniform((1, 2), DRAWN, device), device, 1))
        torchs.append(median_seconds(lambda: torch.rand(DRAWN, generator=generator).to(device), device, 1))
    here, there = statistics.median(ours), statistics.median(torchs)
    print(
        f"{title}: {sum(sizes):,} draws {draws:.3f} s, {draws / copy:.1f} copies; {DRAWN:,} draws {here:.4f} s, "
        f"by torch on the CPU {there:.4f} s, ratio {here / there:.2f}",
        flush=True,
    )
    figures = {"draws_seconds": draws, "numbers": sum(sizes), "sample_seconds": here, "torch_sample_seconds": there}
    record(options.records, "draws", what=title, copy_seconds=copy, **figures)


def copy_parent_a(model: ResidentModel) -> None:
    """Make parent A live by a plain copy without rounding, slab by slab as a merge goes through them.

    Sources must be in memory, and components must not take turns.
    """
    for slab in model._slabs:  # noqa: SLF001 - the same buffers as in a merge, or it would be no baseline for one
        slab.live.copy_(next(iter(slab.buffers.values())))
        slab.live_plan = None


def watch_memory(model: ResidentModel, operation: Operation, merges: int) -> None:
    """Print how much the process's anonymous memory grows between the fifth merge and the last."""
    sizes = []
    for index in range(merges):
        model.merge(recipe(model, operation, (index % 97 + 1) / 100))
        sizes.append(anonymous_bytes())
    early = sizes[min(5, merges - 1)]
    print(
        f"anonymous memory after merge 5: {early / 1e9:.3f} GB, after merge {merges}: {sizes[-1] / 1e9:.3f} GB, "
        f"grown by {(sizes[-1] - early) / 1e6:.1f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
