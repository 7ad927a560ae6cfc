"""The best trial leaves as a file, and the file is proven to be the model that was scored.

The merged checkpoint is written beside its place, opened anew as any checkpoint is, and renders the whole suite.
Only when that gives the stored renders does the file get its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from optuna.artifacts.exceptions import ArtifactNotFound
from torch import Tensor

from optimizer.errors import ExportError
from optimizer.merging.engine.export import Exported, atomic_file, refuse_sources, write_merge
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.metadata import MARKERS_FIELD, merge_metadata
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import MARKERS, Parents
from optimizer.rendering.batch_limits import BatchLimits
from optimizer.rendering.prediction import markers_of
from optimizer.runtime.setup import BATCHES_FIELD, Plan, build_renderer, choose_device, machine_description
from optimizer.trial.evaluation import pixels_digest
from studies.files.artifacts import Artifacts
from studies.recipe.recipe import Recipe
from studies.records.database import Database
from studies.records.stored_renders import load_renders, load_scores
from studies.records.stored_studies import software_versions
from studies.records.values import StoredRender, StoredStudy, StoredTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A proven export."""

    file: Exported
    renders: int
    proof: str  # how the file's renders compare with the stored ones, for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Told how far an export is."""

    written: Callable[[int], None]  # bytes of each tensor
    rendered: Callable[[int], None]  # images so far


def deliver(
    database: Database,
    study: StoredStudy,
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
        ExportError: the trial has no renders, the file cannot be written, or it renders other images than were scored.
    """
    if trial.state != "complete":
        raise ExportError(f"trial {trial.number} is {trial.state}, so there is nothing to compare an export with")
    refuse_sources(target, plan.ingredients.files)
    _repeat_conditions(trial)
    device = choose_device(study.spec.render.device)  # the arithmetic of one device, as in the trial
    metadata = export_metadata(database, study, trial, plan, device)
    with atomic_file(target, overwrite=overwrite) as temporary:
        written = write_merge(temporary, trial.recipe, plan.ingredients, metadata, device, watch.written)
        with torch.inference_mode():
            limits = BatchLimits.parse(trial.machine.get(BATCHES_FIELD, ""))
            images = render_file(temporary, study, watch.rendered, limits)
        proof = _prove(database, study, trial, plan, artifacts, images, limits)
    return Delivery(
        file=Exported(path=target, bytes=written.bytes, sha256=written.sha256),
        renders=len(images),
        proof=proof,
    )


def _repeat_conditions(trial: StoredTrial) -> None:
    """A CPU's sums depend on how many threads share them."""
    if trial.machine.get("device") == "cpu":
        torch.set_num_threads(int(trial.machine["threads"]))


def render_file(
    path: Path,
    study: StoredStudy,
    on_images: Callable[[int], None] | None = None,
    limits: BatchLimits | None = None,
) -> tuple[Tensor, ...]:
    """The study's suite rendered from one checkpoint file: uint8 [3, h, w] each."""
    return _render(Ingredients(Parents.of([Checkpoint.open(path)])), study, None, on_images, limits)


def _render(
    ingredients: Ingredients,
    study: StoredStudy,
    recipe: Recipe | None,
    on_images: Callable[[int], None] | None = None,
    limits: BatchLimits | None = None,
) -> tuple[Tensor, ...]:
    spec = study.spec
    device = choose_device(spec.render.device)
    resident, renderer = build_renderer(
        ingredients, spec.suite, spec.render, device, spec.export.dtype, spec.racing, limits
    )
    if recipe is not None:
        resident.merge(recipe)
    return renderer.render(on_images).images()


def _prove(
    database: Database,
    study: StoredStudy,
    trial: StoredTrial,
    plan: Plan,
    artifacts: Artifacts,
    images: tuple[Tensor, ...],
    limits: BatchLimits,
) -> str:
    """Raises ExportError unless the images are the trial's.

    On the machine that scored the trial they must be equal to the bit. Elsewhere even the same weights round
    differently, so there the resident merge is rendered again, and the file must give exactly its images.
    """
    stored = load_renders(database, trial)
    equal = sum(pixels_digest(images[row.item]) == row.pixels_sha256 for row in stored)
    if equal == len(stored):
        if trial.estimated:
            return f"the {equal} renders that were scored are identical, to the bit, to those of the file"
        return f"all {equal} renders of the file are identical, to the bit, to those that were scored"
    here = machine_description(choose_device(study.spec.render.device), limits)
    if here == dict(trial.machine):
        raise ExportError(
            f"the written file renders other images than were scored in {len(stored) - equal} of {len(stored)} items, "
            "so it was not kept; run `mergetune study check` on the spec and report this"
        )
    again = _render(plan.ingredients, study, trial.recipe, limits=limits)
    if any(not torch.equal(one, other) for one, other in zip(images, again, strict=True)):
        raise ExportError("the written file renders other images than the merge in memory, so it was not kept")
    return (
        f"all {len(images)} renders of the file are identical, to the bit, to the merge in memory; the scored ones "
        f"came from another machine ({_told(trial.machine)}, here {_told(here)})"
        f"{_distance(artifacts, stored, images)}"
    )


def _told(machine: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def _distance(artifacts: Artifacts, stored: Sequence[StoredRender], images: tuple[Tensor, ...]) -> str:
    kept = [(row.file, images[row.item]) for row in stored if row.file is not None]
    if not kept:
        return ""
    try:
        differences = [
            np.abs(np.asarray(artifacts.open_render(file), dtype=np.int16) - image.permute(1, 2, 0).numpy()).mean()
            for file, image in kept
        ]
    except ArtifactNotFound:  # the proof does not depend on them
        return ""
    return f" and differ by {np.mean(differences):.2f} of 255 grey levels on average"


# ----------------------------------------------------------------------------------------- metadata


def export_metadata(
    database: Database, study: StoredStudy, trial: StoredTrial, plan: Plan, device: torch.device
) -> dict[str, str]:
    """Header metadata: that of the merge, and where it comes from. The date is that of the trial."""
    by_item, by_set = load_scores(database, trial)
    scores = {name: float(np.mean(values)) for name, values in by_item.items()} | by_set
    told: dict[str, object] = {"objectives": dict(trial.objectives), "scores": scores}
    if trial.estimated:
        told["estimated_from_images"] = trial.rendered
    metadata = merge_metadata(
        trial.recipe,
        plan.ingredients,
        title=f"{study.name} trial {trial.number}",
        prediction_type=plan.prediction.kind,
        device=device,
    )
    return metadata | {
        **marker_metadata(plan),
        "mergetune.study": json.dumps({"name": study.name, "trial": trial.number, "origin": trial.title}),
        "mergetune.scores": json.dumps(told),
        "mergetune.suite_sha256": study.suite_digest,
        "mergetune.software": json.dumps(software_versions()),
        "modelspec.date": datetime.fromtimestamp(trial.finished_at or trial.started_at, UTC).isoformat(
            timespec="seconds"
        ),
    }


def marker_metadata(plan: Plan) -> dict[str, str]:
    """The markers of what the study rendered, where they are not parent A's: programs that load the file go by them."""
    wanted = markers_of(plan.prediction)
    if wanted is None or wanted == MARKERS & plan.checkpoints[0].tensors.keys():
        return {}
    return {MARKERS_FIELD: " ".join(sorted(wanted))}
