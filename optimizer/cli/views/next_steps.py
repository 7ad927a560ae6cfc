"""What one may type next, after a study has been worked on."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.cli.common import console, escaped
from optimizer.cli.views.final import finish_command
from optimizer.cli.views.report import study_objective
from optimizer.search.stopping import stored_end
from optimizer.trial.best import Best, best_of, load_results
from studies.records.finals import lacks_final
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.system.advice import advised


def next_commands(records: StudyRecords, trials: Sequence[StoredTrial], best: Best | None) -> list[str]:
    """Return what one may type next, the most useful first."""
    name, url = records.study.name, records.database.url
    ended = stored_end(records, trials) is not None
    commands = [] if ended else [advised(f'study resume "{name}"', url)]
    if ended and lacks_final(records, trials):
        commands.append(finish_command(records))
    commands.append(advised(f'study show "{name}"', url))
    if best is not None and best.refusal is None:
        commands.append(advised(f'export "{name}"', url))
    return commands


def print_next(records: StudyRecords) -> None:
    """Print the command that a study which has ended calls for: its final, else the export of its best merge."""
    trials, final = load_results(records)
    best = best_of(trials, final, study_objective(records.study))
    if stored_end(records, trials) is None:
        return
    shown = advised(f'study show "{records.study.name}"', records.database.url)
    commands = [command for command in next_commands(records, trials, best) if command != shown]
    if commands:
        console.print(escaped(f"Next: {commands[0]}"), soft_wrap=True)
