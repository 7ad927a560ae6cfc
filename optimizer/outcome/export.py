"""Export a trial's merge as a file, and prove that the file is the model that was scored.

The checkpoint is written beside its final path. It gets its name only after its tensors were read back and compared
with those that the recipe merges in memory, and after it was opened like any checkpoint and rendered the suite: see
proof.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from basics.files import is_same_file
from basics.messages import counted
from optimizer.errors import ExportError, NoMemoryError, UnscorableTrial
from optimizer.merging.engine.export import Exported, atomic_file, export_layout, refuse_sources, write_merge
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.metadata import MARKERS_FIELD, markers_in, merge_metadata
from optimizer.merging.engine.rounding import kept_change
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import MARKERS, Parents
from optimizer.merging.files.sources import TensorInfo, abbreviated
from optimizer.outcome.proof import RenderComparison, compare_renders, different_tensors
from optimizer.rendering.largest_batches import LargestBatches
from optimizer.rendering.loras import NO_LORAS, SuiteLoras
from optimizer.rendering.prediction import flow_hint, header_fields, markers_of
from optimizer.runtime.device_choice import choose_device
from optimizer.runtime.machine import CPU_SETTINGS, VARIATION_FIELD, machine_description
from optimizer.runtime.plan import Plan
from optimizer.runtime.setup import build_renderer
from optimizer.trial.stored_scores import trial_scores
from studies.files.artifacts import Artifacts
from studies.records.batch_limits import BatchLimit
from studies.records.stored_studies import software_versions
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy, StoredTrial
from studies.spec.fingerprints import suite_fingerprints, those_of_suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A proven export."""

    file: Exported
    proof: str  # what is equal to the bit, for people
    difference: str  # how the file's renders differ from the scored ones, for people; empty where they do not


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Callbacks of an export in progress."""

    written: Callable[[int], None]  # bytes of each tensor
    compared: Callable[[int], None]  # bytes of each tensor
    rendered: Callable[[int], None]  # images so far


def deliver(
    records: StudyRecords,
    trial: StoredTrial,
    plan: Plan,
    artifacts: Artifacts,
    target: Path,
    *,
    overwrite: bool,
    watch: Watch,
) -> Delivery:
    """Write a trial's merge to `target`, and prove it.

    Raises:
        ExportError: the trial has no renders, the file cannot be written or is replaced at once, or it does not hold
            the trial's merge.
    """
    if trial.state != "complete":
        raise ExportError(f"trial {trial.number} is {trial.state}, so there is nothing to compare an export with")
    refuse_sources(target, {**plan.ingredients.files, **plan.suite_loras.files})
    _repeat_conditions(trial)
    device = choose_device(records.study.spec.render.device)  # the arithmetic of one device, as in the trial
    metadata = export_metadata(records, trial, plan, device)
    layout = export_layout(plan.ingredients, trial.recipe.dtype, markers_in(metadata))
    largest_batches = LargestBatches()
    largest_batches.adopt(trial.batch_limits)
    with atomic_file(target, overwrite=overwrite) as temporary:
        written = write_merge(temporary, trial.recipe, plan.ingredients, metadata, device, watch.written)
        proven = temporary.lstat()
        _require_merge(temporary, layout, records.study, trial, plan, watch.compared)
        images = _render_if_it_fits(temporary, records.study, plan.suite_loras, watch.rendered, largest_batches)
    hints = [flow_hint(plan.prediction)] if plan.prediction.kind == "flow" else []
    notes = (*written.notes, *_rounding_notes(trial, plan, device), *hints)
    # Its tensors are right, so from here on the file stays, whatever the renders say.
    found = None if images is None else compare_renders(records, trial, artifacts, images)
    _require_name(target, proven)
    return Delivery(
        file=replace(written, path=target, notes=notes),
        proof=_proof(len(layout), found, trial),
        difference=_difference(found, records, trial, machine_description(device), largest_batches.known),
    )


def _rounding_notes(trial: StoredTrial, plan: Plan, device: torch.device) -> list[str]:
    """Return a line if the study's dtype is too coarse for what the merge changes; its images were rendered so, too."""
    kept = kept_change(trial.recipe, plan.ingredients, device)
    note = None if kept is None else kept.note("a study with `export: {{dtype: {dtype}}}`")
    return [] if note is None else [note]


def _repeat_conditions(trial: StoredTrial) -> None:
    """Take as many threads as the trial had: a CPU's sums depend on how many share them."""
    if trial.machine.get("device") == "cpu":
        torch.set_num_threads(int(trial.machine["threads"]))


def export_metadata(records: StudyRecords, trial: StoredTrial, plan: Plan, device: torch.device) -> dict[str, str]:
    """Return the header's metadata: that of the merge, and where it comes from. The date is that of the trial."""
    study = records.study
    scores = trial_scores(records, trial)
    results: dict[str, object] = {"objectives": dict(trial.objectives), "scores": scores.means}
    if trial.estimated:
        results["estimated_from_images"] = trial.rendered
    metadata = merge_metadata(
        trial.recipe,
        plan.ingredients,
        title=f"{study.name} trial {trial.number}",
        prediction=header_fields(plan.prediction),
        device=device,
    )
    return metadata | {
        **marker_metadata(plan),
        "mergetune.study": json.dumps({"name": study.name, "trial": trial.number, "origin": trial.title}),
        "mergetune.scores": json.dumps(results),
        "mergetune.suite_sha256": study.suite_digest,
        "mergetune.software": json.dumps(software_versions()),
        "modelspec.date": datetime.fromtimestamp(trial.finished_at or trial.started_at, UTC).isoformat(
            timespec="seconds"
        ),
    }


def marker_metadata(plan: Plan) -> dict[str, str]:
    """Return the markers of what the study rendered, where they are not parent A's.

    Markers are empty tensors whose names tell a program that loads the file what the model predicts.
    """
    wanted = markers_of(plan.prediction)
    if wanted is None or wanted == MARKERS & plan.checkpoints[0].tensors.keys():
        return {}
    return {MARKERS_FIELD: " ".join(sorted(wanted))}


def _require_name(target: Path, proven: os.stat_result) -> None:
    """Refuse to report a proof where the name is not that of the proven file any more.

    Raises:
        ExportError: another program has replaced the file.
    """
    if not is_same_file(proven, target):
        raise ExportError(
            f"another program has replaced {target} since it was written, and nothing is proven of what it holds now: "
            "give each export a name of its own with -o"
        )


@torch.inference_mode()
def _require_merge(
    path: Path,
    layout: Mapping[str, TensorInfo],
    study: StoredStudy,
    trial: StoredTrial,
    plan: Plan,
    on_compared: Callable[[int], None],
) -> None:
    """Refuse a file whose tensors are not what the trial's recipe merges in memory.

    The live model is gone when this returns: the file's own comes after it, and need not fit beside it.

    Raises:
        ExportError: a tensor differs.
    """
    spec = study.spec
    device = choose_device(spec.render.device)
    resident, _ = build_renderer(
        plan.ingredients,
        spec.suite,
        spec.render,
        device,
        spec.export.dtype,
        spec.racing,
        loras=plan.suite_loras,
    )
    resident.merge(trial.recipe)
    different = different_tensors(Checkpoint.open(path), layout, resident, on_compared)
    if different:
        plan.ingredients.require_unchanged()  # a changed parent would be the reason
        raise ExportError(
            f"the written file is not the merge in memory in {len(different)} of {len(layout)} tensors "
            f"({abbreviated(different)}), so it was not kept; try again, and if that gives the same, run "
            "`mergetune study check SPEC` and report this"
        )


def _render_if_it_fits(
    path: Path,
    study: StoredStudy,
    loras: SuiteLoras,
    on_images: Callable[[int], None],
    largest_batches: LargestBatches,
) -> tuple[Tensor, ...] | None:
    """Render the file; None where the memory is too small for that."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of the live model that was compared
    try:
        return render_file(path, study, on_images, largest_batches, loras=loras)
    except (NoMemoryError, UnscorableTrial):
        return None


@torch.inference_mode()
def render_file(
    path: Path,
    study: StoredStudy,
    on_images: Callable[[int], None] | None = None,
    largest_batches: LargestBatches | None = None,
    *,
    loras: SuiteLoras = NO_LORAS,
) -> tuple[Tensor, ...]:
    """Render the study's suite from one checkpoint file: uint8 [3, h, w] each.

    Args:
        loras: of the suite, which lie on top of the file as they did on top of its merge.

    Raises:
        CheckpointError, RenderError: the file cannot be loaded and rendered.
        NoMemoryError, UnscorableTrial: the memory is too small.
    """
    spec, file = study.spec, Ingredients(Parents.of([Checkpoint.open(path)]))
    device = choose_device(spec.render.device)
    _, renderer = build_renderer(
        file, spec.suite, spec.render, device, spec.export.dtype, spec.racing, largest_batches, loras=loras
    )
    return renderer.render(on_images).images


# ------------------------------------------------------------------------------------------ in words


def _proof(tensors: int, found: RenderComparison | None, trial: StoredTrial) -> str:
    """Say what is equal, to the bit."""
    equal = f"all {tensors} tensors of the file are equal, to the bit, to the merge in memory"
    if found is None or found.different:
        return f"{equal}: it is the model that was scored"
    if trial.estimated:
        renders = counted(found.scored, "render that was scored is", "renders that were scored are")
        return f"{equal}, and the {renders} identical, to the bit, to those of the file"
    renders = counted(found.scored, "render of the file is", "renders of the file are")
    those = "the one that was" if found.scored == 1 else "those that were"
    return f"{equal}, and {'' if found.scored == 1 else 'all '}{renders} identical, to the bit, to {those} scored"


def _difference(
    found: RenderComparison | None,
    records: StudyRecords,
    trial: StoredTrial,
    here: Mapping[str, str],
    limits: Sequence[BatchLimit],
) -> str:
    """Say how renders differ, and why; empty where they do not."""
    if found is None:
        return "the memory here was too small to render the file, so its renders are compared with nothing"
    if not found.different:
        return ""
    return (
        f"{found.different} of {counted(found.scored, 'render')} of the file are not identical to those that were "
        f"scored{_distance(found)}; {_reason(records, trial, here, limits)}. The weights are the same, so the file is "
        "kept"
    )


def _distance(found: RenderComparison) -> str:
    if found.distance is None:
        return " (by how much is unknown, as the scored images were not all stored)"
    apart = f", and {_levels(found.distance)} of 255 grey levels from them on average"
    if found.nearest is None or found.bound is None:
        return apart
    nearest = f"half of what lies between the scored ones and those of the nearest parent ({_levels(found.nearest)})"
    if found.distance < found.bound:
        return f"{apart}: less than {nearest}, so they show the same model"
    return f"{apart}: not less than {nearest}, so they alone would not tell which model it is"


def _levels(value: float) -> str:
    return "less than 0.01" if value < 0.01 else f"{value:.2f}"


def _reason(records: StudyRecords, trial: StoredTrial, here: Mapping[str, str], limits: Sequence[BatchLimit]) -> str:
    """Explain why equal weights gave other pixels, as far as files, the machines' descriptions and batches tell."""
    begun = those_of_suite(records.study.fingerprints)
    others = [what for what, digest in suite_fingerprints(records.study.spec).items() if begun.get(what) != digest]
    if others:
        return f"not the files with which the study began: {', '.join(others)}"
    then = trial.machine
    pairs = {name: (then.get(name, "-"), here.get(name, "-")) for name in (*here, *CPU_SETTINGS)}
    pairs["batches"] = (_batches(trial.batch_limits), _batches(limits))
    changed = [f"{name} {before}, here {now}" for name, (before, now) in pairs.items() if before != now]
    if changed:
        return f"they were rendered by another machine or in other batches ({'; '.join(changed)})"
    if VARIATION_FIELD in then:
        variation = f"two renders of one item were {then[VARIATION_FIELD]} grey levels apart when the study began"
        return f"this machine does not repeat itself: {variation}"
    return (
        "nothing is known to have changed: with little free memory libraries may compute in another order, but if this "
        "happens again, report it"
    )


def _batches(limits: Sequence[BatchLimit]) -> str:
    return ", ".join(map(str, limits)) or "-"
