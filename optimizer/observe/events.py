"""What happens to a worker, as values, and who is told of it: people, a log, metrics.

An event's class says what happened, its fields what is known of it. docs/reference/events-and-metrics.md has the table.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from optimizer.system.retry import Retry
from studies.records.batch_limits import Batched
from studies.records.finals import Final
from studies.records.values import StoredTrial

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a worker.

    The log writes every field under its own name, but `trial` and `worker` into the keys that all events have.
    """

    event: ClassVar[str]  # its name in the log
    level: ClassVar[Level] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted(Event):
    """The start of a worker on a study."""

    event: ClassVar[str] = "worker_started"
    worker: str  # its id
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLeft(Event):
    """The end of a worker's work on a study, be it by an error."""

    event: ClassVar[str] = "worker_left"
    finished: int  # trials


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked(Event):
    """A request to leave, once the worker has finished its trial."""

    event: ClassVar[str] = "stop_asked"
    by: Literal["signal", "database"]  # database: by `mergetune study stop`


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPaused(Event):
    """A pause that somebody asked for: the worker starts its next trial when the study goes on."""

    event: ClassVar[str] = "paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class VotesAwaited(Event):
    """A search by votes that has run so far ahead of them that it waits: it goes on as people vote."""

    event: ClassVar[str] = "votes_awaited"
    name: str  # of the study
    trials: int  # that nobody has voted on


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRefused(Event):
    """A study that cannot be worked on here. Reported once for each reason."""

    event: ClassVar[str] = "study_refused"
    level: ClassVar[Level] = "warning"
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingForWork(Event):
    """The start of waiting for work. Not reported again until there was some."""

    event: ClassVar[str] = "waiting_for_work"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTakenOver(Event):
    """A trial that this worker takes over from one that died or left."""

    event: ClassVar[str] = "trial_taken_over"
    trial: int
    attempt: int  # of a trial whose worker died, counted from 1; the same number again if that worker left in peace


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted(Event):
    """The start of a trial's evaluation."""

    event: ClassVar[str] = "trial_started"
    trial: int
    origin: str
    images: int  # that it has to render


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesRendered(Event):
    """Progress of the trial that is evaluated."""

    event: ClassVar[str] = "images_rendered"
    images: int  # of this trial so far


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnded(Event):
    """The end of a trial, once its outcome is stored.

    Reported again if a receiver raises an error of a database that is away.
    """

    stored: StoredTrial
    breach: str | None = None  # which constraints it breaks, and by what

    @staticmethod
    def of(stored: StoredTrial, breach: str | None = None) -> TrialEnded:
        """Return the event of a trial's outcome."""
        if stored.state == "failed":
            return TrialFailed(stored=stored)
        return TrialFinished(stored=stored, breach=breach)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFinished(TrialEnded):
    """The end of a trial that is complete, or stopped by racing."""

    event: ClassVar[str] = "trial_finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFailed(TrialEnded):
    """The end of a trial that failed, perhaps because too many workers died over it."""

    event: ClassVar[str] = "trial_failed"
    level: ClassVar[Level] = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLost(Event):
    """The loss of a trial to a worker that took this one for dead: nothing of it was stored."""

    event: ClassVar[str] = "trial_lost"
    level: ClassVar[Level] = "warning"
    trial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetDrawn(Event):
    """A new picture of the parents beside the best so far, after a trial."""

    event: ClassVar[str] = "sheet_drawn"
    where: str  # a path, or a URL in a bucket
    trials: tuple[int, ...]  # that it shows: the parents, then the best merge


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageBegan(Event):
    """The start of an outage of the study database or of the artifact store."""

    event: ClassVar[str] = "outage_began"
    level: ClassVar[Level] = "warning"
    reason: str  # what is away, and why
    limit: float  # seconds that it is waited for at most


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageEnded(Event):
    """The end of an outage."""

    event: ClassVar[str] = "outage_ended"
    took: float  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReduced(Event):
    """A smaller batch, as memory ran out: a component takes fewer images at once on this kind of device from now on."""

    event: ClassVar[str] = "batch_reduced"
    level: ClassVar[Level] = "warning"
    component: Batched
    images: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalStarted(Event):
    """The start of the final."""

    event: ClassVar[str] = "final_started"
    images: int  # held-out ones that each of its trials renders


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalHeld(Event):
    """The end of the final, once it is stored."""

    event: ClassVar[str] = "final_held"
    final: Final


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFailed(Event):
    """An error that ends the command."""

    event: ClassVar[str] = "error"
    level: ClassVar[Level] = "error"
    kind: str  # the error's class
    message: str


class Reporter(Protocol):
    """A receiver of events."""

    def report(self, event: Event) -> None:
        """Take note of an event; one that does not matter here is ignored."""


class Reporters:
    """A reporter that passes every event to several, in their order."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = tuple(reporters)

    def report(self, event: Event) -> None:
        """Pass an event on."""
        for reporter in self._reporters:
            reporter.report(event)


def reporting_retry(reporter: Reporter, limit_seconds: float) -> Retry:
    """Return a Retry that reports when an outage begins and ends.

    Args:
        limit_seconds: how long an outage may last.
    """
    return Retry(
        limit_seconds=limit_seconds,
        on_waiting=lambda reason, limit: reporter.report(OutageBegan(reason=reason, limit=limit)),
        on_back=lambda seconds: reporter.report(OutageEnded(took=seconds)),
    )
