"""The time of a first spec's images on this machine: a few steps of one batch, rendered and scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from basics.quantities import duration
from optimizer.drafting.draft import Draft
from optimizer.drafting.sizing import size_for_hours
from optimizer.drafting.spec_text import spec_text
from optimizer.runtime.device_choice import choose_device
from optimizer.runtime.plan import Plan, make_plan
from optimizer.runtime.timing import BatchTiming, StudyTiming, study_timing, time_batch
from studies.records.values import ParentFile
from studies.spec.study import StudySpec, parse_spec

MEASURED_STEPS = 4  # the time of an image is in proportion to its steps, but for its decoding


def spec_of(draft: Draft) -> StudySpec:
    """Return the spec that a draft's text is.

    Raises:
        SpecError: a prompt or a name cannot be used.
    """
    return parse_spec(spec_text(draft), base_dir=draft.folder, origin="the drafted spec")


def plan_to_measure(draft: Draft) -> Plan:
    """Return the plan of a study that is measured: a draft's, with few steps, and on a CPU one image at a time.

    Raises:
        CheckpointError, RenderError, SpecError: as `make_plan` and `spec_of`.
    """
    spec = spec_of(draft)
    suite = spec.suite.model_copy(update={"steps": MEASURED_STEPS})
    alone = choose_device(spec.render.device).type == "cpu"
    render = spec.render.model_copy(update={"batch_size": 1 if alone else None})
    return make_plan(spec.model_copy(update={"suite": suite, "render": render}))


def measure(draft: Draft, plan: Plan, parents: tuple[ParentFile, ...], cache: Path) -> Draft:
    """Return a draft with the size that fits into its hours.

    Args:
        plan: from `plan_to_measure`.
        parents: its parents, hashed.
        cache: folder of scorers' weights.

    Raises:
        NoMemoryError: it does not fit into memory.
        CheckpointError, RenderError, ScorerError, UnscorableTrial: it cannot be rendered or scored.
    """
    batch = time_batch(plan, parents, cache)

    def timing(seeds: int) -> StudyTiming:
        spec = spec_of(draft.with_size(replace(draft.sizing, seeds=seeds), ""))
        return study_timing(replace(plan, spec=spec), batch)

    sizing = size_for_hours(len(draft.prompts), draft.hours, timing)
    return draft.with_size(sizing, _basis(timing(sizing.seeds), batch))


def _basis(study: StudyTiming, batch: BatchTiming) -> str:
    images = "one image" if batch.images == 1 else f"a batch of {batch.images} images"
    return (
        f"Measured here with {images} of {MEASURED_STEPS} steps: about {duration(study.image_seconds)} an image, "
        f"{duration(study.trial_seconds)} a trial."
    )
