"""How a worker is watched by machines: `--log-json` and `--metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from optimizer.cli.common import console, escaped

if TYPE_CHECKING:
    from optimizer.observe.event_log import EventLog, Level
    from optimizer.observe.events import Reporter
    from optimizer.observe.metrics import Metrics
    from studies.records.study_records import StudyRecords

LogJson = Annotated[
    str | None,
    typer.Option(
        "--log-json",
        envvar="MERGETUNE_LOG_JSON",
        metavar="FILE",
        help="Append every event as a line of JSON to a file; - for stderr.",
        show_default=False,
    ),
]
MetricsAddress = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        envvar="MERGETUNE_METRICS",
        metavar="[HOST:]PORT",
        help="Serve metrics for Prometheus; on loopback unless a host is given.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring:
    """Who watches this process, beside people."""

    log: EventLog | None = None
    metrics: Metrics | None = None

    def tell(self, event: str, level: Level = "info", **more: object) -> None:
        """An event of no study in particular."""
        if self.log is not None:
            self.log.tell(event, level, **more)

    def reporter(self, records: StudyRecords, *people: Reporter) -> Reporter:
        """Tells all of them of one study; people first, as only theirs may fail and be told again."""
        from optimizer.observe.events import Reporters

        reporters = list(people)
        if self.metrics is not None:
            from optimizer.observe.metrics import MetricsReporter

            reporters.append(MetricsReporter(self.metrics, records))
        if self.log is not None:
            from optimizer.observe.event_log import EventReporter

            reporters.append(EventReporter(self.log, records.study.name))
        return Reporters(reporters)


NOBODY = Monitoring()


def observing(context: typer.Context, log_json: str | None, metrics: str | None) -> Monitoring:
    """Open what the options ask for, until the command ends.

    Raises:
        ObservationError: the file cannot be written, the address cannot be used, or prometheus_client is missing.
    """
    return context.with_resource(_opened(log_json, metrics))


@contextmanager
def _opened(log_json: str | None, metrics: str | None) -> Iterator[Monitoring]:
    with ExitStack() as opened:
        log = counted = None
        if log_json is not None:
            from optimizer.observe.event_log import event_log

            log = opened.enter_context(event_log(log_json))
            opened.enter_context(_last_words(log))
        if metrics is not None:
            counted, address = opened.enter_context(_served(metrics))
            console.print(escaped(f"metrics: {address}"), soft_wrap=True)
        yield Monitoring(log=log, metrics=counted)


@contextmanager
def _last_words(log: EventLog) -> Iterator[None]:
    """An error that ends the command is an event too."""
    try:
        yield
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt) as error:
        log.tell("error", "error", kind=type(error).__name__, message=str(error))
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
