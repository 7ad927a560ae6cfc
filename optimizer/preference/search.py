"""What the search sees of a study with votes: the values of now, and how far it may run ahead of the people."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from studies.records.judgements import judged_trials
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

AHEAD: Final = 8  # merges of the sampler, finished or in progress, without a vote: then the search waits for votes


def lacks_votes(records: StudyRecords, trials: Sequence[StoredTrial]) -> bool:
    """Return whether the search has to wait for votes: it knows nothing else, and has run AHEAD of them."""
    if not records.study.spec.by_votes_alone:
        return False
    voted = judged_trials(records)
    proposed = [trial for trial in trials if trial.origin.kind == "sampler"]
    unknown = [trial for trial in proposed if trial.is_whole or trial.state == "running"]
    return sum(trial.number not in voted for trial in unknown) >= AHEAD


def as_voted(records: StudyRecords, study: Study) -> Study:
    """Return a copy of a study in memory, with the values that its trials have by the votes so far.

    Where votes are all that counts, a trial that nobody has voted on is in progress there: what the model says of it
    follows from others, and would be counted twice.
    """
    stored = {trial.number: trial for trial in load_trials(records)}
    unknown = stored.keys() - judged_trials(records) if records.study.spec.by_votes_alone else set()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna would announce a study that is not the user's
    try:
        seen = optuna.create_study(directions=study.directions)
    finally:
        optuna.logging.set_verbosity(verbosity)
    for trial in study.get_trials(deepcopy=False):
        seen.add_trial(_as_voted(trial, stored, waits=trial.number in unknown))
    return seen


def _as_voted(trial: FrozenTrial, stored: dict[int, StoredTrial], *, waits: bool) -> FrozenTrial:
    if trial.state != TrialState.COMPLETE or trial.number not in stored:
        return trial
    changed = copy.copy(trial)
    if waits:
        changed.state, changed.values, changed.datetime_complete = TrialState.RUNNING, None, None
    else:
        changed.values = list(stored[trial.number].objectives.values())
    return changed
