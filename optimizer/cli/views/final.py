"""The final on the terminal: its progress, and its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from basics.messages import counted
from optimizer.cli.common import console, escaped, interactive, print_notes
from optimizer.cli.views.tables import FoldingTable
from optimizer.outcome.in_words import final_lines
from optimizer.outcome.next_commands import finish_command
from optimizer.trial.best import role_in_final
from optimizer.trial.gain_text import basis_notes, gain_text
from optimizer.trial.judgement import held_out_breach
from optimizer.trial.objective import Objective
from studies.records.finals import Final
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredStudy, StoredTrial

if TYPE_CHECKING:
    from optimizer.outcome.final import FinalProgress


@contextmanager
def final_progress(study: StoredStudy) -> Iterator[FinalProgress]:
    """Give the callbacks of a study's final that show its progress."""
    from optimizer.outcome.final import FinalProgress

    images = _images(study)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not interactive()) as progress:
        task = progress.add_task("final", total=None)
        renders = progress.add_task("images", total=images)
        started: list[int] = []

        def on_started(trial: StoredTrial, total: int) -> None:
            progress.update(task, total=total, completed=len(started))
            progress.update(renders, completed=0, description=escaped(f"trial {trial.number}, {trial.origin}"))
            started.append(trial.number)
            if not interactive():
                line = f"final {len(started)}/{total}: trial {trial.number}, {trial.origin}, {images} held-out images"
                console.print(line, soft_wrap=True, markup=False)

        yield FinalProgress(
            started=on_started,
            rendered=lambda done: progress.update(renders, completed=done),
        )


def print_final(records: StudyRecords, final: Final, trials: Sequence[StoredTrial], objective: Objective) -> None:
    """Print the candidates with their gains in the search and in the final, the choice, and what looks gamed."""
    console.print(final_table(records.study, final, objective))
    for line in final_lines(records, final, objective):
        console.print(escaped(line), soft_wrap=True)
    held_out = [candidate.held_out for candidate in final.candidates]
    print_notes(f"final: {note}" for note in basis_notes(held_out, records.study.spec.held_out))
    if final.is_outdated(trials):
        console.print(
            "[yellow]the final is outdated:[/] more trials have finished since; hold it again with: "
            + escaped(finish_command(records)),
            soft_wrap=True,
        )


def final_table(stored: StoredStudy, final: Final, objective: Objective) -> FoldingTable:
    """Return a table with a row for each candidate."""
    title = f"final of {escaped(stored.name)}: {counted(_images(stored), 'image')} that the search never saw"
    table = FoldingTable(title)
    names = objective.names
    scorers = [term.scorer for term in objective.terms]
    for head in (
        "trial",
        "origin",
        "gain in\nthe search",
        "held-out\ngain",
        *(f"{name}\nheld out" for name in scorers),
        "",
    ):
        table.head(escaped(head))
    for candidate in final.candidates:
        held_out = {} if final.awaits_votes else candidate.held_out  # before a vote they are those of nobody's taste
        cells = [_cell(candidate.in_sample, names), _cell(held_out, names) or "no votes yet"]
        cells += [_cell(held_out, (name,)) for name in scorers]
        role = role_in_final(final, candidate, objective)
        state = "failed" if candidate.failure is not None else f"[bold]{role}[/]" if role else ""
        if held_out_breach(candidate, objective) is not None:
            state = "breaks the constraints"
        table.add_row(str(candidate.number), escaped(str(candidate.origin)), *cells, state)
    return table


def _cell(gains: Mapping[str, Gain], names: Sequence[str]) -> str:
    return "\n".join(
        escaped(f"{name} " if len(names) > 1 else "") + gain_text(gains[name]).replace(" (", "\n(", 1)
        for name in names
        if name in gains
    )


def _images(stored: StoredStudy) -> int:
    return len(stored.spec.held_out.items())
