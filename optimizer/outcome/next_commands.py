"""The commands that a study calls for next."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.search.stopping import stored_end
from optimizer.trial.best import Best, best_of, load_results
from optimizer.trial.missing_final import misses_final, votes_missing
from optimizer.trial.objective import Objective
from studies.records.finals import lacks_final, load_final
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.system.advice import advised


def next_commands(records: StudyRecords, trials: Sequence[StoredTrial], best: Best | None) -> list[str]:
    """Return what one may type next, the most useful first."""
    name, url = records.study.name, records.database.url
    show = advised(f'study show "{name}"', url)
    if stored_end(records, trials) is None:
        return [advised(f'study resume "{name}"', url), show, *_export(records, best)]
    return [*_final(records, trials), *_votes(records, trials), show, *_export(records, best)]


def command_at_the_end(records: StudyRecords) -> str | None:
    """Return what a study that has ended calls for: its final, votes on it, else the export of its best merge.

    None where the study has not ended, and where there is nothing to hold and nothing to export.
    """
    trials, final = load_results(records)
    if stored_end(records, trials) is None:
        return None
    best = best_of(trials, final, Objective.of_study(records.study))
    return next(iter([*_final(records, trials), *_votes(records, trials), *_export(records, best)]), None)


def finish_command(records: StudyRecords) -> str:
    """Return the command that holds a study's final."""
    return advised(f'study finish "{records.study.name}"', records.database.url)


def _final(records: StudyRecords, trials: Sequence[StoredTrial]) -> list[str]:
    """Return the command of the final that a study which has ended lacks."""
    return [finish_command(records)] if misses_final(records, trials) else []


def vote_command(records: StudyRecords) -> str:
    """Return the command that asks people for votes."""
    return advised(f'study vote "{records.study.name}"', records.database.url)


def _votes(records: StudyRecords, trials: Sequence[StoredTrial]) -> list[str]:
    """Return the command of the votes that a final waits for, to be held or to choose."""
    final = load_final(records)
    waits = votes_missing(records, trials) if lacks_final(records, trials) else final is not None and final.awaits_votes
    return [vote_command(records)] if waits else []


def _export(records: StudyRecords, best: Best | None) -> list[str]:
    """Return the command that exports the best merge, unless something speaks against it."""
    if best is None or best.refusal is not None:
        return []
    return [advised(f'export "{records.study.name}"', records.database.url)]
