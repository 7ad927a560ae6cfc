"""The actor that Ray runs, without Ray: what it says of itself while its database is away."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from optimizer.cli.workers.assignment import Assignment
from optimizer.cli.workers.ray_worker import RayWorker, State
from optimizer.runtime.model_files import ModelFolders


def await_state(worker: RayWorker, *, ended: bool) -> State:
    deadline = time.monotonic() + 60
    while True:
        state = worker.state()
        if state.ended is not None if ended else "127.0.0.1" in state.doing:
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.05)


@pytest.fixture
def worker(tmp_path: Path) -> RayWorker:
    return RayWorker(
        Assignment(
            storage="postgresql+psycopg://nobody@127.0.0.1:1/none",  # nothing listens there
            names=frozenset(),
            folders=ModelFolders(),
            artifacts=None,
            cache=tmp_path,
            patience_seconds=0.0,
        )
    )


def test_an_actor_waits_for_a_database_that_is_away_and_leaves_when_it_is_asked_to(worker: RayWorker) -> None:
    waiting = await_state(worker, ended=False)
    assert waiting.ended is None
    worker.leave()
    assert await_state(worker, ended=True).ended == " ".join(waiting.doing.split())
