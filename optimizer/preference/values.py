"""The objective `preference` of a study: computed anew for every complete trial from all votes so far.

Votes come at any time, so what a trial is worth is not fixed when it is scored. It is the mean of the utilities'
posterior: see model.py. Whoever stores a vote, ends a trial or proposes one computes it anew, and stores it, with all
that follows from it. So whoever reads results finds what the votes say, and needs no model for it. Ratings count as
votes: see judgements.py in studies/records/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optimizer.preference.model import fit
from optimizer.preference.points import points_of
from optimizer.preference.voted_scores import VotedScores
from optimizer.trial.constraints import feasible_or_all
from optimizer.trial.objective import SINGLE, Objective, Term
from optimizer.trial.ranking import parent_trials
from optimizer.trial.stored_scores import trial_scores
from studies.records.judgements import load_judgements
from studies.records.optuna_studies import optuna_study_id
from studies.records.preferences import JudgedTrial, store_judged
from studies.records.stored_studies import reread
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.records.votes import Vote


def refresh_preference(records: StudyRecords) -> None:
    """Compute the preference of every complete trial from the votes, and store it; nothing for other studies.

    Raises:
        StudyMissingError: the study was deleted, or its trials in the dashboard.
    """
    name = records.study.spec.voted
    if name is None:
        return
    while True:
        records = reread(records)  # somebody may have given it another name
        optuna_id = optuna_study_id(records)
        votes = load_judgements(records)
        trials = [trial for trial in load_trials(records) if trial.is_whole]
        if not trials:
            return
        if store_judged(records, optuna_id, name, votes, _judged(records, name, trials, votes)):
            return


def _judged(
    records: StudyRecords, name: str, trials: Sequence[StoredTrial], votes: Sequence[Vote]
) -> list[JudgedTrial]:
    """Return every trial as the votes have it."""
    preference = fit(votes, [trial.number for trial in trials], points_of(records, trials))
    stored = {trial.number: trial_scores(records, trial) for trial in trials}
    scores = VotedScores.of(name, preference, stored, len(records.study.spec.suite.items()))
    objective, parents = Objective.of_study(records.study), parent_trials(trials)
    means = {letter: parent.constrained for letter, parent in parents.items()}
    compared = {letter: parents[letter].number for letter in feasible_or_all(means, objective.constraints)}
    return [_as_judged(trial, scores, compared, objective) for trial in trials]


def _as_judged(
    trial: StoredTrial, scores: VotedScores, parents: Mapping[str, int], objective: Objective
) -> JudgedTrial:
    """Return one trial as the votes have it.

    Args:
        parents: letter -> number of the trial, of those that gains are over; none where they were deleted.
    """
    means = scores.means(trial.number)
    gains, errors = dict(trial.gains), dict(trial.errors)
    for name, terms in _sums(scores.name, objective).items():
        if trial.gains and parents:  # else the parents have not ended, or were deleted
            gains[name] = scores.gain(trial.number, parents, terms)
        error = scores.error(trial.number, terms)
        errors.pop(name, None)
        if error is not None:
            errors[name] = error
    return JudgedTrial(
        trial=trial,
        preference=means[scores.name],
        objectives=objective.values(means),
        gains=gains,
        errors=errors,
    )


def _sums(name: str, objective: Objective) -> dict[str, tuple[Term, ...]]:
    """Return what depends on votes: the preference, and the objective if it has a part in it."""
    found: dict[str, tuple[Term, ...]] = {name: (Term(name, 1.0),)}
    if any(term.scorer == name for term in objective.terms):
        found[SINGLE] = objective.terms
    return found
