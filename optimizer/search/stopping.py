"""When a study ends: by trials, images or minutes of work, or by itself when little is expected any more."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import FrozenTrial

from studies.records.database import Database
from studies.records.optuna_studies import optuna_trials
from studies.records.optuna_tables import count_trials
from studies.records.values import StoredStudy, StoredTrial
from studies.spec.study import StudySpec

EXPECTED_KEY = "mergetune:expected"
"""System attribute of a trial: the JSON [improvement, noise] of its Expectation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the model expected of a merge, both in the objective's own unit.

    The improvement is over the incumbent, the trial of the best posterior mean. The noise is the standard deviation of
    one trial's objective about what the model can explain by its ratios.
    """

    improvement: float  # expected; never below 0
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Why a study has ended."""

    key: Literal["trials", "images", "minutes", "patience"]  # of the spec's budget
    words: str  # a sentence without a full stop


def spent(spec: StudySpec, rows: Sequence[StoredTrial], asked: int, expected: Sequence[Expectation]) -> End | None:
    """Why no new trial may begin; None while one may. It follows from what is stored, so all workers agree.

    Trials taken over from another study cost nothing.

    Args:
        rows: the trials that were begun.
        asked: trials that Optuna has, among them those that are about to begin.
        expected: what was expected of the finished trials that were proposed for what they promised.
    """
    budget, own = spec.budget, own_trials(rows)
    asked -= len(rows) - len(own)
    if asked >= budget.trials:
        return End(key="trials", words=f"the budget of {budget.trials} trials is spent")
    if budget.images is not None and images_of(own) >= budget.images:
        return End(key="images", words=f"the budget of {budget.images} images is spent")
    if budget.minutes is not None and minutes_of(own) >= budget.minutes:
        return End(key="minutes", words=f"the budget of {budget.minutes:g} minutes of work is spent")
    return None if budget.patience is None else _out_of_patience(budget.patience, expected)


def expectations(trials: Iterable[FrozenTrial]) -> list[Expectation]:
    """Of the finished and failed trials that were proposed with one, by number."""
    rows = sorted((row for row in trials if row.state.is_finished()), key=lambda row: row.number)
    pairs = [json.loads(row.system_attrs[EXPECTED_KEY]) for row in rows if EXPECTED_KEY in row.system_attrs]
    return [Expectation(improvement=improvement, noise=noise) for improvement, noise in pairs]


def _out_of_patience(patience: int, expected: Sequence[Expectation]) -> End | None:
    """Whether the last trials together were expected to improve the best by less than the noise of a single one.

    Together, because a search proceeds by small steps: even while it gains, each one's expectation is mostly below
    the noise.
    """
    last = expected[-patience:]
    if len(last) < patience or sum(row.improvement for row in last) >= last[-1].noise:
        return None
    trials = "the last trial" if patience == 1 else f"the last {patience} trials together"
    return End(key="patience", words=f"less than {last[-1].noise:.3g}, the noise of one trial, expected of {trials}")


def end_of(database: Database, study: StoredStudy, rows: Sequence[StoredTrial]) -> End | None:
    """Why a stored study has ended, or None."""
    if study.spec.budget.patience is None:
        return spent(study.spec, rows, len(rows), ())
    return spent(study.spec, rows, len(rows), expectations(optuna_trials(database, study)))


def is_spent(database: Database, study: StoredStudy, rows: Sequence[StoredTrial], told: optuna.Study) -> bool:
    """Whether no new trial may begin, also told by trials that were asked for and not begun yet.

    Args:
        told: the study as Optuna has it; its trials are read only where the budget has patience.
    """
    asked = count_trials(database, told._study_id)  # noqa: SLF001 - the table wants it
    patient = study.spec.budget.patience is not None
    promised = expectations(told.get_trials(deepcopy=False)) if patient else ()
    return spent(study.spec, rows, asked, promised) is not None


def own_trials(rows: Sequence[StoredTrial]) -> list[StoredTrial]:
    """Those that were not taken over."""
    return [row for row in rows if row.source is None]


def images_of(rows: Sequence[StoredTrial]) -> int:
    """Rendered by finished trials; one that failed or was stopped may have fewer than the suite has items."""
    return sum(row.rendered for row in rows if row.state != "running")


def minutes_of(rows: Sequence[StoredTrial]) -> float:
    """That finished trials took, over all workers; by clocks that nobody sets, so not from the times of day.

    What a worker did that died is not known, and costs nothing.
    """
    return sum(sum(row.seconds.values()) for row in rows if row.state != "running") / 60
