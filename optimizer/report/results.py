"""What a report is about: a study's trials, its final, the trial that it stands for, and the scores that tell why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.errors import NothingToReportError
from optimizer.trial.best import Best, best_of, load_results, told_gains
from optimizer.trial.front import Front, front_of
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.ranking import parent_trials
from optimizer.trial.stored_scores import scores_of, trial_scores
from scorers.protocol import ScorerInfo
from studies.records.finals import Final, Finalist
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredStudy, StoredTrial
from studies.spec.suite import SuiteSettings
from studies.system.advice import advised


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of a study as its report tells them."""

    records: StudyRecords
    objective: Objective
    trials: tuple[StoredTrial, ...]  # every trial that was started
    final: Final | None  # the last one, which may be outdated
    best: Best
    front: Front | None  # of several objectives

    @property
    def study(self) -> StoredStudy:
        """The study as it was stored when it began, with its spec and parents."""
        return self.records.study

    @property
    def shown(self) -> StoredTrial:
        """The trial beside the parents: the best merge, also where a parent is better; a parent's if there is none."""
        return self.best.merge or self.best.trial

    @property
    def infos(self) -> dict[str, ScorerInfo]:
        """What each scorer's numbers mean."""
        return {name: entry.info for name, entry in self.study.spec.scorers.items()}

    @property
    def parents(self) -> dict[str, StoredTrial]:
        """Letter -> the trial of that parent alone, of parents that have scores."""
        found = parent_trials(self.trials)
        return {letter: trial for letter, trial in sorted(found.items()) if trial.state == "complete"}

    @property
    def current_final(self) -> Final | None:
        """The final, unless trials have finished since."""
        return None if self.final is None or self.final.is_outdated(self.trials) else self.final

    @property
    def gains(self) -> Mapping[str, Gain]:
        """The gains of the trial shown, as the final found them where it judged it; else those of the search."""
        return told_gains(self.shown, self.best, self.final)[0]

    @property
    def gain(self) -> Gain | None:
        """The gain of the trial shown in the single objective; None where there are several, or it is not known."""
        return self.gains.get(SINGLE) if self.objective.terms else None

    @property
    def is_held_out(self) -> bool:
        """Whether `gains` are of renders that the search never saw."""
        gains, held_out = told_gains(self.shown, self.best, self.final)
        return held_out and bool(gains)

    def finalist(self, number: int) -> Finalist | None:
        """Return how a trial fared in the final; None if there is none, or it took no part or failed."""
        finalist = None if self.final is None else self.final.finalist(number)
        return None if finalist is None or finalist.failure is not None else finalist

    def parent_name(self, letter: str) -> str:
        """Return a parent as people know it, such as `parent A (realistic-v5)`."""
        return f"parent {letter} ({self.parent_file(letter)})"

    def parent_file(self, letter: str) -> str:
        """Return the name of a parent's file, without its suffix."""
        return self.study.parent_file(letter).path.stem

    def suite(self, *, held_out: bool) -> SuiteSettings:
        """Return the final's suite, or the search's."""
        return self.study.spec.held_out if held_out else self.study.spec.suite

    def gains_on(self, *, held_out: bool) -> Mapping[str, Gain]:
        """Return the gains of the trial shown on one of the suites."""
        return self.gains if held_out == self.is_held_out else self.shown.gains_over_others

    def scores(self, trial: StoredTrial, *, held_out: bool) -> Scored:
        """Return the scores of a trial on one of the suites; empty for one without."""
        if held_out:
            finalist = self.finalist(trial.number)
            if finalist is None:
                return Scored(by_item={}, means={})
            scores = scores_of(self.suite(held_out=True).items(), finalist.image_scores, finalist.set_scores)
            return Scored(by_item=finalist.image_scores, means=dict(finalist.objectives) | scores.means)
        stored = trial_scores(self.records, trial)
        by_item = {name: tuple(map(float, values)) for name, values in stored.by_item.items()}
        return Scored(by_item=by_item, means=dict(trial.objectives) | stored.means)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scores of one trial on one suite."""

    by_item: Mapping[str, tuple[float, ...]]  # image scorer -> a value per item, NaN where it leaves one out
    means: Mapping[str, float]  # objective or scorer -> its value for the whole suite


def results_of(records: StudyRecords, objective: Objective, weights: Mapping[str, float] | None = None) -> Results:
    """Read what a study's report is about.

    Args:
        weights: of several objectives, to choose from their front.

    Raises:
        NothingToReportError: no trial is complete.
        WeightsError: the weights cannot choose.
    """
    trials, final = load_results(records)
    best = best_of(trials, final, objective, weights)
    if best is None:
        showing = advised(f'study show "{records.study.name}" --trials', records.database.url)
        raise NothingToReportError(
            f"study {records.study.name!r} has no complete trial, so there is nothing to report: see `{showing}`"
        )
    return results_with(records, objective, trials, final, best)


def results_with(
    records: StudyRecords, objective: Objective, trials: Sequence[StoredTrial], final: Final | None, best: Best
) -> Results:
    """Return the results of a study of which trials, final and best are read already, as `load_results` gives them."""
    return Results(
        records=records,
        objective=objective,
        trials=tuple(trials),
        final=final,
        best=best,
        front=None if objective.terms else front_of(trials, objective),
    )
