"""Whether an ended study still needs its final, and whether it lacks what the final needs."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.trial.objective import Objective
from optimizer.trial.ranking import is_feasible, whole_merges
from studies.records.finals import lacks_final
from studies.records.judgements import judged_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial


def misses_final(records: StudyRecords, trials: Sequence[StoredTrial]) -> bool:
    """Return whether an ended study is to have a final now, and has none of all its trials.

    Not if no merge may take part, or people have not voted on as many merges as would.

    Args:
        trials: all of the study's.
    """
    if not lacks_final(records, trials) or votes_missing(records, trials):
        return False
    objective = Objective.of_study(records.study)
    merges = whole_merges(trials)
    return not merges or any(is_feasible(trial, objective) for trial in merges)


def votes_missing(records: StudyRecords, trials: Sequence[StoredTrial]) -> int:
    """Return on how many more merges people have to vote before the final; 0 where it does not depend on that.

    Where votes are all that counts, candidates that nobody has voted on would be there by chance.

    Args:
        trials: all of the study's.
    """
    spec = records.study.spec
    if not (spec.by_votes_alone and spec.final.top):
        return 0
    objective, voted = Objective.of_study(records.study), judged_trials(records)
    merges = [trial for trial in whole_merges(trials) if is_feasible(trial, objective)]
    return max(0, min(spec.final.top, len(merges)) - sum(trial.number in voted for trial in merges))
