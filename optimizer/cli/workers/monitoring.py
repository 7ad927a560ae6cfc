"""How other programs observe a worker: `--log-json` and `--metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from optimizer.cli.common import console, escaped

if TYPE_CHECKING:
    from optimizer.observe.event_log import EventLog
    from optimizer.observe.events import Event, Reporter
    from optimizer.observe.metrics import Metrics
    from studies.records.study_records import StudyRecords

LogJson = Annotated[
    str | None,
    typer.Option(
        "--log-json",
        envvar="MERGETUNE_LOG_JSON",
        metavar="FILE",
        help="Append every event to a file as a line of JSON; - writes to stderr.",
        show_default=False,
    ),
]
MetricsAddress = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        envvar="MERGETUNE_METRICS",
        metavar="[HOST:]PORT",
        help="Serve Prometheus metrics; only on loopback unless HOST is given.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring:
    """The log and the metrics of this process, if they were asked for."""

    log: EventLog | None = None
    metrics: Metrics | None = None

    def report(self, event: Event) -> None:
        """Count and log an event of no study in particular."""
        if self.metrics is not None:
            self.metrics.report(event)
        if self.log is not None:
            self.log.report(event)

    def reporter(self, records: StudyRecords, *people: Reporter) -> Reporter:
        """Return a reporter that passes a study's events on to `people`, the metrics and the log.

        Args:
            people: reporters that come first, because only they may fail, and then the event is reported again.
        """
        from optimizer.observe.events import Reporters

        reporters = list(people)
        if self.metrics is not None:
            from optimizer.observe.metrics import MetricsReporter

            reporters.append(MetricsReporter(self.metrics, records))
        if self.log is not None:
            reporters.append(self.log.at(records.study.name))
        return Reporters(reporters)


UNMONITORED = Monitoring()


def monitor(context: typer.Context, log_json: str | None, metrics: str | None) -> Monitoring:
    """Open the log and the metrics that the options ask for, until the command ends.

    Raises:
        ObservationError: the file cannot be written, the address cannot be used, or prometheus_client is missing.
    """
    return context.with_resource(_open(log_json, metrics))


@contextmanager
def _open(log_json: str | None, metrics: str | None) -> Iterator[Monitoring]:
    with ExitStack() as opened:
        log = metrics_served = None
        if log_json is not None:
            from optimizer.observe.event_log import event_log

            log = opened.enter_context(event_log(log_json))
            opened.enter_context(_log_failure(log))
        if metrics is not None:
            metrics_served, address = opened.enter_context(_served(metrics))
            console.print(escaped(f"metrics: {address}"), soft_wrap=True)
        yield Monitoring(log=log, metrics=metrics_served)


@contextmanager
def _log_failure(log: EventLog) -> Iterator[None]:
    """Log an error that ends the command."""
    from optimizer.observe.events import CommandFailed

    try:
        yield
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt) as error:
        log.report(CommandFailed(kind=type(error).__name__, message=str(error)))
        raise


def _served(address: str) -> AbstractContextManager[tuple[Metrics, str]]:
    from optimizer.errors import ObservationError

    try:
        from optimizer.observe.metrics import served
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise ObservationError("--metrics needs prometheus_client: pip install 'mergetune[metrics]'") from error
    return served(address)
