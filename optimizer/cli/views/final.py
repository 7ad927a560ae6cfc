"""The final for people: holding it with progress, and what it found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from optimizer.cli.common import console, escaped, interactive
from optimizer.cli.views.progress import gain_text
from optimizer.outcome.verdict import is_better, suspicion
from optimizer.search.stopping import end_of
from optimizer.system.retry import Retry
from optimizer.trial.objective import SINGLE, Objective
from studies.records.finals import Final, Finalist, lacks_final, store_final
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredStudy, StoredTrial

if TYPE_CHECKING:
    from torch import Tensor

    from optimizer.observe.events import Reporter
    from optimizer.outcome.final import FinalWatch
    from optimizer.runtime.setup import Runtime
    from studies.files.artifacts import Artifacts

    Pictures = dict[int, Sequence[Tensor]]  # trial -> its held-out renders, reduced


def finish_study(
    records: StudyRecords,
    runtime: Runtime,
    artifacts: Artifacts,
    reporter: Reporter,
    retry: Retry,
) -> Final:
    """Hold the final with live progress, store it, and draw its contact sheet.

    Args:
        retry: what is done while the database or the artifact store is away.

    Raises:
        FinalError: there is nothing to compare.
    """
    from optimizer.outcome.final import hold_final
    from optimizer.search.shortlist import by_posterior

    study = records.study
    rows = retry(lambda: load_trials(records))
    rank = retry(lambda: by_posterior(records, runtime.objective, rows))
    pictures: Pictures = {}
    reporter.final_started(_images(study))
    with _progress(_images(study), pictures) as watch:
        final = hold_final(runtime, rows, rank, watch)
    retry(lambda: store_final(records, final))
    reporter.final_held(final)
    sheet = retry(lambda: _save_sheet(study, final, pictures, artifacts))
    console.print(f"contact sheet, parents beside the candidates: {escaped(sheet)}", soft_wrap=True)
    return final


def _save_sheet(stored: StoredStudy, final: Final, pictures: Pictures, artifacts: Artifacts) -> str:
    """Parents and candidates side by side, on renders that the search never saw."""
    from optimizer.rendering.contact_sheet import comparison_sheet

    columns = []
    for row in final.finalists:
        if row.number in pictures:
            heading = str(row.origin) if row.is_parent else f"trial {row.number}"
            columns.append((f"{heading}: chosen" if row.chosen else heading, pictures[row.number]))
    captions = [item.prompt for item in stored.spec.held_out.items()]
    sheet = comparison_sheet(f"{stored.name}, the final", columns, captions, blocks=min(2, -(-len(captions) // 8)))
    return artifacts.save_picture(f"{stored.name}-final.png", sheet)


@contextmanager
def _progress(images: int, pictures: Pictures) -> Iterator[FinalWatch]:
    from optimizer.outcome.final import FinalWatch
    from optimizer.rendering.contact_sheet import reduced

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not interactive()) as progress:
        task = progress.add_task("final", total=None)
        renders = progress.add_task("images", total=images)
        begun: list[int] = []

        def on_begun(row: StoredTrial, total: int) -> None:
            progress.update(task, total=total, completed=len(begun))
            progress.update(renders, completed=0, description=escaped(f"trial {row.number}, {row.origin}"))
            begun.append(row.number)
            if not interactive():
                line = f"final {len(begun)}/{total}: trial {row.number}, {row.origin}, {images} held-out images"
                console.print(line, soft_wrap=True, markup=False)

        def on_finished(row: StoredTrial, found: Sequence[Tensor]) -> None:
            pictures[row.number] = [reduced(image) for image in found]

        yield FinalWatch(
            started=on_begun,
            rendered=lambda done: progress.update(renders, completed=done),
            finished=on_finished,
        )


def final_is_due(records: StudyRecords) -> bool:
    """Whether the budget is spent, no worker is still at work, and the final knows not of all trials."""
    rows = load_trials(records)
    return end_of(records, rows) is not None and lacks_final(records, rows)


def current_winner(final: Final | None, rows: Sequence[StoredTrial]) -> Finalist | None:
    """The final's choice while it holds: trials finished since may be better."""
    return None if final is None or final.is_outdated(rows) else final.winner


# ----------------------------------------------------------------------------------------- telling


def print_final(stored: StoredStudy, final: Final, rows: Sequence[StoredTrial], objective: Objective) -> None:
    """The candidates with their gains in the search and in the final, what was chosen, and what looks gamed."""
    console.print(final_table(stored, final, objective))
    for line in final_lines(final, objective):
        console.print(escaped(line), soft_wrap=True)
    if final.is_outdated(rows):
        console.print(
            "[yellow]the final is outdated:[/] trials were finished since; hold it again with: "
            + escaped(f'mergetune study finish "{stored.name}"'),
            soft_wrap=True,
        )


def final_table(stored: StoredStudy, final: Final, objective: Objective) -> Table:
    """One row a candidate."""
    title = f"final of {escaped(stored.name)}: {_images(stored)} images that the search never saw"
    table = Table(title=title, title_justify="left")
    names = objective.names
    scorers = [term.scorer for term in objective.terms]
    for head in (
        "trial",
        "what",
        "gain in\nthe search",
        "held-out\ngain",
        *(f"{name}\nheld out" for name in scorers),
        "",
    ):
        table.add_column(escaped(head), overflow="fold")
    for row in final.candidates:
        cells = [_cell(row.in_sample, names), _cell(row.held_out, names)]
        cells += [_cell(row.held_out, (name,)) for name in scorers]
        state = "failed" if row.failure is not None else "[bold]chosen[/]" if row.chosen else ""
        table.add_row(str(row.number), escaped(str(row.origin)), *cells, state)
    return table


def _cell(gains: Mapping[str, Gain], names: Sequence[str]) -> str:
    return "\n".join(
        escaped(f"{name} " if len(names) > 1 else "") + gain_text(gains[name]).replace(" (", "\n(", 1)
        for name in names
        if name in gains
    )


def _images(stored: StoredStudy) -> int:
    return len(stored.spec.held_out.items())


def final_lines(final: Final, objective: Objective) -> list[str]:
    """The verdict, then what failed, then what looks gamed; one line each."""
    lines = [_verdict(final, objective)]
    failed = [row for row in final.finalists if row.failure is not None]
    lines += [f"trial {row.number} ({row.origin}) failed in the final: {row.failure}" for row in failed]
    suspected = [(row, suspicion(row, objective)) for row in final.candidates]
    return lines + [f"trial {row.number} looks gamed: {reason}" for row, reason in suspected if reason is not None]


def _verdict(final: Final, objective: Objective) -> str:
    winner = final.winner
    if winner is None:
        if objective.terms:
            return "every candidate failed in the final: nothing is chosen"
        return "several objectives have no single winner: choose a trial with `mergetune export --trial N`"
    gain = winner.held_out[SINGLE]
    told = f"held-out gain: objective {gain_text(gain)} over parent {gain.parent}"
    if not is_better(gain):
        return (
            f"no merge beats parent {gain.parent} in the final: parent {gain.parent} is the better model; {told}, "
            f"of the best merge there, trial {winner.number}"
        )
    unsure = "" if gain.low is None or gain.low > 0 else "; its interval reaches below 0, so it may be luck"
    return f"{told}, of trial {winner.number}, chosen among {len(final.candidates)}{unsure}"
