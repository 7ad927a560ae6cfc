"""Waiting for a database or an artifact store that is away: what is said, how it ends, and what is left in memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.exc import OperationalError

from basics.errors import MergetuneError
from optimizer.errors import DatabaseLostError
from optimizer.observe.events import OutageBegan, OutageEnded, reporting_retry
from optimizer.system.retry import Retry
from studies.errors import ArtifactError, ArtifactsAwayError

AWAY = OperationalError("SELECT 1", {}, Exception("server closed the connection\nand more"))


def failing(*errors: Exception) -> Callable[[], str]:
    """An action that raises these errors, one each time, and then returns."""
    left: Iterator[Exception] = iter(errors)

    def action() -> str:
        for error in left:
            raise error
        return "done"

    return action


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def report(self, event: object) -> None:
        self.events.append(event)


def test_an_outage_is_reported_once_with_its_reason_and_its_end_with_its_length() -> None:
    heard = Heard()
    assert reporting_retry(heard, 30.0)(failing(AWAY, AWAY)) == "done"
    began, ended = heard.events
    assert began == OutageBegan(reason="the study database (server closed the connection)", limit=30.0)
    assert isinstance(ended, OutageEnded)
    assert 0.75 <= ended.took < 10  # pauses of 0.25 s and 0.5 s


def test_what_succeeds_at_once_reports_nothing() -> None:
    heard = Heard()
    assert reporting_retry(heard, 0.0)(failing()) == "done"
    assert heard.events == []


@pytest.mark.parametrize(
    ("error", "lost", "what"),
    [(AWAY, DatabaseLostError, "study database"), (ArtifactsAwayError("no route"), ArtifactError, "artifact store")],
)
@pytest.mark.parametrize("limit", [0.0, 0.3])
def test_an_outage_beyond_the_limit_ends_with_what_was_away_and_how_to_go_on(
    error: Exception, lost: type[MergetuneError], what: str, limit: float
) -> None:
    heard = Heard()
    with pytest.raises(lost, match=f"the {what} has been away for 0 seconds .*resume the study") as told:
        reporting_retry(heard, limit)(failing(*[error] * 9))
    assert told.value.__cause__ is error
    assert [type(event) for event in heard.events] == [OutageBegan]


def test_an_error_that_is_no_outage_leaves_nothing_in_memory_behind() -> None:
    """Its traceback refers to models: they must go with it, not when the collector comes by."""

    class Models:
        pass

    def breaks(_models: Models) -> None:
        raise ValueError("broken")

    def work() -> weakref.ref[Models]:
        models = Models()
        with pytest.raises(ValueError, match="broken"):
            Retry()(lambda: breaks(models))
        return weakref.ref(models)

    gc.disable()
    try:
        assert work()() is None
    finally:
        gc.enable()
