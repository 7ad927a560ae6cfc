"""The final on the terminal: hold it with live progress, and print its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from basics.messages import counted
from optimizer.cli.common import console, escaped, interactive, print_notes
from optimizer.cli.views.tables import ReportTable
from optimizer.observe.events import FinalHeld, FinalStarted, Reporter
from optimizer.search.stopping import stored_end
from optimizer.system.retry import Retry
from optimizer.trial.best import role_in_final
from optimizer.trial.gain_text import basis_notes, gain_text
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.repeats import note_of_repeats
from optimizer.trial.verdict import flaws
from studies.files.artifacts import RenderFile, render_file
from studies.records.finals import Final, lacks_final, store_final
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredStudy, StoredTrial
from studies.spec.published.render_texts import merge_name, render_texts
from studies.system.advice import advised

if TYPE_CHECKING:
    from torch import Tensor

    from optimizer.outcome.final import FinalWatch
    from optimizer.runtime.setup import Runtime
    from studies.files.artifacts import Artifacts

    Pictures = dict[int, Sequence[Tensor]]  # trial -> its held-out renders, as thumbnails


def finish_study(
    records: StudyRecords,
    runtime: Runtime,
    artifacts: Artifacts,
    reporter: Reporter,
    retry: Retry,
) -> Final:
    """Hold the final with live progress, store it with its renders, and draw its contact sheet.

    Args:
        retry: waits while the database or the artifact store cannot be reached.

    Raises:
        FinalError: there is nothing to compare.
    """
    from optimizer.outcome.final import hold_final
    from optimizer.rendering.contact_sheet import thumbnail
    from optimizer.search.shortlist import by_posterior

    study = records.study
    trials = retry(lambda: load_trials(records))
    rank = retry(lambda: by_posterior(records, runtime.objective, trials))
    pictures: Pictures = {}
    reporter.report(FinalStarted(images=_images(study)))

    def keep(trial: StoredTrial, images: Sequence[Tensor]) -> None:
        on_sheet = (study.spec.final.top + len(study.parents)) * len(images)
        pictures[trial.number] = [thumbnail(image, on_sheet) for image in images]
        if study.spec.render.keep != "none":
            retry(lambda: _save_renders(study, trial, images, artifacts))

    with _progress(_images(study), keep) as watch:
        final = hold_final(runtime, trials, rank, watch)
    retry(lambda: store_final(records, final))
    retry(lambda: _remove_former(study, final, artifacts))
    reporter.report(FinalHeld(final=final))
    sheet = retry(lambda: _save_sheet(study, final, trials, pictures, artifacts))
    console.print(f"contact sheet of the parents and the candidates: {escaped(sheet)}", soft_wrap=True)
    return final


def _save_renders(stored: StoredStudy, trial: StoredTrial, images: Sequence[Tensor], artifacts: Artifacts) -> None:
    """Store the held-out renders of a trial at full size.

    Args:
        images: uint8 [3, h, w], in item order.
    """
    suite, name = stored.spec.held_out, merge_name(stored.name, trial.number)
    artifacts.of_final(stored.key).save_renders(
        [
            RenderFile(
                file=render_file(trial.number, label),
                pixels=image.numpy(),
                texts=render_texts(item, suite, trial.recipe, name, trial.origin.parent),
            )
            for label, item, image in zip(suite.render_labels(), suite.items(), images, strict=True)
        ]
    )


def _remove_former(stored: StoredStudy, final: Final, artifacts: Artifacts) -> None:
    """Remove the renders of an earlier final that are not of this one."""
    labels, files = stored.spec.held_out.render_labels(), artifacts.of_final(stored.key)
    wanted = {render_file(finalist.number, label) for finalist in final.finalists for label in labels}
    for file in sorted(files.files() - wanted):
        artifacts.store.remove(files.name(file))


def _save_sheet(
    stored: StoredStudy, final: Final, trials: Sequence[StoredTrial], pictures: Pictures, artifacts: Artifacts
) -> str:
    """Draw parents and candidates side by side on renders that the search never saw, and return where the sheet is."""
    from optimizer.observe.study_sheet import column_heading
    from optimizer.rendering.contact_sheet import comparison_sheet, row_captions

    objective, columns = Objective.of(stored.spec, stored.spec.infos), []
    by_number = {trial.number: trial for trial in trials}
    for finalist in final.finalists:
        if finalist.number in pictures:
            trial, role = by_number[finalist.number], role_in_final(final, finalist)
            heading = column_heading(stored, trial, finalist.held_out, objective, role)
            columns.append((heading, pictures[finalist.number]))
    captions = row_captions(stored.spec.held_out.items())
    title = f"{stored.name}, the final: renders that the search never saw, and held-out gains"
    sheet = comparison_sheet(title, columns, captions, blocks=min(2, -(-len(captions) // 8)), thumbnails=True)
    return artifacts.save_picture(stored.name, stored.key, "final", sheet)


@contextmanager
def _progress(images: int, keep: Callable[[StoredTrial, Sequence[Tensor]], None]) -> Iterator[FinalWatch]:
    """Give the callbacks of a final that show its progress.

    Args:
        images: held-out ones of a trial.
        keep: is given each trial with its images, uint8 [3, h, w].
    """
    from optimizer.outcome.final import FinalWatch

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

        yield FinalWatch(
            started=on_started,
            rendered=lambda done: progress.update(renders, completed=done),
            finished=keep,
        )


def final_is_due(records: StudyRecords) -> bool:
    """Return whether the budget is spent, no worker is still at work, and the final does not cover all trials."""
    trials = load_trials(records)
    return stored_end(records, trials) is not None and lacks_final(records, trials)


def print_repeats(records: StudyRecords, trials: Sequence[StoredTrial]) -> None:
    """Print in one line which images the study renders twice, if it renders any twice."""
    if (note := note_of_repeats(records.study.spec, trials)) is not None:
        print_notes([note])


# ---------------------------------------------------------------------------------------- printing


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


def finish_command(records: StudyRecords) -> str:
    """Return the command that holds a study's final."""
    return advised(f'study finish "{records.study.name}"', records.database.url)


def final_table(stored: StoredStudy, final: Final, objective: Objective) -> ReportTable:
    """Return a table with a row for each candidate."""
    title = f"final of {escaped(stored.name)}: {counted(_images(stored), 'image')} that the search never saw"
    table = ReportTable(title)
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
        cells = [_cell(candidate.in_sample, names), _cell(candidate.held_out, names)]
        cells += [_cell(candidate.held_out, (name,)) for name in scorers]
        role = role_in_final(final, candidate)
        state = "failed" if candidate.failure is not None else f"[bold]{role}[/]" if role else ""
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


def final_lines(records: StudyRecords, final: Final, objective: Objective) -> list[str]:
    """Return what the final found, then what failed, then what looks gamed; one line each.

    Whether the gain is sure is said of the best trial: see `best_in_words`.
    """
    return [*_found(records, final, objective), *flaws(final, objective)]


def _found(records: StudyRecords, final: Final, objective: Objective) -> Iterator[str]:
    """Yield the gain of the best merge, or how to choose where there are several objectives."""
    winner = final.winner
    if winner is not None:
        gain, among = winner.held_out[SINGLE], counted(len(final.candidates), "candidate")
        gained = f"held-out gain: objective {gain_text(gain)} over parent {gain.parent}"
        yield f"{gained}, of trial {winner.number}, the best of {among}"
    elif not objective.terms:
        command = advised(f'export "{records.study.name}" --trial N', records.database.url)
        yield f"several objectives have no single winner: choose a trial with `{command}`"
