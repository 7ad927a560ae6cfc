"""Find what is wrong in a study database after crashes, restored backups and changes by other programs, and mend it.

What a worker will do by itself is no finding: the next worker runs a trial again that was given back, under the same
number. Mending never loses a score.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from basics.messages import counted, in_one_line
from optimizer.trial.racing import ESTIMATE_KEY
from optimizer.upkeep.study_files import StudyFiles
from optimizer.work.heartbeat import RERUNS, deaths
from optimizer.work.leftovers import orphans_among, surely_dead
from search_spaces.blocks import Architecture
from search_spaces.errors import OutsideSpaceError
from search_spaces.space import SearchSpace
from studies.errors import ArtifactError
from studies.files.artifacts import Artifacts, sheet_attributes
from studies.recipe.adoption import numbers_of
from studies.recipe.blueprint import Blueprint, LoraFile
from studies.records import optuna_studies, stored_renders, stored_studies, stored_trials, tables, workers
from studies.records.cut_off_starts import cut_off_starts, remove_cut_off_start
from studies.records.database import Database
from studies.records.failures import Failure
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

ROUNDS = 4  # mending one thing may uncover another: a trial that is failed now must be reported to Optuna next


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What mending does about a finding: the act, and the two halves of a passive sentence about it."""

    subject: str  # "its entry"
    done: str  # "removed"
    act: Callable[[], None] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    symptom: str  # what is wrong, and where there is no remedy, what people can do
    study: str | None = None
    trial: int | None = None
    remedy: Remedy | None = None  # None: it can only be mended by people
    by_itself: bool = False  # whether the next worker mends it as well: every kill leaves such things

    def words(self, *, mended: bool) -> str:
        """Return what is wrong, and what was done about it or would be."""
        if self.remedy is None:
            return self.symptom
        return f"{self.symptom}; {self.remedy.subject} {'was' if mended else 'would be'} {self.remedy.done}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was wrong: what is mended by now, and what is left."""

    mended: tuple[Finding, ...]
    left: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is left but what the next worker mends."""
        return all(finding.by_itself for finding in self.left)


def diagnose(database: Database, studies: Sequence[StudyRecords], artifacts: Artifacts, *, mend: bool) -> Diagnosis:
    """Look through studies and their files, and mend what can be mended if asked to. No worker writes meanwhile.

    Raises:
        DatabaseError: another version has changed the tables since they were opened.
    """
    mended: list[Finding] = []
    with database.exclusive():
        for _ in range(ROUNDS):
            found = list(_findings(database, studies, artifacts))
            able = [(finding, finding.remedy) for finding in found if finding.remedy is not None]
            if not mend or not able:
                break
            for finding, remedy in able:
                remedy.act()
                mended.append(finding)
    return Diagnosis(mended=tuple(mended), left=tuple(found))


def _findings(database: Database, studies: Sequence[StudyRecords], artifacts: Artifacts) -> Iterator[Finding]:
    alive = workers.live_workers(database)
    for records in studies:
        try:
            yield from _of_study(records, artifacts, alive)
        except (SQLAlchemyError, ArtifactError):  # the next study would fare no better
            raise
        except Exception as error:  # noqa: BLE001 - whatever is in its rows, the other studies are looked through
            symptom = f"it cannot be looked through ({in_one_line(error)}); it is left as it is"
            yield Finding(kind="unreadable study", study=records.study.name, symptom=symptom)
    for name, why in stored_studies.unreadable_studies(database).items():
        yield Finding(kind="unreadable study", study=name, symptom=f"{why}; it is left as it is")
    yield from _workers(database)
    yield from _starts(database, artifacts)


def _starts(database: Database, artifacts: Artifacts) -> Iterator[Finding]:
    """Find starts that were cut off. The lock is held, so none is on its way."""
    for name, key in cut_off_starts(database).items():
        yield Finding(
            kind="cut-off start",
            study=name,
            symptom="a start that copied trials was cut off",
            remedy=Remedy(
                subject="what it left",
                done="removed",
                act=functools.partial(remove_cut_off_start, database, artifacts, name, key),
            ),
            by_itself=True,
        )


def _of_study(records: StudyRecords, artifacts: Artifacts, alive: frozenset[str]) -> Iterator[Finding]:
    study, trials = records.study, stored_trials.load_trials(records)
    if study.name in optuna.get_all_study_names(storage=records.database.storage):
        yield from _Trials(records, trials, alive).findings()
    else:
        symptom = "Optuna's part is gone (deleted in the dashboard?): restore a backup, or start it under another name"
        yield Finding(kind="no Optuna study", study=study.name, symptom=symptom)
    yield from _files(records, StudyFiles(artifacts, study))


def _workers(database: Database) -> Iterator[Finding]:
    """Find dead workers, without those that hold a trial.

    The entry of such a worker says that the trial was not given back. It is removed together with that finding.
    """
    dead = workers.dead_workers(database, lambda: workers.live_workers(database))
    with database.engine.connect() as connection:
        rows = connection.execute(sa.select(tables.workers)).all()
    for row in rows:
        if row.id in dead:
            symptom = f"worker {row.id[:8]} (process {row.pid} on {row.host}) is dead"
            remove = functools.partial(workers.remove_dead_worker, database, row.id, dead[row.id])
            remedy = Remedy(subject="its entry", done="removed", act=remove)
            yield Finding(kind="dead worker", symptom=symptom, remedy=remedy, by_itself=True)


# ------------------------------------------------------------------------------------------ trials


@dataclass(frozen=True, slots=True)
class _Trials:
    """The trials of one study, ours compared with Optuna's."""

    records: StudyRecords
    trials: Sequence[StoredTrial]
    alive: frozenset[str]

    def findings(self) -> Iterator[Finding]:
        """Find what is wrong with the trials."""
        optunas = {trial.number: trial for trial in optuna_studies.optuna_trials(self.records)}
        for trial in self.trials:
            yield from self._compare(trial, optunas.get(trial.number))
        last = max((trial.number for trial in self.trials if trial.state != "running"), default=-1)
        if last >= len(optunas):
            add = functools.partial(self._add, len(optunas), last)
            yield Finding(
                kind="unknown to Optuna",
                study=self.records.study.name,
                symptom=f"trials {len(optunas)} to {last} are unknown to Optuna",
                remedy=Remedy(subject="each of them", done="added from its recipe and scores", act=add),
            )
        known = {trial.number for trial in self.trials}
        for number, in_optuna in optunas.items():
            if number not in known and in_optuna.state == TrialState.COMPLETE:
                symptom = "it is complete for Optuna, and its scores are not stored: the search still learns from it"
                yield self._finding("unknown to us", number, symptom)

    def _finding(
        self, kind: str, number: int, symptom: str, remedy: Remedy | None = None, *, by_itself: bool = False
    ) -> Finding:
        name = self.records.study.name
        return Finding(kind=kind, study=name, trial=number, symptom=symptom, remedy=remedy, by_itself=by_itself)

    def _compare(self, trial: StoredTrial, in_optuna: FrozenTrial | None) -> Iterator[Finding]:
        if trial.state == "running":
            if trial.worker_id not in self.alive:
                yield from self._abandoned(trial, in_optuna)
        elif in_optuna is not None and not in_optuna.state.is_finished():
            if trial.worker_id not in self.alive:  # or it is about to tell it
                remedy = Remedy(subject="Optuna", done="told", act=lambda: self._tell(trial, in_optuna))
                symptom = f"it is {trial.state}, and still running for Optuna"
                yield self._finding("not told", trial.number, symptom, remedy, by_itself=True)
        elif in_optuna is not None and (trial.state == "failed") != (in_optuna.state == TrialState.FAIL):
            symptom = f"it is {trial.state} here and {in_optuna.state.name} for Optuna, and neither can be changed"
            yield self._finding("contradiction", trial.number, symptom)

    def _abandoned(self, trial: StoredTrial, in_optuna: FrozenTrial | None) -> Iterator[Finding]:
        """Find what is wrong with a running trial that nobody works on."""
        if in_optuna is None:
            done = "removed, so that its number is given out again"
            remedy = Remedy(subject="it", done=done, act=lambda: self._forget(trial))
            symptom = "it was started, and Optuna does not know it"
            yield self._finding("unknown to Optuna", trial.number, symptom, remedy)
        elif in_optuna.state.is_finished():
            reason = f"ended by another program: {in_optuna.state.name} for Optuna while its worker was dead"
            symptom = f"it is running here and {in_optuna.state.name} for Optuna, and its worker is dead"
            remedy = self._failing(trial, Failure(kind="other", reason=reason))
            yield self._finding("ended elsewhere", trial.number, symptom, remedy)
        elif not workers.is_registered(self.records.database, trial.worker_id):
            return  # given back: the next worker runs it again
        elif trial.attempt > RERUNS:
            symptom = f"{counted(trial.attempt, 'worker')} died while they worked on it"
            remedy = self._failing(trial, deaths(trial.attempt))
            yield self._finding("stale trial", trial.number, symptom, remedy, by_itself=True)
        else:
            done = "given back, so that the next worker runs it again"
            remedy = Remedy(subject="it", done=done, act=lambda: self._give_back(trial))
            yield self._finding("stale trial", trial.number, "its worker is dead", remedy, by_itself=True)

    def _give_back(self, trial: StoredTrial) -> None:
        with self.records.database.write() as connection:
            this_trial = tables.trials.c.id == trial.id
            connection.execute(tables.trials.update().where(this_trial).values(attempt=trial.attempt + 1))
            connection.execute(tables.workers.delete().where(tables.workers.c.id == trial.worker_id))

    def _failing(self, trial: StoredTrial, failure: Failure) -> Remedy:
        def fail() -> None:
            stored_trials.fail_trial(self.records, trial.number, trial.worker_id, failure)

        return Remedy(subject="it", done="marked as failed", act=fail)

    def _forget(self, trial: StoredTrial) -> None:
        with self.records.database.write() as connection:
            connection.execute(tables.trials.delete().where(tables.trials.c.id == trial.id))

    def _tell(self, trial: StoredTrial, in_optuna: FrozenTrial) -> None:
        """Tell Optuna the outcome as a worker does. The next worker adds gains and notes."""
        state, values = _outcome(trial, inside=bool(in_optuna.params))
        storage, trial_id = self.records.database.storage, in_optuna._trial_id  # noqa: SLF001 - the storage wants it
        if trial.contact_sheet is not None:
            for key, value in sheet_attributes(trial.contact_sheet, trial.number).items():
                storage.set_trial_system_attr(trial_id, key, value)
        if trial.estimated:
            storage.set_trial_user_attr(
                trial_id, ESTIMATE_KEY, {"images": trial.rendered, "incumbent": trial.incumbent}
            )
        optuna_studies.optuna_study(self.records).tell(
            trial.number, values, state=None if values is not None else state
        )

    def _add(self, first: int, last: int) -> None:
        """Give Optuna trials that it lost, under their numbers."""
        study = optuna_studies.optuna_study(self.records)
        finished = {trial.number: trial for trial in self.trials if trial.state != "running"}
        for number in range(first, last + 1):
            trial = finished.get(number)
            study.add_trial(create_trial(state=TrialState.FAIL) if trial is None else self._lost(trial))

    def _lost(self, trial: StoredTrial) -> FrozenTrial:
        """Return a finished trial as Optuna had it.

        It has no parameters where it failed, or where its recipe does not give them.
        """
        params = None if trial.state == "failed" else self._params(trial)
        state, values = _outcome(trial, inside=params is not None)
        if params is None:
            return create_trial(state=state)
        ranges: dict[str, BaseDistribution] = {
            each.name: FloatDistribution(each.low, each.high) for each in self._space(trial).parameters
        }
        return create_trial(state=state, values=values, params=dict(params), distributions=ranges)

    def _space(self, trial: StoredTrial) -> SearchSpace:
        return self.records.study.spec.search_space(Architecture(trial.recipe.architecture))

    def _params(self, trial: StoredTrial) -> dict[str, float] | None:
        """Return the parameters that gave a recipe; None for one outside the space, and for whole parents."""
        recipe, spec = trial.recipe, self.records.study.spec
        loras = tuple(
            LoraFile(slot=slot, name=lora.name, sha256=lora.sha256)
            for slot, lora in zip(spec.loras, recipe.loras, strict=False)
        )
        blueprint = Blueprint(
            architecture=Architecture(recipe.architecture),
            parents=recipe.parents,
            operations=spec.operations,
            loras=loras,
            vae=recipe.vae,
            dtype=recipe.dtype,
        )
        found = numbers_of(recipe, blueprint)
        try:
            return None if found is None else self._space(trial).params(found)
        except OutsideSpaceError:
            return None


def _outcome(trial: StoredTrial, *, inside: bool) -> tuple[TrialState, list[float] | None]:
    """Return the state and values of a finished trial for Optuna.

    Args:
        inside: whether it lies in the search space. Otherwise it has no parameters to learn from.
    """
    if trial.state == "failed":
        return TrialState.FAIL, None
    return (TrialState.COMPLETE, list(trial.objectives.values())) if inside else (TrialState.PRUNED, None)


# ------------------------------------------------------------------------------------------- files


def _files(records: StudyRecords, files: StudyFiles) -> Iterator[Finding]:
    """Find files that are missing, and files that no trial has."""
    study = records.study
    listed = files.listed  # before the trials are read: whatever is listed has its trial by then
    trials = stored_trials.load_trials(records)
    finished = [trial for trial in trials if trial.state != "running"]
    render_files = stored_renders.stored_files(records)
    named = {trial.number: render_files.get(trial.number, frozenset()) for trial in finished}
    sheets = {trial.number: files.contact_sheet(trial) for trial in finished}
    by_set = stored_renders.numbers_with_set_scores(records)
    features = {trial.number: files.features(trial) for trial in finished if trial.number in by_set}
    gone = {number: names - listed for number, names in named.items() if names - listed}
    gone_sheets = {number for number, sheet in sheets.items() if sheet is not None and sheet not in listed}
    gone_features = {number for number, name in features.items() if name not in listed}
    count = sum(map(len, named.values())) + sum(sheet is not None for sheet in sheets.values()) + len(features)
    if count and count == sum(map(len, gone.values())) + len(gone_sheets) + len(gone_features):
        symptom = (
            f"none of {counted(count, 'file')} that its trials name is in {files.location}: name the right location "
            "with --artifacts"
        )
        yield Finding(kind="no files", study=study.name, symptom=symptom)
        return
    for trial in finished:
        yield from _missing(records, trial, gone.get(trial.number, frozenset()), sheet=trial.number in gone_sheets)
        if trial.number in gone_features:
            symptom = (
                f"the features of its set scores are not there ({features[trial.number]}): restore them from a backup; "
                "without those of the parents no trial's gain can be computed, and without its own a trial's has no "
                "interval over prompts"
            )
            yield Finding(kind="missing features", study=study.name, trial=trial.number, symptom=symptom)
    dead = workers.dead_workers(records.database, lambda: workers.live_workers(records.database), study)
    orphans = orphans_among(listed, records, files.artifacts, trials)
    by_itself = surely_dead(orphans, study, files.artifacts, trials, dead) if dead else frozenset[str]()
    for name in sorted(orphans):
        yield Finding(
            kind="orphan file",
            study=study.name,
            trial=files.number(name),
            symptom=f"no trial has the file {name}",
            remedy=Remedy(subject="it", done="removed", act=functools.partial(files.remove, name)),
            by_itself=name in by_itself,
        )


def _missing(records: StudyRecords, trial: StoredTrial, gone: frozenset[str], *, sheet: bool) -> Iterator[Finding]:
    if gone:
        forget = functools.partial(_forget_renders, records.database, trial, gone)
        yield Finding(
            kind="missing renders",
            study=records.study.name,
            trial=trial.number,
            symptom=f"{len(gone)} of its renders are not there ({min(gone)})",
            remedy=Remedy(subject="each missing name", done="removed, while the scores stay", act=forget),
        )
    if sheet:
        forget = functools.partial(_forget_sheet, records.database, trial)
        yield Finding(
            kind="missing sheet",
            study=records.study.name,
            trial=trial.number,
            symptom="its contact sheet is not there",
            remedy=Remedy(subject="its name", done="removed", act=forget),
        )


def _forget_renders(database: Database, trial: StoredTrial, gone: frozenset[str]) -> None:
    lost = sa.and_(tables.renders.c.trial_id == trial.id, tables.renders.c.file.in_(gone))
    with database.write() as connection:
        connection.execute(tables.renders.update().where(lost).values(file=None))


def _forget_sheet(database: Database, trial: StoredTrial) -> None:
    with database.write() as connection:
        connection.execute(tables.trials.update().where(tables.trials.c.id == trial.id).values(sheet=None))
