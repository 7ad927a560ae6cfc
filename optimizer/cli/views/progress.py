"""Live progress of a study: one line that moves in a terminal, one line a trial elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from basics.messages import counted
from optimizer.cli.common import console, escaped, interactive
from optimizer.cli.views.terminal_pictures import show_picture
from optimizer.observe.events import (
    BatchReduced,
    Event,
    ImagesRendered,
    OutageBegan,
    SheetDrawn,
    StudyPaused,
    TrialEnded,
    TrialStarted,
    VotesAwaited,
)
from optimizer.search.depth.ties import split_of
from optimizer.search.stopping import own_trials
from optimizer.trial.gain_text import gain_text, signed
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.ranking import best_gains, stopped_after
from studies.records.cached_reads import CachedTrials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.system.advice import advised

FINISHING = "finishing this trial; press Ctrl-C again to leave now (resume will run it again)"
STAGES = {"merge": ("merge",), "render": ("text", "denoise", "decode"), "score": ("score",)}


class _More(ProgressColumn):
    """A task's own words; while a stop is awaited, the images' line says so.

    A signal handler must not print through the console it may have interrupted: the next refresh shows it.
    """

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def render(self, task: Task) -> Text:
        awaited = self._stop.is_set() and task.fields["stoppable"]
        return Text(FINISHING if awaited else task.fields["more"], style="yellow" if awaited else "")


class ProgressReporter:
    """A worker's reporter for people.

    Args:
        stop: set when the user has asked to stop.
    """

    def __init__(self, records: StudyRecords, objective: Objective, stop: threading.Event) -> None:
        self._records, self._objective = records, objective
        self._names = (SINGLE,) if objective.terms else objective.names
        self._total = records.study.spec.budget.trials
        self._items = len(records.study.spec.suite.items())
        self._started = time.monotonic()
        self._shown: tuple[int, ...] = ()  # trials, in the picture that was shown last
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            _More(stop),
            console=console,
            disable=not interactive(),
        )
        self._cached_trials = CachedTrials(records)
        finished = [trial for trial in own_trials(self._cached_trials.trials()) if trial.state != "running"]
        self._finished = len(finished)
        self._task = self._progress.add_task(
            "trials", total=self._total, completed=self._finished, more="", stoppable=False
        )
        self._images = self._progress.add_task("images", total=1, more="", stoppable=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def report(self, event: Event) -> None:
        """Show an event.

        Raises:
            OperationalError: the database is away (as any of `OUTAGES`).
        """
        match event:
            case TrialStarted(trial=number, origin=origin, images=images):
                self._progress.update(self._images, total=images, completed=0, more=f"trial {number}, {origin}")
            case ImagesRendered(images=images):
                self._progress.update(self._images, completed=images)
            case TrialEnded(stored=trial):
                self._show_ended(trial)
            case SheetDrawn(where=where, trials=trials):
                self._show_sheet(where, trials)
            case OutageBegan():
                OutageReporter().report(event)
            case StudyPaused():
                again = advised(f'study resume "{self._records.study.name}" --detach', self._records.database.url)
                console.print(escaped(f"paused; it goes on with: {again}"), soft_wrap=True)
            case VotesAwaited(trials=trials):
                vote = advised(f'study vote "{self._records.study.name}"', self._records.database.url)
                line = f"nobody has voted on {trials} merges, so the search waits; it goes on as people vote: {vote}"
                console.print(escaped(line), soft_wrap=True)
            case BatchReduced():
                console.print(escaped(_reduction(event)), soft_wrap=True)

    def _show_ended(self, trial: StoredTrial) -> None:
        finished = [each for each in self._cached_trials.trials() if each.state != "running"]
        done = len(own_trials(finished))
        done_since = max(1, done - self._finished)  # by all workers of the study
        left = (time.monotonic() - self._started) / done_since * max(0, self._total - done)
        more = " | ".join(part for part in (self._best_gain(finished), _stages(trial), f"{_clock(left)} left") if part)
        self._progress.update(self._task, completed=done, more=more)
        if split := self._newly_split(trial):
            console.print(f"from trial {trial.number} on {split} searched in blocks", markup=False)
        if not interactive():
            line = f"trial {trial.number}, {done}/{self._total} | {self._outcome(trial)} | {more}"
            console.print(line, soft_wrap=True, markup=False)
        elif trial.state == "failed":
            console.print(f"[red]trial {trial.number} failed:[/] {escaped(trial.reason or '')}")

    def _show_sheet(self, where: str, trials: tuple[int, ...]) -> None:
        """Show the picture of the parents and the best so far, where the terminal can and it shows another trial."""
        if trials != self._shown:
            self._shown = trials
            show_picture(where)

    def _newly_split(self, trial: StoredTrial) -> str:
        """Return which sections were split for this trial, with `granularity: auto`; empty if none."""
        storage = self._records.database.storage
        study_id = storage.get_study_id_from_name(self._records.study.name)
        in_optuna = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, trial.number))
        split = split_of(in_optuna) or {}
        found = [section for section, number in split.items() if number == trial.number]
        return f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'}" if found else ""

    def _best_gain(self, trials: Sequence[StoredTrial]) -> str:
        """Return the best gain so far in each objective, over all workers."""
        best = best_gains(trials, self._objective)
        parts = [
            f"best {'gain' if name == SINGLE else name} {gain_text(best[name])}" for name in self._names if name in best
        ]
        return ", ".join(parts)

    def _outcome(self, trial: StoredTrial) -> str:
        if trial.state == "failed":
            return f"{trial.origin} failed: {trial.reason}"
        breach = self._objective.constraints.breach(trial.constrained)
        broken = "" if breach is None else f", breaks {breach}"
        if trial.estimated:
            values = ", ".join(f"{name} about {trial.objectives[name]:.4g}" for name in self._names)
            return f"{trial.origin} {stopped_after(trial, self._items)}: {values}{broken}"
        values = ", ".join(
            f"{name} {trial.objectives[name]:.4g}"
            + (f" gain {signed(trial.gains[name].value)}" if name in trial.gains else "")
            for name in self._names
        )
        return f"{trial.origin}: {values}{broken}"


class OutageReporter:
    """A reporter that prints what is waited for and why, and for how long at most."""

    def report(self, event: Event) -> None:
        """Print the beginning of an outage."""
        if isinstance(event, OutageBegan):
            text = f"waiting for {event.reason}, {event.limit / 60:.0f} minutes at most"
            console.print(escaped(text), soft_wrap=True)


def _reduction(event: BatchReduced) -> str:
    done = " decoded" if event.component == "vae" else ""
    images = f"{counted(event.images, 'image')}{done}"
    return f"out of memory: from now on {images} at once, and the same on such machines ({event.reason})"


def _stages(trial: StoredTrial) -> str:
    if trial.state == "failed" or not trial.seconds:  # of a failed trial only the sum is known
        return ""
    sums = {label: sum(trial.seconds.get(stage, 0.0) for stage in stages) for label, stages in STAGES.items()}
    return ", ".join(f"{label} {seconds:.2f} s" for label, seconds in sums.items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
