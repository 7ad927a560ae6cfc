"""Who is told what a worker does: people, a log, metrics."""

from __future__ import annotations

from collections.abc import Sequence

from studies.batch_limits import Batched
from studies.finals import Final
from studies.results import StoredTrial


class Reporter:
    """Told what happens; a subclass overrides what it cares for."""

    def worker_started(self, worker_id: str) -> None: ...

    def worker_left(self, finished: int) -> None:
        """After so many trials, of its own accord or by an error."""

    def stop_asked(self, by: str) -> None:
        """The worker leaves for that reason, its trial being finished.

        Args:
            by: "signal", or "database" for `mergetune study stop`.
        """

    def trial_taken_over(self, number: int, attempt: int) -> None:
        """A trial of a worker that died or left is about to start here; `attempt` is 1 where that left in peace."""

    def trial_started(self, number: int, origin: str, images: int) -> None: ...

    def images_rendered(self, done: int) -> None: ...

    def trial_finished(self, trial: StoredTrial) -> None:
        """It is complete or failed, and stored: also one that is given up, as too many workers died over it.

        Called again if it raises what tells of an outage.
        """

    def trial_lost(self, number: int) -> None:
        """Another worker took this one for dead and has its trial: nothing of it was stored."""

    def outage_began(self, reason: str, limit_seconds: float) -> None: ...

    def outage_ended(self, seconds: float) -> None:
        """It had been away for so long."""

    def paused(self) -> None:
        """The study is paused: the worker waits until it goes on, and then starts its next trial."""

    def batch_reduced(self, component: Batched, batch_size: int, reason: str) -> None:
        """Memory was too small: so many images go through a component at once from now on, on this kind of device."""

    def final_started(self, images: int) -> None:
        """Each of its trials is rendered on so many held-out items."""

    def final_held(self, final: Final) -> None: ...


class Reporters(Reporter):
    """Tells several, in their order."""

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
