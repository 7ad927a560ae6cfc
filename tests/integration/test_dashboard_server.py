"""The dashboard as a real server behind a real socket: what it shows, keeps, refuses, and how it hands files out."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
import optuna_dashboard._app as dashboard_app
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState
from optuna_dashboard._pareto_front import _get_pareto_front_trials_nd

from optimizer.dashboard.gates import one_expensive_at_a_time
from optimizer.dashboard.pareto_front import pareto_front
from optimizer.dashboard.plot_excerpts import NUMBERS, TRIALS
from optimizer.dashboard.server import MAX_UPLOAD_BYTES, make_server
from optimizer.errors import StorageError
from optimizer.observe.http_gate import USER
from studies.files.artifacts import Artifacts
from studies.records.database import Database, open_database

PASSWORD = "correct horse: bättery"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# ------------------------------------------------------------------------------------------- server


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path_factory.mktemp('dashboard')}/study.db")
    optuna.create_study(storage=opened.storage, study_name="portraits")
    yield opened
    opened.close()


@contextmanager
def served(database: Database, password: str | None, host: str = "127.0.0.1", *, changes: bool = True) -> Iterator[str]:
    """The address of a running dashboard."""
    server = make_server(database, Artifacts.beside(database.url), host, 0, password, changes=changes)
    port = server.port
    assert port > 0
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
        thread.join(10)


def send(
    address: str, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers with small names, body) of a request with a JSON body."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    try:
        content = None if body is None else json.dumps(body)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, content, {"Content-Type": "application/json"} | given)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def fetch(url: str, header: str | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={} if header is None else {"Authorization": header})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_dashboard_answers_and_shows_the_studies(database: Database, host: str) -> None:
    with served(database, None, host) as address:
        status, page = fetch(f"{address}/dashboard/")
        assert status == 200
        assert b"<html" in page.lower()
        status, answer = fetch(f"{address}/api/studies")
        assert status == 200
        assert [study["study_name"] for study in json.loads(answer)["study_summaries"]] == ["portraits"]


def test_behind_a_password_nothing_answers_without_it(database: Database) -> None:
    with served(database, PASSWORD) as address:
        for path in ("/", "/dashboard/", "/api/studies", "/static/bundle.js", "//api/studies", "/%2e%2e/api/studies"):
            assert fetch(address + path)[0] == 401
            assert fetch(address + path, basic(USER, "wrong"))[0] == 401
        status, answer = fetch(f"{address}/api/studies", basic(USER, PASSWORD))
        assert status == 200
        assert b"portraits" in answer


def test_a_port_that_is_taken_is_named(database: Database) -> None:
    with served(database, None) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(StorageError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*--port"):
            make_server(database, Artifacts.beside(database.url), "127.0.0.1", port, None)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "not an address"])
def test_an_address_that_is_not_here_is_named(database: Database, host: str) -> None:
    with pytest.raises(StorageError, match=f"cannot listen on {host}:0"):
        make_server(database, Artifacts.beside(database.url), host, 0, PASSWORD)


# ---------------------------------------------------------------------------------------- artifacts

SCRIPT = "<script>alert(document.domain)</script>"
UPLOADS = {
    "page.html": SCRIPT,
    "page.xhtml": SCRIPT,
    "drawing.svg": f'<svg xmlns="http://www.w3.org/2000/svg">{SCRIPT}</svg>',
    "feed.xml": SCRIPT,
    "code.js": "alert(1)",
    "paper.pdf": "%PDF-1.7",
    "no-name-at-all": SCRIPT,
    "table.csv": "a,b",
}


def upload(address: str, name: str, content: bytes) -> str:
    """Put a file into the study as the dashboard's own page does; returns its path."""
    data = "data:;base64," + base64.b64encode(content).decode()
    status, _, answer = send(address, "POST", "/api/artifacts/1", {"file": data, "filename": name})
    assert status == 201, answer
    return f"/artifacts/1/{json.loads(answer)['artifact_id']}"


@pytest.mark.parametrize("name", UPLOADS)
def test_an_uploaded_file_is_saved_and_never_run(name: str, database: Database) -> None:
    with served(database, None) as address:
        path = upload(address, name, UPLOADS[name].encode())
        for asked in (path, path + "/", path + "//", path.replace("artifacts", "%61rtifacts")):
            status, headers, body = send(address, "GET", asked)
            assert (status, body) == (200, UPLOADS[name].encode())
            assert headers["content-type"] in {"application/octet-stream", "text/csv"}
            assert headers["content-disposition"] == "attachment"
            assert "sandbox" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(("name", "kind"), [("a.png", "image/png"), ("b.jpg", "image/jpeg"), ("c.txt", "text/plain")])
def test_pictures_and_texts_are_shown(name: str, kind: str, database: Database) -> None:
    with served(database, None) as address:
        _, headers, _ = send(address, "GET", upload(address, name, SCRIPT.encode()))
    assert headers["content-type"] == kind
    assert "content-disposition" not in headers
    assert "sandbox" in headers["content-security-policy"]


def test_an_upload_above_the_limit_is_refused_before_it_is_taken_in(database: Database) -> None:
    with served(database, PASSWORD) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            raw.sendall(f"POST /api/artifacts/1 HTTP/1.1\r\nContent-Length: {MAX_UPLOAD_BYTES + 1}\r\n\r\n".encode())
            assert b" 413 " in raw.recv(100)


# ---------------------------------------------------------------------------------------- read-only


def test_read_only_shows_everything_and_changes_nothing(database: Database) -> None:
    with served(database, None, changes=False) as address:
        assert fetch(f"{address}/dashboard/")[0] == fetch(f"{address}/api/studies")[0] == 200
        changes = [
            ("DELETE", "/api/studies/1", None),
            ("POST", "/api/studies", {"study_name": "other", "directions": ["minimize"]}),
            ("POST", "/api/studies/1/rename", {"study_name": "other"}),
            ("PUT", "/api/studies/1/note", {"body": "here", "version": 1}),
            ("POST", "/api/artifacts/1", {"file": "data:;base64,QQ==", "filename": "a.txt"}),
        ]
        for method, path, body in changes:
            status, headers, _ = send(address, method, path, body, X_HTTP_Method_Override="GET")
            assert (status, headers["allow"]) == (405, "GET, HEAD")
            status, _, _ = send(address, "GET", path, body, X_HTTP_Method_Override=method)
            assert status in {200, 403, 404, 405}
    assert [study.study_name for study in optuna.get_all_study_summaries(database.storage)] == ["portraits"]


# ------------------------------------------------------------------------------------ other origins


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "{address}"}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "{address}"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
    ],
)
def test_only_the_dashboards_own_page_reads_or_changes_something(
    headers: dict[str, str], status: int, database: Database
) -> None:
    with served(database, PASSWORD) as address:
        given = {name: value.format(address=address) for name, value in headers.items()}
        version = database.storage.get_study_system_attrs(1).get("dashboard:note_ver", 0) + 1
        note = {"body": "seen", "version": version}
        code, _, _ = send(address, "PUT", "/api/studies/1/note", note, Authorization=basic(USER, PASSWORD), **given)
        assert (403 if code == 403 else 200) == status
        for path in ("/api/studies", "/api/studies/1/plot/contour", "/csv/1", "/dashboard/"):
            for method in ("GET", "HEAD"):
                assert send(address, method, path, Authorization=basic(USER, PASSWORD), **given)[0] == status
        link = given | {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
        assert send(address, "GET", "/dashboard/", Authorization=basic(USER, PASSWORD), **link)[0] == 200


# ----------------------------------------------------------------------------------------- renaming


@pytest.mark.parametrize(
    "word", ["rename", "rename/", "rename//", "%72ename", "ren%FFame", "%C3rename", "rename%C3", "rename%0A"]
)
def test_a_study_keeps_its_name_however_it_is_asked(word: str, database: Database) -> None:
    with served(database, None) as address:
        status, _, _ = send(address, "POST", f"/api/studies/1/{word}", {"study_name": "other"})
    assert status in {400, 403}
    assert [study.study_name for study in optuna.get_all_study_summaries(database.storage)] == ["portraits"]


# --------------------------------------------------------------------------------- what a request costs


def add_trials(database: Database, name: str, trials: int, numbers: int, objectives: int = 1) -> int:
    """A finished study of random trials; returns its id."""
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE][:objectives]
    study = optuna.create_study(storage=database.storage, study_name=name, directions=directions)
    random = np.random.default_rng(0)
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        f"n{index:02d}": optuna.distributions.FloatDistribution(0, 1) for index in range(numbers)
    }
    study.add_trials(
        [
            optuna.trial.create_trial(
                params=dict(zip(distributions, row.tolist(), strict=True)),
                distributions=distributions,
                values=[row[-1] * 2 - row[0] / 9, *row[1:objectives]],
            )
            for row in random.random((trials, numbers))
        ]
    )
    return study._study_id


@pytest.fixture(scope="module")
def large(database: Database) -> Iterator[dict[int, int]]:
    """Objectives -> the id of a study of more than the trials and numbers that are drawn."""
    yield {objectives: add_trials(database, f"large-{objectives}", 400, 10, objectives) for objectives in (1, 2)}
    for objectives in (1, 2):
        optuna.delete_study(storage=database.storage, study_name=f"large-{objectives}")


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("path", ["contour", "rank", "contour/", "%72ank"])
def test_a_plot_of_pairs_shows_an_excerpt_of_a_large_study(
    path: str, objectives: int, database: Database, large: dict[int, int]
) -> None:
    with served(database, None, changes=False) as address:
        status, headers, answer = send(address, "GET", f"/api/studies/{large[objectives]}/plot/{path}")
    assert (status, headers["content-type"]) == (200, "application/json")
    figure = json.loads(answer)
    shown = re.fullmatch(
        r"(Contour|Rank) of (\d+) of 400 trials, and of the (\d+) of 10 numbers that matter most",
        figure["layout"]["title"]["text"],
    )
    assert shown is not None
    assert 0.9 * TRIALS < int(shown[2]) <= TRIALS
    assert int(shown[3]) == NUMBERS
    named = [axis["title"]["text"] for axis in figure["layout"].values() if "text" in (axis or {}).get("title", {})]
    assert {"n09", "n00"} <= set(named), "the numbers on which the objective depends"
    assert len(answer) < 12e6


@pytest.mark.parametrize(("trials", "numbers"), [(20, NUMBERS), (TRIALS, 2)])
@pytest.mark.parametrize("kind", ["contour", "rank"])
def test_a_small_study_is_drawn_whole(kind: str, trials: int, numbers: int, database: Database) -> None:
    study_id = add_trials(database, "small", trials, numbers)
    try:
        with served(database, None) as address:
            status, _, answer = send(address, "GET", f"/api/studies/{study_id}/plot/{kind}")
    finally:
        optuna.delete_study(storage=database.storage, study_name="small")
    assert status == 200
    assert " of " not in json.loads(answer)["layout"]["title"]["text"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_a_pareto_front_is_the_dashboards_own(objectives: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    directions = [StudyDirection.MINIMIZE if random.random() < 0.5 else StudyDirection.MAXIMIZE] * objectives
    states = [TrialState.FAIL if random.random() < 0.3 else TrialState.COMPLETE for _ in range(60)]
    values = random.integers(0, 6, (60, objectives)).astype(float)  # with ties, and with equal trials
    values[random.random(values.shape) < 0.05] = np.inf
    trials = frozen_trials(values, states)
    numbers = [trial.number for trial in pareto_front(trials, directions)]
    assert numbers == [trial.number for trial in _get_pareto_front_trials_nd(trials, directions)]
    assert pareto_front([], directions) == []


def test_the_front_of_very_many_trials_is_found_soon() -> None:
    """Every trial is on the front: the most that there is to do."""
    values = np.random.default_rng(0).random((10_000, 3))
    trials = frozen_trials(values / np.linalg.norm(values, axis=1, keepdims=True), [TrialState.COMPLETE] * 10_000)
    began = time.process_time()
    assert len(pareto_front(trials, [StudyDirection.MAXIMIZE] * 3)) == 10_000
    assert time.process_time() - began < 20  # theirs would take minutes


def test_the_page_of_a_study_has_that_front(database: Database) -> None:
    study_id = add_trials(database, "three", 50, 4, 3)
    try:
        with served(database, None, changes=False) as address:
            status, _, answer = send(address, "GET", f"/api/studies/{study_id}")
    finally:
        optuna.delete_study(storage=database.storage, study_name="three")
    assert status == 200
    assert len(json.loads(answer)["best_trials"]) > 1
    assert dashboard_app.get_pareto_front_trials is pareto_front


def frozen_trials(values: Any, states: Sequence[TrialState]) -> list[optuna.trial.FrozenTrial]:
    return [
        optuna.trial.FrozenTrial(
            number=number,
            trial_id=number,
            state=state,
            value=None,
            values=row if state == TrialState.COMPLETE else None,
            datetime_start=None,
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )
        for number, (row, state) in enumerate(zip(values.tolist(), states, strict=True))
    ]


def test_a_plot_of_a_study_that_is_not_there_harms_nothing(database: Database) -> None:
    with served(database, None) as address:
        assert send(address, "GET", "/api/studies/12345/plot/contour")[0] in {404, 500}
        assert send(address, "GET", "/api/studies")[0] == 200


@pytest.mark.parametrize(
    "path", ["/api/studies/1", "/api/studies/1/", "/csv/1", "/api/studies/1/param_importances", "/api/studies/1/plot/x"]
)
def test_requests_that_read_a_whole_study_wait_for_each_other_and_no_others_do(path: str) -> None:
    most = together = 0
    count, go_on, begun = threading.Lock(), threading.Event(), threading.Semaphore(0)

    def slow(environment: dict[str, Any], start_response: Any) -> list[bytes]:
        nonlocal most, together
        with count:
            together += 1
            most = max(most, together)
        begun.release()
        if environment["PATH_INFO"] == path:
            assert go_on.wait(20)
        with count:
            together -= 1
        start_response("200 OK", [])
        return [b"whole"]

    gate = one_expensive_at_a_time(slow, capacity=2)

    def ask(asked: str) -> tuple[str, dict[str, str]]:
        told: list[tuple[str, dict[str, str]]] = []
        gate({"PATH_INFO": asked}, lambda status, headers: told.append((status, dict(headers))))
        return told[0]

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, path)
        assert begun.acquire(timeout=20)
        second = pool.submit(ask, path)
        while not second.running():
            time.sleep(0.01)
        time.sleep(0.2)  # until it waits
        status, headers = ask(path)
        assert status.startswith("503 ")
        assert int(headers["Retry-After"]) > 0
        assert ask("/api/studies")[0] == ask("/artifacts/1/1/ab")[0] == "200 OK"
        most = 0
        go_on.set()
        assert first.result(20)[0] == second.result(20)[0] == "200 OK"
    assert most == 1
    assert ask(path)[0] == "200 OK"
