"""How long a study takes on this machine and how much it needs, told from one merge and one batch of its images.

Notation: the work of an image is the calls of the U-Net times the pixels of the pass that they belong to. The time of
an image is taken to be in proportion to its work, which is exact where all images of a suite are rendered alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from optimizer.merging.files.checkpoint import total_bytes
from optimizer.rendering.batching import batches
from optimizer.rendering.contact_sheet import contact_sheet, row_captions
from optimizer.rendering.prediction import Prediction
from optimizer.rendering.sampling.second_pass import calls_of_passes
from optimizer.rendering.variation import only
from optimizer.runtime.plan import Plan
from optimizer.runtime.setup import Runtime, build_runtime
from optimizer.search.probes import Probe
from optimizer.trial.evaluation import Evaluation, Evaluator
from scorers.protocol import Scorer
from studies.files.artifacts import encoded_sheet
from studies.files.png import encode_png
from studies.records.values import ParentFile
from studies.spec.samplers import ProgramName, Sampling
from studies.spec.search import BudgetSettings
from studies.spec.suite import SuiteItem, SuiteSettings

GUIDED_PASSES = 2  # classifier-free guidance runs the U-Net with and without the prompt
RENDER_STEPS = ("text", "denoise", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTiming:
    """What one merge and one batch of the suite's images took."""

    images: int
    work: float  # of all of them
    merge_seconds: float
    render_seconds: float
    score_seconds: float
    unscored: tuple[str, ...]  # scorers that need more images than a batch has
    png_bytes: int  # of the images, as they are stored
    sheet_bytes: int  # of a contact sheet of them
    pixels: int  # of the images
    host_bytes: int  # that this process held then
    device_bytes: int | None  # the most that was held on the device; None: it uses the host's memory


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTiming:
    """How long a study takes on this machine, and how much it writes; loading is not in it."""

    image_seconds: float  # of the suite's average image, with its score
    trial_seconds: float
    trials: int  # at most, within all limits of the budget
    final_seconds: float
    stored_bytes: int  # renders and contact sheets
    export_bytes: int

    @property
    def seconds(self) -> float:
        """Of the whole study."""
        return self.trials * self.trial_seconds + self.final_seconds


def unet_passes(sampling: Sampling, prediction: Prediction, program: ProgramName) -> int:
    """Return how often the U-Net sees an image, in both passes if there are two.

    Args:
        prediction, program: see `calls_of_passes`.
    """
    return sum(calls_of_passes(sampling, prediction, program)) * _runs_of_a_call(sampling)


def _runs_of_a_call(sampling: Sampling) -> int:
    return (GUIDED_PASSES if sampling.is_guided else 1) + (sampling.pag.scale > 0)


def work_of(items: Iterable[SuiteItem], prediction: Prediction, program: ProgramName) -> float:
    """Return the work of some images together.

    Args:
        prediction, program: see `calls_of_passes`.
    """
    return float(sum(_work_of_one(item, prediction, program) for item in items))


def _work_of_one(item: SuiteItem, prediction: Prediction, program: ProgramName) -> int:
    sizes = ((item.width, item.height), item.image_size)
    calls = calls_of_passes(item.sampling, prediction, program)
    return _runs_of_a_call(item.sampling) * sum(
        each * width * height for each, (width, height) in zip(calls, sizes, strict=False)
    )


def timed_batch(suite: SuiteSettings, batch_size: int | None) -> tuple[SuiteItem, ...]:
    """Return the items that are rendered to measure: the first of the suite's largest batches.

    Args:
        batch_size: the spec's; None for the usual one.
    """
    largest = max(batches(suite.items(), batch_size), key=len)
    return tuple(largest)


def time_batch(plan: Plan, parents: tuple[ParentFile, ...], cache: Path) -> BatchTiming:
    """Load a study's models and scorers, and measure one merge with one batch.

    On a CUDA device the second batch is measured: the first one chooses kernels and records them.

    Raises:
        CheckpointError, RenderError, ScorerError, RecipeError: as `build_runtime`.
        NoMemoryError: it does not fit into memory.
        UnscorableTrial: the batch cannot be rendered or scored.
    """
    spec = plan.spec
    batch = timed_batch(spec.suite, spec.render.batch_size)
    # Broken images cost as much time as others, and are no matter here.
    render = spec.render.model_copy(update={"degenerate_limit": len(batch)})
    small = spec.model_copy(update={"suite": only(spec.suite, batch), "racing": None, "render": render})
    runtime = build_runtime(replace(plan, spec=small), parents, cache)
    scorers = _scorers_of(runtime.evaluator, len(batch))
    evaluator = Evaluator(runtime.evaluator.resident, runtime.evaluator.renderer, scorers, degenerate_limit=len(batch))
    measured = [evaluator.evaluate(probe.recipe) for probe in _probes(runtime)][-1]
    seconds = measured.seconds
    return BatchTiming(
        images=len(batch),
        work=work_of(batch, plan.prediction, spec.suite.program),
        merge_seconds=seconds["merge"],
        render_seconds=sum(seconds[step] for step in RENDER_STEPS),
        score_seconds=seconds["score"],
        unscored=tuple(name for name in runtime.evaluator.scoring.scorers if name not in scorers),
        png_bytes=sum(len(encode_png(image.numpy())) for image in measured.images),
        sheet_bytes=_sheet_bytes(measured, batch),
        pixels=_pixels(batch),
        host_bytes=psutil.Process().memory_info().rss,
        device_bytes=torch.cuda.max_memory_reserved(runtime.device) if runtime.device.type == "cuda" else None,
    )


def _scorers_of(evaluator: Evaluator, images: int) -> dict[str, Scorer]:
    """Return the scorers to which so many images are enough."""
    every = evaluator.scoring.scorers
    return {name: scorer for name, scorer in every.items() if scorer.info.min_images <= images}


def _probes(runtime: Runtime) -> tuple[Probe, ...]:
    """Return the probes to merge: the last ones, which are merges where a study has any but its parents."""
    return runtime.probes[-2:] if runtime.device.type == "cuda" else runtime.probes[-1:]


def _sheet_bytes(measured: Evaluation, batch: tuple[SuiteItem, ...]) -> int:
    return len(encoded_sheet(contact_sheet("", measured.images, row_captions(batch))))


def study_timing(plan: Plan, batch: BatchTiming) -> StudyTiming:
    """Return what a whole study takes, given one batch of it."""
    spec, program = plan.spec, plan.spec.suite.program
    items, held_out = spec.suite.items(), spec.held_out.items()

    def rendered(images: tuple[SuiteItem, ...]) -> float:
        per_image = batch.score_seconds / batch.images * len(images)
        return batch.render_seconds / batch.work * work_of(images, plan.prediction, program) + per_image

    trial = batch.merge_seconds + rendered(items)
    finalists = spec.final.top + len(plan.checkpoints) if spec.final.top else 0
    trials = trials_within(spec.budget, trial, len(items))
    png = batch.png_bytes / batch.pixels
    sheet = trials * batch.sheet_bytes / batch.images * len(items)
    of_search = {"all": trials, "best": len(plan.checkpoints) + 1, "none": 0}[spec.render.keep] * _pixels(items)
    of_final = 0 if spec.render.keep == "none" else finalists * _pixels(held_out)
    return StudyTiming(
        image_seconds=rendered(items) / len(items),
        trial_seconds=trial,
        trials=trials,
        final_seconds=finalists * (batch.merge_seconds + rendered(held_out)),
        stored_bytes=round(png * (of_search + of_final) + sheet),
        export_bytes=total_bytes(plan.checkpoints[0].tensors.values()),
    )


def _pixels(items: Iterable[SuiteItem]) -> int:
    return sum(width * height for width, height in (item.image_size for item in items))


def trials_within(budget: BudgetSettings, trial_seconds: float, images: int) -> int:
    """Return how many trials a budget has room for, at least one.

    Args:
        images: of a trial.
    """
    limits = [float(budget.trials)]
    if budget.images is not None:
        limits.append(budget.images / images)
    if budget.minutes is not None:
        limits.append(60 * budget.minutes / trial_seconds)
    return max(1, math.ceil(min(limits)))
