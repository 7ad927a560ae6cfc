"""A worker watched by machines: its events as JSON lines, its metrics over HTTP, both compared with the database."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
import torch
from command_line import Call
from demo_study import DEMO, ShortStudy, begin, short_spec, write_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file, save_file

from optimizer.cli.workers.assignment import TerminalHost
from optimizer.cli.workers.monitoring import Monitoring
from optimizer.errors import ObservationError
from optimizer.observe.event_log import EventLog, LineFile, event_log
from optimizer.observe.events import Event, reporting_retry
from optimizer.observe.metrics import SCRAPES, parse_address, served
from optimizer.work.trial_loop import TrialLoop
from studies.files.artifacts import Artifacts
from studies.records import stored_studies, stored_trials
from studies.records.database import open_database
from studies.records.values import StoredTrial

ROOT = Path(__file__).parents[2]
CHANGES: dict[str, Any] = {
    "budget": {"trials": 5},
    "probes": {"profiles": 0},
    "objective": {"clip_score": None},
    "scorers": {"clip_score": short_spec()["scorers"]["clip_score"]},
    "final": {"top": 1},
}
COMMON = ("time", "level", "event", "study", "trial", "worker")

Labels = tuple[tuple[str, str], ...]
Line = dict[str, Any]  # of the log


def scrape(address: str) -> dict[tuple[str, Labels], float]:
    """(name, labels) -> value, as Prometheus reads it."""
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert all(family.documentation for family in families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def events_of(path: Path) -> list[Line]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def broken_parent(folder: Path) -> str:
    """Write a model whose values are numbers, and whose images are not: its sums go beyond float32."""
    tensors = load_file(DEMO / "foods.safetensors")
    middle = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    tensors[middle] = torch.full_like(tensors[middle], 1e38, dtype=torch.float32)
    save_file(tensors, folder / "broken.safetensors")
    return str(folder / "broken.safetensors")


@dataclass(frozen=True)
class Watched:
    """Two studies that one process worked on: one that went well, one whose every merge is broken."""

    rows: Mapping[str, list[StoredTrial]]
    metrics: Mapping[tuple[str, Labels], float]
    before: Mapping[tuple[str, Labels], float]  # as the worker of the first took its last trial
    events: list[Line]

    def of(self, name: str, study: str, **labels: str) -> float:
        return self.metrics[name, tuple(sorted({"study": study, **labels}.items()))]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    folder = tmp_path_factory.mktemp("watched")
    (folder / "broken").mkdir()
    broken = {
        "study": "broken",
        "parents": [short_spec()["parents"][0], broken_parent(folder)],
        "render": {"degenerate_limit": 0},
        "export": {"dtype": "fp32"},
        "suite": short_spec()["suite"] | {"prompts": ["an emoji of a fox"], "steps": 8},
        "budget": {"trials": 4},
    }
    scraped = []
    with served("0") as (metrics, address), event_log(str(folder / "log.jsonl")) as log:
        watch = Monitoring(log=log, metrics=metrics)
        good, bad = begin(folder, CHANGES), begin(folder / "broken", CHANGES | broken)
        for short in (good, bad):
            reporter = watch.reporter(short.records)

            def look() -> bool:
                scraped.append(scrape(address))
                return False

            TrialLoop(short.records, short.runtime, short.artifacts, reporter, look).run()
        after = scrape(address)
    trials = {short.study.name: stored_trials.load_trials(short.records) for short in (good, bad)}
    return Watched(rows=trials, metrics=after, before=scraped[4], events=events_of(folder / "log.jsonl"))


@pytest.mark.slow
def test_counters_agree_with_the_database(watched: Watched) -> None:
    for study, rows in watched.rows.items():
        for state, count in Counter(row.state for row in rows).items():
            assert watched.of("mergetune_trials_total", study, outcome=state) == count
            assert watched.of("mergetune_study_trials", study, state=state) == count
        assert watched.of("mergetune_study_trials", study, state="running") == 0
        assert watched.of("mergetune_outages_total", study) == 0
    assert watched.of("mergetune_images_total", "short") == sum(row.rendered for row in watched.rows["short"]) == 40
    assert Counter(row.state for row in watched.rows["broken"]) == {"complete": 1, "failed": 3}
    assert watched.of("mergetune_trial_failures_total", "broken", reason="degenerate") == 3


def test_seconds_by_stage_and_the_best_gain_agree_with_the_database(watched: Watched) -> None:
    rows = watched.rows["short"]
    assert set(rows[0].seconds) >= {"merge", "text", "denoise", "decode", "score"}
    for stage in rows[0].seconds:
        assert watched.of("mergetune_stage_seconds_count", "short", stage=stage) == 5
        total = sum(row.seconds[stage] for row in rows)
        assert watched.of("mergetune_stage_seconds_sum", "short", stage=stage) == pytest.approx(total)
    best = max(row.gains["objective"].value for row in rows[2:])
    assert watched.of("mergetune_best_gain", "short", objective="objective") == best


def test_a_worker_is_up_while_it_works(watched: Watched) -> None:
    key = ("mergetune_worker_up", (("study", "short"),))
    assert (watched.before[key], watched.metrics[key]) == (1, 0)
    assert watched.before["mergetune_trials_total", (("outcome", "complete"), ("study", "short"))] == 4


def test_events_agree_with_the_database(watched: Watched) -> None:
    for study, rows in watched.rows.items():
        events = [event for event in watched.events if event["study"] == study]
        assert events[0]["event"] == "worker_started"
        assert events[-1]["event"] == "worker_left"
        assert events[-1]["finished"] == len(rows)
        ends = {event["trial"]: event for event in events if event["event"] in {"trial_finished", "trial_failed"}}
        assert list(ends) == [row.number for row in rows]
        for row, end in zip(rows, ends.values(), strict=True):
            assert end["worker"] == row.worker_id
            assert end["event"] == {"complete": "trial_finished", "failed": "trial_failed"}[row.state]
            assert (end.get("reason"), end["images"]) == (row.reason, row.rendered)
            assert end.get("seconds", {}) == row.seconds
            assert end.get("objectives", {}) == row.objectives
            if row.number >= 1:  # the first parent's gains wait for the second
                assert set(end.get("gains", {})) == set(row.gains)
        images = [event["images"] for event in events if event["event"] == "images_rendered" and event["trial"] == 1]
        assert images == sorted(set(images))
    assert {event["kind"] for event in watched.events if event["event"] == "trial_failed"} == {"degenerate"}


def test_every_event_has_the_common_keys_and_times_that_do_not_go_back(watched: Watched) -> None:
    times = [datetime.fromisoformat(event["time"]) for event in watched.events]
    assert times == sorted(times)
    assert abs((datetime.now(UTC) - times[-1]).total_seconds()) < 600
    for event in watched.events:
        assert tuple(event)[: len(COMMON)] == COMMON
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
        assert event["level"] in {"info", "warning", "error"}


def event_names() -> list[str]:
    kinds = vars(sys.modules[Event.__module__]).values()
    return [kind.event for kind in kinds if isinstance(kind, type) and hasattr(kind, "event")]


def test_every_event_key_and_metric_is_documented(watched: Watched) -> None:
    guide = (ROOT / "docs" / "reference" / "events-and-metrics.md").read_text()
    for name in event_names():
        assert f"`{name}`" in guide, name
    for event in watched.events:
        for key in event:
            assert f"`{key}`" in guide, key
    for name, labels in watched.metrics:
        if name.startswith("mergetune_") and not name.endswith("_created"):
            assert f"`{re.sub('_(bucket|count|sum)$', '', name)}`" in guide, name
            for label, _ in labels:
                assert f"`{label}`" in guide or label == "le", label


class TestOutagesOutsideTrials:
    """A worker between two studies, and the final of one."""

    def test_an_outage_between_two_studies_reaches_log_and_metrics(self, tmp_path: Path) -> None:
        during = []

        def comes_back() -> None:
            during.append(scrape(address))
            if len(during) < 3:
                raise sa.exc.OperationalError("SELECT 1", {}, Exception("the server is away"))

        with served("0") as (metrics, address), event_log(str(tmp_path / "log.jsonl")) as log:
            artifacts = Artifacts.beside(f"sqlite:///{tmp_path}/study.db", None)
            host = TerminalHost(artifacts, threading.Event(), 60.0, Monitoring(log=log, metrics=metrics))
            reporting_retry(host, 60.0)(comes_back)
            after = scrape(address)
        of_none = (("study", ""),)
        assert [found.get(("mergetune_outage", of_none)) for found in (*during, after)] == [None, 1, 1, 0]
        assert after["mergetune_outages_total", of_none] == 1
        events = [event["event"] for event in events_of(tmp_path / "log.jsonl") if event["event"] != "log"]
        assert events == ["outage_began", "outage_ended"]

    @pytest.mark.slow
    def test_an_outage_during_the_final_of_a_worker_reaches_people_log_and_metrics(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        short = begin(tmp_path, CHANGES | {"budget": {"trials": 3}})
        short.run()

        def rename(old: str, new: str) -> None:  # SQLite raises for a missing table what it raises for a locked file
            with sqlite3.connect(tmp_path / "study.db", timeout=30) as connection:
                connection.execute(f"ALTER TABLE {old} RENAME TO {new}")
            connection.close()

        def come_back(address: str) -> None:
            """Once the metrics show the outage, or else after half a minute."""
            deadline = time.monotonic() + 30
            while scrape(address).get(("mergetune_outage", (("study", "short"),))) != 1 and time.monotonic() < deadline:
                time.sleep(0.1)
            rename("elsewhere", "mergetune_trials")

        with served("0") as (metrics, address), event_log(str(tmp_path / "log.jsonl")) as log:
            watch = Monitoring(log=log, metrics=metrics)
            host = TerminalHost(short.artifacts, threading.Event(), 60.0, watch)
            rename("mergetune_trials", "elsewhere")
            back = threading.Thread(target=come_back, args=(address,))
            back.start()
            host.hold_final(short.records, short.runtime)
            back.join()
            after = scrape(address)
        short.database.close()
        assert after["mergetune_outages_total", (("study", "short"),)] == 1
        assert after["mergetune_outage", (("study", "short"),)] == 0
        events = [event for event in events_of(tmp_path / "log.jsonl") if event["event"] != "log"]
        assert [(event["event"], event["study"]) for event in events] == [
            ("outage_began", "short"),
            ("outage_ended", "short"),
            ("final_started", "short"),
            ("final_held", "short"),
        ]
        assert "waiting for the study database" in capsys.readouterr().out


# ----------------------------------------------------------------------------------- the command line


@pytest.mark.slow
def test_a_process_that_is_scraped_and_stopped_tells_all_of_it(tmp_path: Path) -> None:
    write_spec(tmp_path / "spec.yaml", **CHANGES | {"budget": {"trials": 200}})
    command = [sys.executable, "-m", "optimizer.cli", "study", "start", "spec.yaml", "--metrics", "0"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"MERGETUNE_LOG_JSON": "log.jsonl"}, stdout=subprocess.PIPE, text=True
    )
    address, metrics, seen = "", {}, 0
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"metrics: (http://127\.0\.0\.1:\d+/metrics)$", line):
                address = found[1]
            if re.match(r"trial \d+, ", line):
                seen += 1
            if re.match(r"trial 2, ", line):
                metrics = scrape(address)
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert metrics["mergetune_worker_up", (("study", "short"),)] == 1
    assert metrics["process_resident_memory_bytes", ()] > 2**20
    assert 2 <= metrics["mergetune_trials_total", (("outcome", "complete"), ("study", "short"))] <= seen
    with pytest.raises(urllib.error.URLError):
        scrape(address)
    events = events_of(tmp_path / "log.jsonl")
    database = open_database(f"sqlite:///{tmp_path}/mergetune.db")
    trials = stored_trials.load_trials(stored_studies.open_study(database, "short"))
    database.close()
    assert [event["trial"] for event in events if event["event"] == "trial_finished"] == [
        trial.number for trial in trials
    ]
    assert len(trials) == seen
    assert [event["event"] for event in events[-2:]] == ["stop_asked", "worker_left"]
    assert events[-2]["by"] == "signal"


WITH_FEW_DESCRIPTORS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
from optimizer.cli.__main__ import run
sys.argv[0] = "mergetune"
run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nA: "], ids=["silent", "begun"])
def test_clients_that_hold_connections_take_no_file_from_a_worker(sent: bytes, tmp_path: Path) -> None:
    write_spec(tmp_path / "spec.yaml", **CHANGES)
    command = [sys.executable, "-c", WITH_FEW_DESCRIPTORS, "study", "start", "spec.yaml", "--metrics", "0"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    with process, ExitStack() as held:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            lines.append(line)
            if found := re.match(r"metrics: (http://127\.0\.0\.1:(\d+)/metrics)$", line):
                for _ in range(1015):
                    raw = held.enter_context(socket.create_connection(("127.0.0.1", int(found[2])), timeout=20))
                    with suppress(ConnectionError):
                        raw.sendall(sent)
                assert scrape(found[1])["process_open_fds", ()] < 150
        said = process.stderr.read()
    assert (process.returncode, "Traceback" in said) == (0, False)
    assert sum(bool(re.match(r"trial \d+, ", line)) for line in lines) == CHANGES["budget"]["trials"]


@pytest.mark.parametrize("sent", [b"GET /metrics HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 1\r\n"])
def test_clients_that_hold_connections_do_not_keep_prometheus_out(sent: bytes) -> None:
    with served("0") as (_, address), ExitStack() as held:
        port = int(address.split(":")[2].partition("/")[0])
        for number in range(400):
            near = (f"127.0.0.{2 + number % 40}", 0)
            raw = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20, source_address=near))
            with suppress(ConnectionError):
                raw.sendall(sent)
        held_here = len(list(Path("/proc/self/fd").iterdir())) - 400  # of both ends
        assert held_here < 200
        assert ("process_open_fds", ()) in scrape(address)


def test_metrics_are_served_while_torch_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, further = ModuleType("torch"), ModuleType("torch")
    further.__dict__["cuda"] = ModuleType("torch.cuda")
    for half in (begun, further):
        monkeypatch.setitem(sys.modules, "torch", half)
        with served("0") as (_, address):
            assert ("process_open_fds", ()) in scrape(address)


def ask(address: str, method: str = "GET", **headers: str) -> int:
    """The status of a request."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, method=method, headers=given), timeout=30
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(
    ("served_at", "asked", "status"),
    [
        ("0", "127.0.0.1", 200),
        ("0", "localhost:9464", 200),
        ("localhost:0", "localhost", 200),
        ("0", "evil.example:9464", 403),
        ("0", "127.0.0.1.evil.example", 403),
        ("0", "worker", 403),
        ("0.0.0.0:0", "worker:9464", 200),
        ("0.0.0.0:0", "172.18.0.3:9464", 200),
        ("0.0.0.0:0", "evil.example:9464", 403),
    ],
)
def test_metrics_are_not_for_names_that_a_web_page_made(served_at: str, asked: str, status: int) -> None:
    with served(served_at) as (_, address):
        for path in ("/metrics", "/", "/other"):
            assert ask(address.replace("0.0.0.0", "127.0.0.1").replace("/metrics", path), Host=asked) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, 403),
        ({"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
    ],
)
def test_metrics_are_not_for_pages_of_other_sites(headers: dict[str, str], status: int) -> None:
    with served("0") as (_, address):
        assert ask(address, **headers) == status


def test_metrics_take_no_body_and_only_reading() -> None:
    with served("0") as (_, address):
        assert ask(address, "POST") == 405
        assert ask(address, "DELETE") == 405
        assert ask(address, "GET", Content_Length="5") == 413


def test_an_address_that_asks_for_metrics_without_end_is_slowed_and_no_other_is() -> None:
    with served("0") as (_, address):
        begun = time.monotonic()
        for _ in range(SCRAPES + 4):
            assert ask(address) == 200
        assert time.monotonic() - begun > 1  # seconds
        begun = time.monotonic()
        with socket.create_connection(
            ("127.0.0.1", int(address.split(":")[2].partition("/")[0])), timeout=20, source_address=("127.0.0.2", 0)
        ) as other:
            other.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b" 200 OK" in other.recv(1000)
        assert time.monotonic() - begun < 0.4


def registered(folder: Path) -> ShortStudy:
    short = begin(folder, CHANGES)
    short.database.close()
    return short


def test_an_error_that_ends_the_work_is_the_last_event(tmp_path: Path, call: Call) -> None:
    registered(tmp_path)
    outcome = call("worker", "--study", "shrot", "--storage", "study.db", "--log-json", "-", code=2)
    last, line = outcome.err.splitlines()
    event = json.loads(last)
    assert (event["event"], event["level"], event["kind"]) == ("error", "error", "StudyMissingError")
    assert line == f"error: {event['message']}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--log-json", "nowhere/log.jsonl"), "the log nowhere/log.jsonl cannot be written: No such file or directory"),
        (("--log-json", "."), "the log . cannot be written: Is a directory"),
        (("--metrics", "localhost"), "--metrics takes [HOST:]PORT"),
        (("--metrics", "192.0.2.1:0"), "metrics cannot be served at 192.0.2.1:0"),  # an address that nobody has
    ],
)
def test_what_cannot_be_watched_does_not_begin(
    options: tuple[str, str], message: str, call: Call, tmp_path: Path
) -> None:
    write_spec(tmp_path / "spec.yaml", **CHANGES)
    outcome = call("study", "start", "spec.yaml", *options, code=2)
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_port_that_is_taken_is_told(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        outcome = call("worker", "--study", "short", "--metrics", port, code=2)
    assert f"metrics cannot be served at {port}: Address already in use" in outcome.err


def test_metrics_without_prometheus_client_say_what_to_install(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "optimizer.observe.metrics", raising=False)
    outcome = call("worker", "--study", "short", "--metrics", "0", code=2)
    assert outcome.err == "error: --metrics needs prometheus_client: pip install 'mergetune[metrics]'\n"


# ------------------------------------------------------------------------------------------- the parts


def line(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text})


def test_lines_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    def writes(letter: str) -> None:
        file = LineFile(tmp_path / "log")  # opened for itself, as another process would
        for _ in range(300):
            file.handle(line(letter * 9000))
        file.close()

    with ThreadPoolExecutor() as pool:
        list(pool.map(writes, "abc"))
    assert Counter((tmp_path / "log").read_text().splitlines()) == {letter * 9000: 300 for letter in "abc"}


def test_a_log_that_is_moved_away_goes_on_in_a_new_file(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "log")
    file.handle(line("first"))
    (tmp_path / "log").rename(tmp_path / "log.1")
    file.handle(line("second"))
    file.close()
    assert (tmp_path / "log.1").read_text() == "first\n"
    assert (tmp_path / "log").read_text() == "second\n"


def test_a_log_that_cannot_be_opened_anew_touches_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file = LineFile(tmp_path / "folder" / "log")
    (tmp_path / "folder").rename(tmp_path / "moved")
    file.handle(line("lost"))  # there is no folder for a new file
    with (tmp_path / "other").open("w") as other:  # takes whatever number is free
        (tmp_path / "moved").rename(tmp_path / "folder")
        (tmp_path / "folder" / "log").unlink()
        file.handle(line("found"))
        other.write("mine")
    file.close()
    assert (tmp_path / "other").read_text() == "mine"
    assert (tmp_path / "folder" / "log").read_text().splitlines() == ["found"]


def test_a_full_disk_costs_lines_and_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    file = LineFile(Path("/dev/full"))
    file.handle(line("first"))
    file.handle(line("second"))
    file.close()
    assert capsys.readouterr().err == (
        "the log /dev/full cannot be written (No space left on device): the work goes on\n"
    )


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = LineFile(tmp_path / "log")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    file.handle(line("first"))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # bytes: as if the disk were full then
        file.handle(line("second"))
        file.handle(line("third"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    file.handle(line("fourth"))
    file.close()
    assert (tmp_path / "log").read_text().splitlines() == ["first", "seco", "fourth"]
    assert "cannot be written (File too large): the work goes on" in capsys.readouterr().err


def test_records_of_our_modules_are_events_and_others_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with event_log(str(tmp_path / "log")) as log:
        log.study, log.trial = "short", 3
        logging.getLogger("scorers.registry").warning("a line\nand %s", "another")
        logging.getLogger("optimizer.merging.engine.fused").debug("nobody wants to know")
        logging.getLogger("sqlalchemy").info("neither this")
    logging.getLogger("scorers.registry").warning("nobody listens any more")
    (event,) = events_of(tmp_path / "log")
    assert (event["event"], event["level"], event["logger"]) == ("log", "warning", "scorers.registry")
    assert (event["message"], event["study"], event["trial"]) == ("a line\nand another", "short", 3)
    assert capsys.readouterr().err.startswith("a line\nand another\n")  # people are told all the same


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.builds(Path, st.just("/x")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anything(Event):
    """An event with whatever a field may hold."""

    event: ClassVar[str] = "anything"
    message: str
    more: object


@settings(max_examples=50)
@given(message=st.text(), more=anything)
def test_whatever_is_reported_is_one_line_of_strict_json(message: str, more: object) -> None:
    lines = io.StringIO()
    EventLog(logging.StreamHandler(lines)).report(Anything(message=message, more=more))
    (text,) = lines.getvalue().splitlines()
    assert json.loads(text, parse_constant=pytest.fail)["message"] == message


@given(port=st.integers(0, 65535), host=st.sampled_from(["localhost", "0.0.0.0", "10.1.2.3", "worker"]))
def test_addresses_are_read_as_they_are_written(port: int, host: str) -> None:
    assert parse_address(f"{port}") == ("127.0.0.1", port)
    assert parse_address(f"{host}:{port}") == (host, port)
    assert parse_address(f"[::1]:{port}") == ("::1", port)


@pytest.mark.parametrize("address", ["", ":", ":80", "host", "host:", "::1:80", "[::1]", "65536", "-1", "1.5", "²"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ObservationError, match="takes \\[HOST:\\]PORT"):
        parse_address(address)
