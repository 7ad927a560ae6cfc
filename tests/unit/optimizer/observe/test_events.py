"""Events and who is told of them."""

from __future__ import annotations

import pytest

from optimizer.observe.events import Event, Reporters, StudyPaused, WorkerLeft


class Listener:
    """Notes its name and the event in a list of all listeners."""

    def __init__(self, name: str, heard: list[tuple[str, Event]], error: Exception | None = None) -> None:
        self._name, self._heard, self._error = name, heard, error

    def report(self, event: Event) -> None:
        self._heard.append((self._name, event))
        if self._error is not None:
            raise self._error


def test_all_are_told_of_every_event_in_their_order() -> None:
    heard: list[tuple[str, Event]] = []
    reporters = Reporters([Listener("people", heard), Listener("log", heard)])
    reporters.report(StudyPaused())
    reporters.report(WorkerLeft(finished=3))
    assert heard == [
        ("people", StudyPaused()),
        ("log", StudyPaused()),
        ("people", WorkerLeft(finished=3)),
        ("log", WorkerLeft(finished=3)),
    ]


def test_who_comes_after_one_that_fails_is_not_told_yet() -> None:
    """The event is reported again, and nobody is to count it twice."""
    heard: list[tuple[str, Event]] = []
    with pytest.raises(OSError, match="away"):
        Reporters([Listener("people", heard, OSError("away")), Listener("metrics", heard)]).report(StudyPaused())
    assert heard == [("people", StudyPaused())]
