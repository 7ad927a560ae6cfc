"""Other scorers over the images that a study has kept: a new study, and nothing is rendered.

What is taken are whole trials of which every image is kept, in a file that still is what was scored. Scoring begins at
uint8, so a trial gets the scores that it would get if it were rendered today; by stages, where the studies race, as
the last bits depend on what goes through a network together. All else is as a warm start has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from basics.messages import first_line
from optimizer.errors import ScoredImageLost, TrialFailed
from optimizer.outcome.warm_start import (
    Adoption,
    Kept,
    Other,
    WarmStart,
    changed_software,
    image_differences,
    other_parents,
    same_parents,
)
from optimizer.rendering.suite import stages
from optimizer.runtime.machine import machine_description
from optimizer.runtime.plan import Plan
from optimizer.trial.ranking import parent_trials
from optimizer.trial.scored_images import read_images
from optimizer.trial.scoring import Scoring, joined
from studies.errors import RescoreError
from studies.files.artifacts import SHEET
from studies.recipe.recipe import Recipe
from studies.records.database import Database
from studies.records.stored_renders import load_renders
from studies.records.stored_studies import software_versions
from studies.records.stored_trials import load_trials
from studies.records.values import ParentFile, StoredRender, StoredStudy, StoredTrial
from studies.spec.study import StudySpec

NOT_FINISHED: Final = "not finished"
FAILED: Final = "failed"
STOPPED: Final = "stopped by racing"
NOT_KEPT: Final = "not all images were kept"
NO_LONGER: Final = "an image is gone or is not what was scored"
FOREIGN: Final = "a LoRA or VAE that the new study does not have"
UNSCORED: Final = "cannot be scored"

SCORED_FIELD: Final = "scored"  # of a trial's machine: who scored it, if that is not who rendered it
NUMBERS_SHOWN: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A trial that is not taken."""

    number: int
    why: str  # one of the above
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictured:
    """A whole trial of which every image is kept."""

    row: StoredTrial
    renders: tuple[StoredRender, ...]  # one an item of the suite, in their order


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What of a study may be scored anew, as its database has it."""

    trials: tuple[Pictured, ...]  # by number
    left_out: tuple[LeftOut, ...]


def require_rescorable(spec: StudySpec, study: str) -> None:
    """Raises RescoreError for a spec that begins with another study's trials."""
    if spec.warm_start is not None:
        raise RescoreError(f"a rescored study begins with the trials of {study}: leave `warm_start` out of its spec")


def find_pictures(database: Database, study: StoredStudy) -> Pictures:
    """Whole trials with their images; no file is looked at yet.

    Raises:
        RescoreError: there is none, or no parent among them.
    """
    trials: list[Pictured] = []
    left_out: list[LeftOut] = []
    for row in load_trials(database, study):
        renders = tuple(load_renders(database, row)) if row.is_whole else ()
        why = _unfit(row, renders)
        if why is None:
            trials.append(Pictured(row=row, renders=renders))
        else:
            left_out.append(LeftOut(number=row.number, why=why))
    _require_some(study.name, [each.row for each in trials], left_out)
    return Pictures(trials=tuple(trials), left_out=tuple(left_out))


def _unfit(row: StoredTrial, renders: Sequence[StoredRender]) -> str | None:
    if row.state == "running":
        return NOT_FINISHED
    if row.state == "failed":
        return FAILED
    if row.estimated:
        return STOPPED
    return None if renders and all(each.file is not None for each in renders) else NOT_KEPT


def _require_some(study: str, rows: Sequence[StoredTrial], left_out: Sequence[LeftOut]) -> None:
    """Raises RescoreError without any trial, or without a parent to compare with."""
    if not parent_trials(rows):
        what = "none of its parents" if rows else "no trial"
        raise RescoreError(
            f"study {study!r} has {what} to score anew ({'; '.join(told(left_out)) or 'it has no trials'}): images "
            "stay where its spec has `render: {keep: all}`, and are looked for in --artifacts"
        )


def told(left_out: Sequence[LeftOut]) -> Iterator[str]:
    """Which trials are left out and why, a line for each reason."""
    for why in dict.fromkeys(row.why for row in left_out):
        rows = [row for row in left_out if row.why == why]
        numbers = ", ".join(str(row.number) for row in rows[:NUMBERS_SHOWN])
        more = " ..." if len(rows) > NUMBERS_SHOWN else ""
        detail = f": {rows[0].detail}" if rows[0].detail else ""
        yield f"left out, {why}: {len(rows)} {'trial' if len(rows) == 1 else 'trials'} ({numbers}{more}){detail}"


def require_same_images(plan: Plan, parents: Sequence[ParentFile], other: StoredStudy) -> None:
    """Raises RescoreError where the new study would render other images of the same merges."""
    if not same_parents(parents, other):
        raise RescoreError(other_parents(plan, parents, other))
    differences = list(image_differences(plan.spec, parents, other))
    if differences:
        raise RescoreError(
            f"the images of {other.name!r} are not those of this spec ({'; '.join(differences)}): undo that, or start "
            "it with `warm_start`, which renders the best merges anew"
        )


# -------------------------------------------------------------------------------------- scoring anew


def rescored(
    pictures: Pictures,
    plan: Plan,
    parents: Sequence[ParentFile],
    other: Other,
    scoring: Scoring,
    device: torch.device,
    on_trial: Callable[[], None] = lambda: None,
) -> WarmStart:
    """The trials with their new scores, to be taken over; held in memory until then, without their images.

    Args:
        plan: of the new study, with the units of its scores.
        device: on which the scorers are.
        on_trial: called after each trial.

    Raises:
        RescoreError: no trial, or no parent, is left.
        ArtifactError: the store fails.
    """
    rescorer = _Rescorer(plan, Adoption(plan, parents, [each.row for each in pictures.trials]), other, scoring, device)
    kept: list[Kept] = []
    left_out = list(pictures.left_out)
    for trial in pictures.trials:
        found = rescorer.kept(trial)
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            kept.append(found)
        on_trial()
    _require_some(other.study.name, [each.row for each in kept], left_out)
    notes = _notes(other.study.name, kept, left_out, len(plan.checkpoints))
    return WarmStart(study=other.study.name, kept=tuple(kept), again=(), notes=tuple(notes))


class _Rescorer:
    """Scores one trial after the other."""

    def __init__(self, plan: Plan, adoption: Adoption, other: Other, scoring: Scoring, device: torch.device) -> None:
        self._adoption, self._other, self._scoring = adoption, other, scoring
        racing = plan.spec.racing
        self._stages = stages(plan.spec.suite, None if racing is None else racing.batch)
        self._here = machine_description(device)
        self._same_software = not changed_software(other.study)

    def kept(self, trial: Pictured) -> Kept | LeftOut:
        row = trial.row
        recipe = self._adoption.recipe(row)
        if recipe is None:
            return LeftOut(number=row.number, why=FOREIGN)
        try:
            images = read_images(self._other.artifacts, trial.renders)
            return self._scored(trial, recipe, images)
        except ScoredImageLost as gone:
            return LeftOut(number=row.number, why=NO_LONGER, detail=str(gone))
        except TrialFailed as failure:
            return LeftOut(number=row.number, why=UNSCORED, detail=first_line(failure))

    def _scored(self, trial: Pictured, recipe: Recipe, images: Mapping[int, Tensor]) -> Kept:
        row, start = trial.row, time.perf_counter()
        parts = [self._scoring.score(items, tuple(images[item.index] for item in items)) for items in self._stages]
        whole = joined(parts)
        sheet = self._scoring.sheet(whole)
        seconds = dict(row.seconds) | {"score": time.perf_counter() - start}
        features = {name: rows.numpy() for name, rows in whole.features.items()}
        files = self._other.artifacts.of_trial(self._other.study.key, row.number, row.worker_id)
        return Kept(
            row=replace(row, seconds=seconds, machine=self._machine(row)),
            probe=self._adoption.probe(row, recipe),
            sheet=sheet,
            pixels_sha256=tuple(each.pixels_sha256 for each in trial.renders),
            files=files,
            renders=tuple(each.item for each in trial.renders),
            picture=row.sheet is not None and SHEET in files.files(),
            features=lambda: features,
        )

    def _machine(self, row: StoredTrial) -> Mapping[str, str]:
        """Who rendered it, and who scored it where that is another: such scores must not pass for the renderer's."""
        if dict(row.machine) == self._here and self._same_software:
            return row.machine
        by = {"mergetune": software_versions()["mergetune"]} | self._here
        return dict(row.machine) | {SCORED_FIELD: "by " + ", ".join(f"{name} {value}" for name, value in by.items())}


def _notes(study: str, kept: Sequence[Kept], left_out: Sequence[LeftOut], parents: int) -> Iterator[str]:
    outside = sum(each.probe.params is None for each in kept)
    params = f", {outside} of them without parameters, as this space cannot express them" if outside else ""
    yield f"{len(kept)} of {len(kept) + len(left_out)} trials of {study} are scored anew{params}"
    yield from told(left_out)
    if len(parent_trials([each.row for each in kept])) < parents:
        yield "gains are computed when the parents that are left out have been rendered, by whoever goes on"
    if elsewhere := sum(SCORED_FIELD in each.row.machine for each in kept):
        yield f"{elsewhere} of them were rendered by another machine or version: what follows may differ in last bits"
