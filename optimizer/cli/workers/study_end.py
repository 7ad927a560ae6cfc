"""The end of the work on a study: its final, and everything that shows or tells what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimizer.cli.common import console, escaped

if TYPE_CHECKING:
    from optimizer.observe.events import Reporter
    from optimizer.runtime.setup import Runtime
    from optimizer.system.retry import Retry
    from studies.files.artifacts import Artifacts
    from studies.records.study_records import StudyRecords


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Where a study's outcome is shown; None for what there is not."""

    sheet: str | None  # the contact sheet of the parents and the best
    report: str | None


def finish_with_progress(
    records: StudyRecords, runtime: Runtime, artifacts: Artifacts, reporter: Reporter, retry: Retry
) -> None:
    """Hold the final of a study with live progress, store it, and print where its contact sheet is.

    Args:
        retry: waits while the database or the artifact store cannot be reached.

    Raises:
        FinalError: there is nothing to compare.
    """
    from optimizer.cli.views.final import final_progress
    from optimizer.outcome.finishing import finish_study

    with final_progress(records.study) as progress:
        finish = finish_study(records, runtime, artifacts, reporter, retry, progress)
    console.print(f"contact sheet of the parents and the candidates: {escaped(finish.sheet)}", soft_wrap=True)


def end_study(records: StudyRecords, artifacts: Artifacts, going_on: str = "", *, is_stopped: bool = False) -> None:
    """Print the results of a study, bring up to date what shows them, and print what one may do next.

    Args:
        going_on: a line on how to go on with the search; empty: none.
        is_stopped: whether the work was stopped: then nothing else is proposed.
    """
    from optimizer.cli.views.results import print_study
    from optimizer.outcome.next_commands import command_at_the_end

    print_study(records, every_trial=False)
    print_shown(show_outcome(records, artifacts))
    if going_on:
        console.print(escaped(going_on), soft_wrap=True)
    if not is_stopped and (command := command_at_the_end(records)) is not None:
        console.print(escaped(f"Next: {command}"), soft_wrap=True)


def show_outcome(records: StudyRecords, artifacts: Artifacts) -> Shown:
    """Draw the contact sheet of the best, write the report, and bring the study's page in the dashboard up to date.

    Those of an earlier end no longer hold once trials have been added, also where the study was stopped.

    Raises:
        ArtifactError: the artifact store fails.
    """
    from optimizer.dashboard.study_page import describe_study
    from optimizer.report.page import save_report
    from optimizer.sheets.best import save_best_sheet
    from optimizer.trial.objective import Objective

    sheet = save_best_sheet(records, artifacts)
    with console.status("writing the report"):
        report = save_report(records, Objective.of_study(records.study), artifacts)
    describe_study(records, artifacts)  # the last, because the page shows the sheet
    return Shown(sheet=sheet, report=report)


def print_shown(shown: Shown) -> None:
    """Print where the outcome is shown, and show its picture where the terminal can."""
    from optimizer.cli.views.terminal_pictures import show_picture

    if shown.sheet is not None:
        show_picture(shown.sheet)
        console.print(f"contact sheet of the parents and the best: {escaped(shown.sheet)}", soft_wrap=True)
    if shown.report is not None:
        console.print(f"report: {escaped(shown.report)}", soft_wrap=True)
