"""Score the stored renders of a study with other scorers, as a new study. Nothing is rendered.

Only whole trials are taken of which every image is stored, in a file that still is what was scored. Scorers read uint8
images, so a trial gets the scores that it would get if it were rendered today. Where the studies race, scorers take the
images stage by stage, because the last bits depend on which go through a network together. All else is as in a warm
start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from basics.messages import counted, first_line
from optimizer.errors import ScoredImageLost, UnscorableTrial
from optimizer.outcome.comparability import changed_software, image_differences
from optimizer.outcome.other_study import Other, same_parents, unlike_parents
from optimizer.outcome.scored_trials import ScoredTrial, WarmStart
from optimizer.outcome.warm_start import Adoption
from optimizer.rendering.batching import stages
from optimizer.runtime.machine import machine_description
from optimizer.runtime.plan import Plan
from optimizer.trial.ranking import parent_trials
from optimizer.trial.references import compared_parents
from optimizer.trial.scored_images import read_images
from optimizer.trial.scoring import Scoring, joined
from studies.errors import RescoreError
from studies.files.artifacts import SHEET
from studies.recipe.recipe import Recipe
from studies.records.stored_renders import files_of, load_renders
from studies.records.stored_studies import software_versions
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import ParentFile, StoredRender, StoredStudy, StoredTrial
from studies.spec.study import StudySpec

NOT_FINISHED: Final = "not finished"
FAILED: Final = "failed"
STOPPED: Final = "stopped by racing"
NOT_STORED: Final = "not all images were stored"
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
class RenderedTrial:
    """A whole trial of which every image is stored."""

    trial: StoredTrial
    renders: tuple[StoredRender, ...]  # one an item of the suite, in their order


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescorable:
    """What of a study may be scored anew, according to its database."""

    trials: tuple[RenderedTrial, ...]  # by number
    left_out: tuple[LeftOut, ...]


def require_rescorable(spec: StudySpec, study: str) -> None:
    """Refuse a spec that begins with another study's trials, or asks for votes.

    Raises:
        RescoreError: it does.
    """
    if spec.warm_start is not None:
        raise RescoreError(f"a rescored study begins with the trials of {study}: leave `warm_start` out of its spec")
    if spec.voted is not None:
        raise RescoreError(
            f"scorer {spec.voted} depends on people's votes, which a rescored study does not have: leave it out of its "
            f"spec, or go on with votes in a clone of {study} (`study clone --trials`)"
        )


def find_rescorable(records: StudyRecords) -> Rescorable:
    """Find the whole trials with their images. No file is opened yet.

    Raises:
        RescoreError: there is none, or no parent among them.
    """
    found: list[RenderedTrial] = []
    left_out: list[LeftOut] = []
    for trial in load_trials(records):
        renders = tuple(load_renders(records, trial)) if trial.is_whole else ()
        why = _unfit(trial, renders)
        if why is None:
            found.append(RenderedTrial(trial=trial, renders=renders))
        else:
            left_out.append(LeftOut(number=trial.number, why=why))
    _require_parent(records.study.name, [each.trial for each in found], left_out)
    return Rescorable(trials=tuple(found), left_out=tuple(left_out))


def _unfit(trial: StoredTrial, renders: Sequence[StoredRender]) -> str | None:
    """Say why a trial cannot be scored anew; None where it can."""
    if trial.state == "running":
        return NOT_FINISHED
    if trial.state == "failed":
        return FAILED
    if trial.estimated:
        return STOPPED
    return None if renders and all(render.file is not None for render in renders) else NOT_STORED


def _require_parent(study: str, trials: Sequence[StoredTrial], left_out: Sequence[LeftOut]) -> None:
    """Refuse to go on without any trial, or without a parent to compare with.

    Raises:
        RescoreError: one of them is missing.
    """
    if not parent_trials(trials):
        what = "none of its parents" if trials else "no trial"
        reasons = "; ".join(_reasons(left_out)) or "it has no trials"
        raise RescoreError(
            f"study {study!r} has {what} to score anew ({reasons}): images stay where its spec has "
            "`render: {keep: all}`, and are looked for in --artifacts"
        )


def _reasons(left_out: Sequence[LeftOut]) -> Iterator[str]:
    """Say which trials are left out and why, a line for each reason."""
    for why in dict.fromkeys(each.why for each in left_out):
        same = [each for each in left_out if each.why == why]
        numbers = ", ".join(str(each.number) for each in same[:NUMBERS_SHOWN])
        more = " ..." if len(same) > NUMBERS_SHOWN else ""
        detail = f": {same[0].detail}" if same[0].detail else ""
        yield f"left out, {why}: {counted(len(same), 'trial')} ({numbers}{more}){detail}"


def require_same_images(plan: Plan, parents: Sequence[ParentFile], other: StoredStudy) -> None:
    """Refuse a spec with which the same merges would give other images.

    Raises:
        RescoreError: it has other parents, or settings that change the images.
    """
    if not same_parents(parents, other):
        raise RescoreError(unlike_parents(plan, parents, other))
    differences = list(image_differences(plan, parents, other))
    if differences:
        raise RescoreError(
            f"the images of {other.name!r} are not those of this spec ({'; '.join(differences)}): undo that, or start "
            "it with `warm_start`, which renders the best merges anew"
        )


# -------------------------------------------------------------------------------------- scoring anew


def rescored(
    found: Rescorable,
    plan: Plan,
    parents: Sequence[ParentFile],
    other: Other,
    scoring: Scoring,
    device: torch.device,
    on_trial: Callable[[], None] = lambda: None,
) -> WarmStart:
    """Score the trials anew, so that they can be copied. Until then their scores are held in memory.

    Args:
        plan: of the new study, with the units of its scores.
        device: on which the scorers are.
        on_trial: called after each trial.

    Raises:
        RescoreError: no trial, or no parent, is left, or the renders of one that scorers compare with are not there.
        ArtifactError: the artifact store fails.
    """
    adoption = Adoption(plan, parents, [each.trial for each in found.trials])
    _take_references(found, plan, other, scoring)
    rescorer = _Rescorer(plan, adoption, other, scoring, device)
    scored: list[ScoredTrial] = []
    left_out = list(found.left_out)
    for rendered in found.trials:
        result = rescorer.rescored(rendered)
        if isinstance(result, LeftOut):
            left_out.append(result)
        else:
            scored.append(result)
        on_trial()
    _require_parent(other.records.study.name, [each.trial for each in scored], left_out)
    notes = _notes(other.records.study.name, scored, left_out, len(plan.checkpoints))
    return WarmStart(study=other.records.study.name, scored=tuple(scored), again=(), notes=tuple(notes))


def _take_references(found: Rescorable, plan: Plan, other: Other, scoring: Scoring) -> None:
    """Give scorers the stored renders of the parents that they compare with.

    Raises:
        RescoreError: they are not there.
    """
    trials = {each.trial.origin.parent: each for each in found.trials}
    for to in compared_parents(plan.spec):
        try:
            if to not in trials:
                raise ScoredImageLost("its trial is not finished, or its images were not stored")
            images = read_images(other.artifacts, trials[to].renders)
        except ScoredImageLost as error:
            raise RescoreError(
                f"a scorer compares with the renders of parent {to} in {other.records.study.name!r}, which are not "
                f"there ({error}): start the study anew with `warm_start` instead"
            ) from error
        if scoring.references is not None:
            scoring.references.remember(to, images)


class _Rescorer:
    """The scoring of one trial after the other."""

    def __init__(self, plan: Plan, adoption: Adoption, other: Other, scoring: Scoring, device: torch.device) -> None:
        self._adoption, self._other, self._scoring = adoption, other, scoring
        racing = plan.spec.racing
        self._stages = (
            stages(plan.spec.suite, None) if racing is None else stages(plan.spec.suite, racing.batch, racing.order)
        )
        self._here = machine_description(device)
        self._same_software = not changed_software(other.records.study)

    def rescored(self, rendered: RenderedTrial) -> ScoredTrial | LeftOut:
        """Score one trial anew, or say why it is left out."""
        trial = rendered.trial
        recipe = self._adoption.recipe(trial)
        if recipe is None:
            return LeftOut(number=trial.number, why=FOREIGN)
        try:
            images = read_images(self._other.artifacts, rendered.renders)
            return self._scored(rendered, recipe, images)
        except ScoredImageLost as error:
            return LeftOut(number=trial.number, why=NO_LONGER, detail=str(error))
        except UnscorableTrial as error:
            return LeftOut(number=trial.number, why=UNSCORED, detail=first_line(error))

    def _scored(self, rendered: RenderedTrial, recipe: Recipe, images: Mapping[int, Tensor]) -> ScoredTrial:
        """Return the trial with its new scores.

        Args:
            images: item -> uint8 [3, h, w].
        """
        trial, start = rendered.trial, time.perf_counter()
        parts = [self._scoring.score(items, tuple(images[item.index] for item in items)) for items in self._stages]
        whole = joined(parts)
        scores = self._scoring.scores(whole)
        seconds = dict(trial.seconds) | {"score": time.perf_counter() - start}
        features = {name: values.numpy() for name, values in whole.features.items()}
        files = self._other.artifacts.of_trial(self._other.records.study.key, trial.number, trial.worker_id)
        return ScoredTrial(
            trial=replace(trial, seconds=seconds, machine=self._machine(trial)),
            probe=self._adoption.probe(trial, recipe),
            scores=scores,
            pixels_sha256=tuple(render.pixels_sha256 for render in rendered.renders),
            files=files,
            renders=files_of(rendered.renders),
            has_contact_sheet=trial.contact_sheet is not None and SHEET in files.files(),
            features=lambda: features,
        )

    def _machine(self, trial: StoredTrial) -> Mapping[str, str]:
        """Describe who rendered it, and who scored it where that is another machine or version.

        Otherwise such scores would pass for those of the machine that rendered.
        """
        if dict(trial.machine) == self._here and not trial.batch_limits and self._same_software:
            return trial.machine
        by = {"mergetune": software_versions()["mergetune"]} | self._here
        return dict(trial.machine) | {SCORED_FIELD: "by " + ", ".join(f"{name} {value}" for name, value in by.items())}


def _notes(study: str, scored: Sequence[ScoredTrial], left_out: Sequence[LeftOut], parents: int) -> Iterator[str]:
    """Say what became of the trials, a line for each fact."""
    outside = sum(each.probe.params is None for each in scored)
    params = f", {outside} of them without parameters, as this space cannot express them" if outside else ""
    yield f"{len(scored)} of {counted(len(scored) + len(left_out), 'trial')} of {study} are scored anew{params}"
    yield from _reasons(left_out)
    if len(parent_trials([each.trial for each in scored])) < parents:
        yield "gains are computed when the parents that are left out have been rendered, by whoever goes on"
    if elsewhere := sum(SCORED_FIELD in each.trial.machine for each in scored):
        yield f"{elsewhere} of them were rendered by another machine or version: what follows may differ in last bits"
