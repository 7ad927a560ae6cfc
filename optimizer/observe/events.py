"""The events of a worker, and their receivers: people, a log, metrics."""

from __future__ import annotations

from collections.abc import Sequence

from studies.records.batch_limits import Batched
from studies.records.finals import Final
from studies.records.values import StoredTrial


class Reporter:
    """Receives events; a subclass overrides those that it needs."""

    def worker_started(self, worker_id: str) -> None: ...

    def worker_left(self, finished: int) -> None:
        """The worker ends after so many finished trials, be it by an error."""

    def stop_asked(self, by: str) -> None:
        """The worker is asked to leave, and has finished its trial.

        Args:
            by: "signal", or "database" for `mergetune study stop`.
        """

    def trial_taken_over(self, number: int, attempt: int) -> None:
        """This worker takes over a trial of one that died or left; `attempt` is 1 if it left without dying."""

    def trial_started(self, number: int, origin: str, images: int) -> None: ...

    def images_rendered(self, done: int) -> None: ...

    def trial_finished(self, trial: StoredTrial) -> None:
        """The trial is stored as complete or failed. It may have failed because too many workers died over it.

        Called again if it raises an error of a database that is away.
        """

    def trial_lost(self, number: int) -> None:
        """Another worker took this one for dead and has its trial, so nothing of it was stored."""

    def outage_began(self, reason: str, limit_seconds: float) -> None: ...

    def outage_ended(self, seconds: float) -> None:
        """The database or store is back after so many seconds."""

    def paused(self) -> None:
        """The study is paused. The worker starts its next trial when it goes on."""

    def batch_reduced(self, component: Batched, batch_size: int, reason: str) -> None:
        """Memory was too small. From now on a component takes so many images at once on this kind of device."""

    def final_started(self, images: int) -> None:
        """The final begins: each of its trials renders so many held-out images."""

    def final_held(self, final: Final) -> None: ...


class Reporters(Reporter):
    """Passes every event to several reporters, in their order."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = tuple(reporters)

    def worker_started(self, worker_id: str) -> None:
        for reporter in self._reporters:
            reporter.worker_started(worker_id)

    def worker_left(self, finished: int) -> None:
        for reporter in self._reporters:
            reporter.worker_left(finished)

    def stop_asked(self, by: str) -> None:
        for reporter in self._reporters:
            reporter.stop_asked(by)

    def trial_taken_over(self, number: int, attempt: int) -> None:
        for reporter in self._reporters:
            reporter.trial_taken_over(number, attempt)

    def trial_started(self, number: int, origin: str, images: int) -> None:
        for reporter in self._reporters:
            reporter.trial_started(number, origin, images)

    def images_rendered(self, done: int) -> None:
        for reporter in self._reporters:
            reporter.images_rendered(done)

    def trial_finished(self, trial: StoredTrial) -> None:
        for reporter in self._reporters:
            reporter.trial_finished(trial)

    def trial_lost(self, number: int) -> None:
        for reporter in self._reporters:
            reporter.trial_lost(number)

    def outage_began(self, reason: str, limit_seconds: float) -> None:
        for reporter in self._reporters:
            reporter.outage_began(reason, limit_seconds)

    def outage_ended(self, seconds: float) -> None:
        for reporter in self._reporters:
            reporter.outage_ended(seconds)

    def paused(self) -> None:
        for reporter in self._reporters:
            reporter.paused()

    def batch_reduced(self, component: Batched, batch_size: int, reason: str) -> None:
        for reporter in self._reporters:
            reporter.batch_reduced(component, batch_size, reason)

    def final_started(self, images: int) -> None:
        for reporter in self._reporters:
            reporter.final_started(images)

    def final_held(self, final: Final) -> None:
        for reporter in self._reporters:
            reporter.final_held(final)
