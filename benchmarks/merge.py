"""The resident merge against a plain copy of one parent into the live buffer, in the same run.

    python benchmarks/merge.py [--layout sd15|sdxl] [--device cpu|cuda] [--live fp16|fp32] [--merges 200]

Prints ratios, and the process's memory over many merges. Parents are random weights of the true shapes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from memory import anonymous_bytes
from synthetic import write_synthetic

from optimizer.merging.checkpoint import Checkpoint
from optimizer.merging.layout import Component
from optimizer.merging.resident import ResidentModel
from search_spaces.blocks import places
from studies.recipe import Parent, Recipe, canonical_ratios

COMPONENTS: tuple[Component, ...] = ("unet", "vae", "text_encoder", "text_encoder_2")


def recipe(model: ResidentModel, method: str, parents: int, ratio: float) -> Recipe:
    """The same ratio everywhere."""
    slots = (ratio,) * (1 if method == "add_difference" else parents - 1)
    return Recipe(
        architecture=model.architecture.value,
        method=method,
        parents=tuple(Parent(letter=letter, name=letter, sha256="0" * 64) for letter in "ABC"[:parents]),
        ratios=canonical_ratios(dict.fromkeys(places(model.architecture), slots)),
    )


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median over repeats, after one to warm up."""
    taken = []
    for index in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if index:
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", choices=("sd15", "sdxl"), default="sd15")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--live", choices=("fp16", "fp32"), default=None, help="default: fp32 on a CPU, fp16 on a GPU")
    parser.add_argument("--merges", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    device = torch.device(options.device)
    live = options.live or ("fp32" if device.type == "cpu" else "fp16")
    dtype = torch.float32 if live == "fp32" else torch.float16
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_synthetic(Path(folder) / f"{seed}.safetensors", options.layout, seed) for seed in (1, 2, 3)]
        for method, count in (("weighted_sum", 2), ("weighted_sum", 3), ("add_difference", 3)):
            parents = [Checkpoint.open(path) for path in paths[:count]]
            model = ResidentModel(parents, device=device, live_dtypes=dict.fromkeys(COMPONENTS, dtype))
            measure(model, method, count, options.repeats, device, f"{options.layout} {device} live {live}")
            if count == 2:
                watch_memory(model, options.merges)
            del model, parents


def measure(model: ResidentModel, method: str, count: int, repeats: int, device: torch.device, what: str) -> None:
    ratios = iter([0.1 + 0.01 * index for index in range(repeats + 2)])
    merge = seconds(lambda: model.merge(recipe(model, method, count, next(ratios))), device, repeats)
    copy = seconds(model.copy_first, device, repeats)
    print(f"{what}, {method} of {count}: merge {merge:.3f} s, copy {copy:.3f} s, ratio {merge / copy:.2f}")


def watch_memory(model: ResidentModel, merges: int) -> None:
    sizes = []
    for index in range(merges):
        model.merge(recipe(model, "weighted_sum", 2, (index % 97 + 1) / 100))
        sizes.append(anonymous_bytes())
    early = sizes[min(5, merges - 1)]
    print(
        f"anonymous memory after merge 5: {early / 1e9:.3f} GB, after merge {merges}: {sizes[-1] / 1e9:.3f} GB, "
        f"grown by {(sizes[-1] - early) / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
