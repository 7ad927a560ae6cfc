"""How well measures without weights tell good pictures from broken ones, on the demo's parents.

    python benchmarks/pixel_measures.py [--prompts 32] [--steps 20]

Broken pictures of the first kind are those of merges with the U-Net's ratio far outside 0 to 1, beside good ones of the
parents and the even merge. Broken pictures of the second kind are wide and tall ones of the even merge, which draws its
subject again; good ones are its squares in the middle of a wide white picture, stretched to it, and two of different
subjects side by side. Printed is the probability that a measure is higher for a broken picture than for a good one (the
area under the ROC curve): 0.5 tells nothing, and 0 or 1 everything.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter
from torch import Tensor

import studies
from optimizer.rendering.render import Renderer
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from optimizer.runtime.setup import Runtime, build_runtime
from scorers.images import resize
from scorers.pixels import statistics
from scorers.pixels.repetition import repetition
from search_spaces.blocks import places
from studies.spec.study import StudySpec, load_spec

Measure = Callable[[Tensor], float]

GOOD, BROKEN = (0.0, 0.5, 1.0), (-1.5, -1.0, 1.5, 2.0)
SIZES = {"2:1": (128, 64), "3:1": (192, 64), "1:2": (64, 128)}


def noise(image: Tensor) -> float:
    """Immerkaer 1996, Fast noise variance estimation, https://doi.org/10.1006/cviu.1996.0060."""
    y = statistics.luma(image)
    rows = y[:-2] - 2 * y[1:-1] + y[2:]
    return float((rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]).abs().mean() * (np.pi / 2) ** 0.5 / 6)


def blockiness(image: Tensor) -> float:
    """Differences across the VAE's borders of 8 pixels, as a multiple of the others."""
    y = statistics.luma(image)
    shares = []
    for steps in (y.diff(dim=1).abs(), y.diff(dim=0).abs().T):
        at_border = torch.arange(steps.shape[1]) % 8 == 7
        shares.append(float(steps[:, at_border].mean() / (steps[:, ~at_border].mean() + 1e-6)))
    return float(np.mean(shares))


def halo(image: Tensor) -> float:
    """How far luma beside strong edges leaves the range of its surroundings, in levels."""
    y = statistics.luma(image).numpy()
    fine, coarse = gaussian_filter(y, 1), gaussian_filter(y, 3)
    slope = np.hypot(*np.gradient(fine))
    beside = maximum_filter(slope > np.quantile(slope, 0.95), 5)
    outside = np.clip(fine - maximum_filter(coarse, 7), 0, None) + np.clip(minimum_filter(coarse, 7) - fine, 0, None)
    return float(outside[beside].mean())


ARTEFACTS: Mapping[str, Measure] = {
    "sharpness": statistics.sharpness,
    "contrast": statistics.contrast,
    "colourfulness": statistics.colourfulness,
    "clipping": statistics.clipping,
    "noise": noise,
    "blockiness": blockiness,
    "halo": halo,
}


def area_under_curve(good: Sequence[float], broken: Sequence[float]) -> float:
    """Return the probability that a broken picture has the higher value; ties count half."""
    differences = np.subtract.outer(np.array(broken), np.array(good))
    return float((differences > 0).mean() + (differences == 0).mean() / 2)


class Pictures:
    """Renders of merges of the demo's parents."""

    def __init__(self, spec: StudySpec, folder: Path) -> None:
        plan = make_plan(spec)
        self._suite, self._space = spec.suite, plan.space
        self._runtime: Runtime = build_runtime(plan, hash_parents(plan), folder)

    @torch.inference_mode()
    def of(self, ratio: float, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, ...]:
        """Render the suite at a size with one ratio for the U-Net, and the text encoder at one half."""
        numbers = {place: (0.5 if place == "text_encoder" else ratio,) for place in places(self._space.architecture)}
        evaluator = self._runtime.evaluator
        evaluator.resident.merge(self._runtime.blueprint.recipe(numbers))
        suite = self._suite.model_copy(update={"sizes": (size,)})
        return Renderer(evaluator.renderer.models, suite).render().images


def artefacts(pictures: Pictures) -> None:
    by_ratio = {ratio: pictures.of(ratio) for ratio in (*GOOD, *BROKEN)}
    print(f"{'U-Net ratio':<16}" + "".join(f"{ratio:>8}" for ratio in BROKEN))
    for name, measure in ARTEFACTS.items():
        good = [measure(image) for ratio in GOOD for image in by_ratio[ratio]]
        areas = [area_under_curve(good, [measure(image) for image in by_ratio[ratio]]) for ratio in BROKEN]
        print(f"{name:<16}" + "".join(f"{area:>8.2f}" for area in areas), flush=True)


def single_pictures(squares: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """Make wide pictures in which no subject is drawn twice."""
    margin = torch.full((3, 64, 32), 255, dtype=torch.uint8)
    wide = [resize(image[None].float(), (64, 128), "bicubic")[0].byte() for image in squares]
    others = [*squares[5:], *squares[:5]]
    return {
        "in the middle": [torch.cat([margin, image, margin], dim=2) for image in squares],
        "stretched": wide,
        "two different": [torch.cat(pair, dim=2) for pair in zip(squares, others, strict=True)],
    }


def repetitions(pictures: Pictures) -> None:
    single = single_pictures(pictures.of(0.5))
    values = {name: [repetition(image) for image in images] for name, images in single.items()}
    print(f"{'repetition':<16}" + "".join(f"{name:>16}" for name in values))
    for name, size in SIZES.items():
        doubled = [repetition(image) for image in pictures.of(0.5, size)]
        areas = [area_under_curve(good, doubled) for good in values.values()]
        print(f"{name:<16}" + "".join(f"{area:>16.2f}" for area in areas), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    spec = load_spec(Path(studies.__file__).parent / "demo" / "demo.yaml")
    changes = {"prompts": spec.suite.prompts[: options.prompts], "seeds": (1,), "steps": options.steps}
    with tempfile.TemporaryDirectory() as folder:
        pictures = Pictures(spec.model_copy(update={"suite": spec.suite.model_copy(update=changes)}), Path(folder))
        artefacts(pictures)
        repetitions(pictures)


if __name__ == "__main__":
    main()
