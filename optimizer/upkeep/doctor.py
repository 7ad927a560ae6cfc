"""What can be wrong in a study database after crashes, restored backups and other programs' hands; and mending it.

Nothing that a worker will do by itself is a finding: a trial that was given back is run again by the next worker, under
its number. Nothing is mended that would lose a score.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from optimizer.trial.racing import ESTIMATE_KEY
from optimizer.upkeep.pruning import orphans_among
from optimizer.upkeep.study_files import StudyFiles
from optimizer.work.heartbeat import RERUNS, deaths
from search_spaces.blocks import Architecture
from search_spaces.errors import OutsideSpaceError
from search_spaces.space import SearchSpace
from studies.files.artifacts import Artifacts, sheet_attributes
from studies.recipe.adoption import rows_of
from studies.recipe.blueprint import Blueprint, LoraFile
from studies.records import optuna_studies, registry, stored_renders, stored_studies, stored_trials, tables
from studies.records.database import Database
from studies.records.failures import Failure
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

ROUNDS = 4  # one mended thing may uncover another: a trial that is failed must then be told to Optuna


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    words: str  # what it is, and what mending does or who else must mend it
    study: str | None = None
    trial: int | None = None
    mend: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    @property
    def can_mend(self) -> bool:
        """Whether it can be mended here, and not only by people."""
        return self.mend is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    mended: tuple[Finding, ...]
    left: tuple[Finding, ...]


def diagnose(database: Database, studies: Sequence[StudyRecords], artifacts: Artifacts, *, mend: bool) -> Diagnosis:
    """Look through studies and their files, with every worker held off meanwhile, and mend what can be if asked to."""
    mended: list[Finding] = []
    with database.exclusive():
        for _ in range(ROUNDS):
            found = list(_findings(database, studies, artifacts))
            able = [row for row in found if row.mend is not None]
            if not mend or not able:
                break
            for row in able:
                row.mend()  # type: ignore[misc]
            mended += able
    return Diagnosis(mended=tuple(mended), left=tuple(found))


def _findings(database: Database, studies: Sequence[StudyRecords], artifacts: Artifacts) -> Iterator[Finding]:
    alive = registry.live_workers(database)
    for records in studies:
        study, rows = records.study, stored_trials.load_trials(records)
        if study.name in optuna.get_all_study_names(storage=database.storage):
            yield from _Trials(records, rows, alive).findings()
        else:
            words = (
                "Optuna's part is gone (deleted in the dashboard?): restore a backup, or start it under another name"
            )
            yield Finding(kind="no Optuna study", study=study.name, words=words)
        yield from _files(records, StudyFiles(artifacts, study))
    for name, why in stored_studies.unreadable_studies(database).items():
        yield Finding(kind="unreadable study", study=name, words=f"{why}; it is left as it is")
    yield from _workers(database, alive)


def _workers(database: Database, alive: frozenset[str]) -> Iterator[Finding]:
    """Dead workers; those of a trial are removed with it, for they tell that it was not given back."""
    with database.engine.connect() as connection:
        rows = connection.execute(sa.select(tables.workers)).all()
        holding = set(
            connection.execute(sa.select(tables.trials.c.worker_id).where(tables.trials.c.state == "running")).scalars()
        )
    for row in rows:
        if row.id not in alive | holding:
            words = f"worker {row.id[:8]} (process {row.pid} on {row.host}) is dead: its entry is removed"
            remove = functools.partial(registry.remove_worker, database, row.id)
            yield Finding(kind="dead worker", words=words, mend=remove)


# ------------------------------------------------------------------------------------------ trials


@dataclass(frozen=True, slots=True)
class _Trials:
    """One study's trials: our rows against Optuna's."""

    records: StudyRecords
    rows: Sequence[StoredTrial]
    alive: frozenset[str]

    def findings(self) -> Iterator[Finding]:
        told = {trial.number: trial for trial in optuna_studies.optuna_trials(self.records)}
        for row in self.rows:
            yield from self._of(row, told.get(row.number))
        last = max((row.number for row in self.rows if row.state != "running"), default=-1)
        if last >= len(told):
            words = (
                f"trials {len(told)} to {last} are not in Optuna's tables: added again from their recipes and scores"
            )
            yield Finding(
                kind="unknown to Optuna",
                study=self.records.study.name,
                words=words,
                mend=lambda: self._add(len(told), last),
            )
        known = {row.number for row in self.rows}
        for number, trial in told.items():
            if number not in known and trial.state == TrialState.COMPLETE:
                words = "Optuna has it as complete, we have no scores of it: the search still learns from it"
                yield self._finding("unknown to us", number, words, None)

    def _finding(self, kind: str, number: int, words: str, mend: Callable[[], None] | None) -> Finding:
        return Finding(kind=kind, study=self.records.study.name, trial=number, words=words, mend=mend)

    def _of(self, row: StoredTrial, trial: FrozenTrial | None) -> Iterator[Finding]:
        if row.state == "running":
            if row.worker_id not in self.alive:
                yield from self._abandoned(row, trial)
        elif trial is not None and not trial.state.is_finished():
            if row.worker_id not in self.alive:  # or it is about to tell it
                words = f"it is {row.state}, and still running for Optuna: told"
                yield self._finding("not told", row.number, words, lambda: self._tell(row, trial))
        elif trial is not None and (row.state == "failed") != (trial.state == TrialState.FAIL):
            words = f"it is {row.state} for us and {trial.state.name} for Optuna, which cannot be changed any more"
            yield self._finding("contradiction", row.number, words, None)

    def _abandoned(self, row: StoredTrial, trial: FrozenTrial | None) -> Iterator[Finding]:
        """A running trial that nobody works on."""
        if trial is None:
            words = "it was begun, and Optuna does not know it: forgotten, and its number is given out again"
            yield self._finding("unknown to Optuna", row.number, words, lambda: self._forget(row))
        elif trial.state.is_finished():
            reason = f"ended by another program: {trial.state.name} for Optuna while its worker was dead"
            failure = Failure(kind="other", reason=reason)
            words = f"it is running for us, {trial.state.name} for Optuna, and its worker is dead: failed"
            yield self._finding("ended elsewhere", row.number, words, lambda: self._fail(row, failure))
        elif not registry.is_registered(self.records.database, row.worker_id):
            return  # given back: the next worker runs it again
        elif row.attempt > RERUNS:
            words = f"{row.attempt} workers died over it: failed"
            yield self._finding("stale trial", row.number, words, lambda: self._fail(row, deaths(row.attempt)))
        else:
            words = "its worker is dead: given back, the next worker runs it again"
            yield self._finding("stale trial", row.number, words, lambda: self._give_back(row))

    def _give_back(self, row: StoredTrial) -> None:
        with self.records.database.write() as connection:
            mine = tables.trials.c.id == row.id
            connection.execute(tables.trials.update().where(mine).values(attempt=row.attempt + 1))
            connection.execute(tables.workers.delete().where(tables.workers.c.id == row.worker_id))

    def _fail(self, row: StoredTrial, failure: Failure) -> None:
        stored_trials.fail_trial(self.records, row.number, row.worker_id, failure)

    def _forget(self, row: StoredTrial) -> None:
        with self.records.database.write() as connection:
            connection.execute(tables.trials.delete().where(tables.trials.c.id == row.id))

    def _tell(self, row: StoredTrial, trial: FrozenTrial) -> None:
        """As a worker tells it; gains and notes follow with the next worker."""
        state, values = _outcome(row, inside=bool(trial.params))
        storage, trial_id = self.records.database.storage, trial._trial_id  # noqa: SLF001 - the storage wants it
        if row.sheet is not None:
            for key, value in sheet_attributes(row.sheet, row.number).items():
                storage.set_trial_system_attr(trial_id, key, value)
        if row.estimated:
            storage.set_trial_user_attr(trial_id, ESTIMATE_KEY, {"images": row.rendered, "incumbent": row.incumbent})
        optuna_studies.optuna_study(self.records).tell(row.number, values, state=None if values is not None else state)

    def _add(self, first: int, last: int) -> None:
        """Give Optuna trials that it lost, under their numbers."""
        study = optuna_studies.optuna_study(self.records)
        rows = {row.number: row for row in self.rows if row.state != "running"}
        for number in range(first, last + 1):
            row = rows.get(number)
            study.add_trial(create_trial(state=TrialState.FAIL) if row is None else self._lost(row))

    def _lost(self, row: StoredTrial) -> FrozenTrial:
        """A finished trial as Optuna had it; without parameters where it failed, or its recipe does not tell them."""
        params = None if row.state == "failed" else self._params(row)
        state, values = _outcome(row, inside=params is not None)
        if params is None:
            return create_trial(state=state)
        ranges: dict[str, BaseDistribution] = {
            each.name: FloatDistribution(each.low, each.high) for each in self._space(row).parameters
        }
        return create_trial(state=state, values=values, params=dict(params), distributions=ranges)

    def _space(self, row: StoredTrial) -> SearchSpace:
        return self.records.study.spec.search_space(Architecture(row.recipe.architecture))

    def _params(self, row: StoredTrial) -> dict[str, float] | None:
        """The parameters that gave a recipe; None for one outside the space, and for whole parents."""
        recipe, spec = row.recipe, self.records.study.spec
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
        found = rows_of(recipe, blueprint)
        try:
            return None if found is None else self._space(row).params(found)
        except OutsideSpaceError:
            return None


def _outcome(row: StoredTrial, *, inside: bool) -> tuple[TrialState, list[float] | None]:
    """How a finished trial is told: one outside the space has no parameters to learn from."""
    if row.state == "failed":
        return TrialState.FAIL, None
    return (TrialState.COMPLETE, list(row.objectives.values())) if inside else (TrialState.PRUNED, None)


# ------------------------------------------------------------------------------------------- files


def _files(records: StudyRecords, files: StudyFiles) -> Iterator[Finding]:
    study = records.study
    listed = files.listed  # before the rows: a file that is there now has a row by then
    rows = stored_trials.load_trials(records)
    finished = [row for row in rows if row.state != "running"]
    kept = stored_renders.kept_files(records)
    named = {row.number: kept.get(row.number, frozenset()) for row in finished}
    sheets = {row.number: files.sheet(row) for row in finished}
    by_set = stored_renders.numbers_with_set_scores(records)
    features = {row.number: files.features(row) for row in finished if row.number in by_set}
    gone = {number: names - listed for number, names in named.items() if names - listed}
    gone_sheets = {number for number, sheet in sheets.items() if sheet is not None and sheet not in listed}
    gone_features = {number for number, name in features.items() if name not in listed}
    count = sum(map(len, named.values())) + sum(sheet is not None for sheet in sheets.values()) + len(features)
    if count and count == sum(map(len, gone.values())) + len(gone_sheets) + len(gone_features):
        words = (
            f"none of the {count} files that its trials name is in {files.place}: name the right place with --artifacts"
        )
        yield Finding(kind="no files", study=study.name, words=words)
        return
    for row in finished:
        yield from _missing(records, row, gone.get(row.number, frozenset()), sheet=row.number in gone_sheets)
        if row.number in gone_features:
            words = (
                f"the features of its set scores are not there ({features[row.number]}): restore them from a backup; "
                "without those of the parents no trial's gain can be told"
            )
            yield Finding(kind="missing features", study=study.name, trial=row.number, words=words)
    for name in sorted(orphans_among(listed, records, files.artifacts, rows)):
        yield Finding(
            kind="orphan file",
            study=study.name,
            trial=files.number(name),
            words=f"no trial has the file {name}: removed",
            mend=lambda name=name: files.remove(name),  # type: ignore[misc]
        )


def _missing(records: StudyRecords, row: StoredTrial, gone: frozenset[str], *, sheet: bool) -> Iterator[Finding]:
    if gone:
        words = f"{len(gone)} of its renders are not there ({min(gone)}): forgotten, their scores stay"
        yield Finding(
            kind="missing renders",
            study=records.study.name,
            trial=row.number,
            words=words,
            mend=lambda: _forget_renders(records.database, row, gone),
        )
    if sheet:
        words = "its contact sheet is not there: forgotten"
        yield Finding(
            kind="missing sheet",
            study=records.study.name,
            trial=row.number,
            words=words,
            mend=lambda: _forget_sheet(records.database, row),
        )


def _forget_renders(database: Database, row: StoredTrial, gone: frozenset[str]) -> None:
    mine = sa.and_(tables.renders.c.trial_id == row.id, tables.renders.c.file.in_(gone))
    with database.write() as connection:
        connection.execute(tables.renders.update().where(mine).values(file=None))


def _forget_sheet(database: Database, row: StoredTrial) -> None:
    with database.write() as connection:
        connection.execute(tables.trials.update().where(tables.trials.c.id == row.id).values(sheet=None))
