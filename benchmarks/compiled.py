"""Compare a U-Net whose repeated blocks are compiled with the same U-Net without compilation, on a CPU.

    python benchmarks/compiled.py [--models demo sd15] [--rounds 5] [--images 2] [--steps 2]

It renders the demo's parent A at 64 px, and SD1.5 of full width with random weights at 128 px. Both ways take turns on
the same weights, with one thread. A way's figure is the least CPU time of its turns, which other programs disturb less
than wall time. No study compiles its U-Net; this shows what that would gain, and whether its images would be the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from synthetic import write_synthetic
from torch import Tensor

import studies
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.rendering.models import build_models
from optimizer.rendering.render import Renderer
from optimizer.rendering.variation import grey_levels
from optimizer.runtime.setup import build_renderer
from studies.spec.rendering import RenderSettings
from studies.spec.suite import SuitePrompt, SuiteSettings

DEMO = Path(studies.__file__).parent / "demo" / "animals.safetensors"
CPU = torch.device("cpu")
SCALED = 1.01  # a change of the weights in place, as a merge makes it


def loaded(checkpoint: Path, size: int, options: argparse.Namespace) -> tuple[ResidentModel, Renderer]:
    prompts = tuple(SuitePrompt(prompt=f"a photograph of {index + 1} apples") for index in range(options.images))
    suite = SuiteSettings(prompts=prompts, sizes=((size, size),), steps=options.steps)
    ingredients = Ingredients(Parents.of([Checkpoint.open(checkpoint)]))
    return build_renderer(ingredients, suite, RenderSettings(device="cpu"), CPU, None)


def with_compiled_blocks(resident: ResidentModel, renderer: Renderer) -> Renderer:
    """Return a renderer with modules of its own over the same weights, whose U-Net's repeated blocks are compiled."""
    models = build_models(resident, renderer.models.prediction)
    models.unet.compile_repeated_blocks(fullgraph=True)
    return Renderer(models, renderer.suite)


@torch.inference_mode()
def timed_render(renderer: Renderer) -> tuple[float, tuple[Tensor, ...]]:
    """Return the CPU seconds of rendering the suite, without its prompts, and the images."""
    renderer.encoder.conditions(renderer.items)
    start = time.process_time()
    images = renderer.render().images
    return time.process_time() - start, images


def compare(name: str, resident: ResidentModel, renderer: Renderer, rounds: int) -> None:
    """Print the ratio of both ways, and how far apart their images are."""
    other = with_compiled_blocks(resident, renderer)
    start = time.process_time()
    timed_render(other)
    first = time.process_time() - start
    turns: dict[str, list[float]] = {"eager": [], "compiled": []}
    for _ in range(rounds):
        seconds, eager = timed_render(renderer)
        turns["eager"].append(seconds)
        seconds, compiled = timed_render(other)
        turns["compiled"].append(seconds)
    least = {way: min(seconds) for way, seconds in turns.items()}
    spread = ", ".join(f"{way} {min(seconds):.3f} to {max(seconds):.3f} s" for way, seconds in turns.items())
    print(f"{name}: {spread}; compiled once, with a first render, in {first:.1f} s")
    print(f"  compiled / eager: {least['compiled'] / least['eager']:.3f}; {difference(eager, compiled)}", flush=True)
    with torch.inference_mode():
        for _, weight in resident.parameters("unet"):
            weight.mul_(SCALED)
    (_, eager), (_, compiled) = timed_render(renderer), timed_render(other)
    print(f"  after a change of the weights in place: {difference(eager, compiled)}", flush=True)


def difference(eager: tuple[Tensor, ...], compiled: tuple[Tensor, ...]) -> str:
    pairs = list(zip(eager, compiled, strict=True))
    equal = sum(torch.equal(*pair) for pair in pairs)
    apart = max(grey_levels(*pair) for pair in pairs)
    return f"{equal} of {len(pairs)} images equal, at most {apart:.4f} grey levels apart on average"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=["demo", "sd15"], default=["demo", "sd15"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            demo = model == "demo"
            checkpoint = DEMO if demo else write_synthetic(Path(folder) / "sd15.safetensors", "sd15", 0)
            size = 64 if demo else 128
            name = f"{model}, {options.images} images of {size} px"
            compare(name, *loaded(checkpoint, size, options), options.rounds)


if __name__ == "__main__":
    main()
