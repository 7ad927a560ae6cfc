"""When a study ends: its budget of trials, images or minutes is spent, or little more improvement is expected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import FrozenTrial

from basics.messages import counted
from studies.records.optuna_studies import optuna_trials
from studies.records.optuna_tables import count_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.spec.study import StudySpec

EXPECTED_KEY = "mergetune:expected"
"""System attribute of a trial: the JSON [improvement, noise] of its Expectation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The model's expectation of a proposed merge, in the objective's own unit.

    The improvement is that over the incumbent, the trial with the best posterior mean. The noise is the standard
    deviation of one trial's objective around the model's noise-free value.
    """

    improvement: float  # its expected value, never below 0
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Why a study has ended."""

    key: Literal["trials", "images", "minutes", "patience"]  # of the spec's budget
    reason: str  # one sentence without a full stop


def end_by_budget(
    spec: StudySpec, trials: Sequence[StoredTrial], in_optuna: int, expected: Sequence[Expectation]
) -> End | None:
    """Return why no new trial may begin; None while one may.

    It depends on stored data only, so all workers agree. Trials copied from another study cost nothing.

    Args:
        trials: the study's trials that were started.
        in_optuna: number of trials that Optuna has, including those that are not started yet.
        expected: the expectations of the finished trials that have one, by number.
    """
    budget, own = spec.budget, own_trials(trials)
    copied = len(trials) - len(own)
    if in_optuna - copied >= budget.trials:
        return End(key="trials", reason=f"the budget of {counted(budget.trials, 'trial')} is spent")
    if budget.images is not None and images_of(own) >= budget.images:
        return End(key="images", reason=f"the budget of {counted(budget.images, 'image')} is spent")
    if budget.minutes is not None and minutes_of(own) >= budget.minutes:
        return End(key="minutes", reason=f"the budget of {counted(budget.minutes, 'minute')} of work is spent")
    return None if budget.patience is None else _out_of_patience(budget.patience, expected)


def expectations(trials: Iterable[FrozenTrial]) -> list[Expectation]:
    """List the expectations of the finished trials (complete or failed) that were proposed with one, by number."""
    finished = sorted((trial for trial in trials if trial.state.is_finished()), key=lambda trial: trial.number)
    pairs = [json.loads(trial.system_attrs[EXPECTED_KEY]) for trial in finished if EXPECTED_KEY in trial.system_attrs]
    return [Expectation(improvement=improvement, noise=noise) for improvement, noise in pairs]


def _out_of_patience(patience: int, expected: Sequence[Expectation]) -> End | None:
    """End a search whose last trials, taken together, were expected to gain less than the noise of a single trial.

    Their expectations are added up because a search proceeds in small steps: even while it improves, the expectation of
    a single trial is mostly below the noise.
    """
    last = expected[-patience:]
    if len(last) < patience or sum(expectation.improvement for expectation in last) >= last[-1].noise:
        return None
    trials = "the last trial" if patience == 1 else f"the last {patience} trials together"
    return End(
        key="patience", reason=f"{trials} were expected to gain less than {last[-1].noise:.3g}, the noise of one trial"
    )


def stored_end(records: StudyRecords, trials: Sequence[StoredTrial]) -> End | None:
    """Return why a stored study has ended; None while it has not."""
    study = records.study
    if study.spec.budget.patience is None:
        return end_by_budget(study.spec, trials, len(trials), ())
    return end_by_budget(study.spec, trials, len(trials), expectations(optuna_trials(records)))


def has_ended(records: StudyRecords, trials: Sequence[StoredTrial], in_optuna: optuna.Study) -> bool:
    """Return whether no new trial may start, counting those in Optuna that are not started yet.

    Args:
        in_optuna: the study in Optuna; its trials are read only if the budget has `patience`.
    """
    study = records.study
    count = count_trials(records.database, in_optuna._study_id)  # noqa: SLF001 - the query needs the id
    has_patience = study.spec.budget.patience is not None
    expected = expectations(in_optuna.get_trials(deepcopy=False)) if has_patience else ()
    return end_by_budget(study.spec, trials, count, expected) is not None


def own_trials(trials: Sequence[StoredTrial]) -> list[StoredTrial]:
    """List the trials that were not copied from another study."""
    return [trial for trial in trials if trial.source is None]


def images_of(trials: Sequence[StoredTrial]) -> int:
    """Count the images that finished trials rendered; a failed or stopped trial may have few."""
    return sum(trial.rendered for trial in trials if trial.state != "running")


def minutes_of(trials: Sequence[StoredTrial]) -> float:
    """Sum the minutes that finished trials took, over all workers, by monotonic clocks.

    The time of a worker that died is unknown and costs nothing.
    """
    return sum(sum(trial.seconds.values()) for trial in trials if trial.state != "running") / 60
