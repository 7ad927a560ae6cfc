"""Whether an ended study still needs its final."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.trial.objective import Objective
from optimizer.trial.ranking import is_feasible, whole_merges
from studies.records.finals import lacks_final
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial


def misses_final(records: StudyRecords, trials: Sequence[StoredTrial]) -> bool:
    """Return whether an ended study is to have a final, and has none of all its trials; not if no merge may take part.

    Args:
        trials: all of the study's.
    """
    if not lacks_final(records, trials):
        return False
    objective = Objective.of_study(records.study)
    merges = whole_merges(trials)
    return not merges or any(is_feasible(trial, objective) for trial in merges)
