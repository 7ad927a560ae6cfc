"""The voting page in headless Chromium, served by a real process that is killed and started again meanwhile."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import browser as browsers
import numpy as np
import pytest
from browser import Browser, browser
from reported_study import ReportedStudy, begin_reported, store_pictures

from studies.records.ratings import load_ratings
from studies.records.votes import load_votes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not browsers.IS_THERE, reason=browsers.WHY_NOT)]

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 60


def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    mean = float(np.mean(list(params.values())))
    return {"sharpness": (mean, mean, 1.0, 2.0), "contrast": (0.1, 0.2, 0.3, mean)}


@contextmanager
def serving(folder: Path, port: int, *options: str, name: str = "v") -> Iterator[subprocess.Popen[str]]:
    """Run `mergetune study vote` until the block ends, by SIGKILL."""
    command = [sys.executable, "-m", "optimizer.cli", "study", "vote", name, "--port", str(port), "--person", "ann"]
    storage = ["--storage", f"sqlite:///{folder}/study.db"]
    process = subprocess.Popen(
        [*command, *storage, *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as said:
        assert f"http://127.0.0.1:{port}/" in said.readline()
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def shows_pictures(page: Browser) -> bool:
    return not page.script("return document.getElementById('pictures').hidden") and not page.broken()


def press(page: Browser, key: str) -> None:
    """Press a key on the page."""
    page.script(f"document.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.fixture
def study(tmp_path: Path) -> ReportedStudy:
    study = begin_reported(tmp_path, "v", score, trials=6)
    store_pictures(study, range(6))
    return study


def test_votes_by_keys_are_stored_and_survive_a_server_that_is_killed(study: ReportedStudy, tmp_path: Path) -> None:
    port = free_port()

    def count() -> int:
        return len(load_votes(study.records))

    with browser(tmp_path / "profile") as page:
        with serving(tmp_path, port):
            page.open(f"http://127.0.0.1:{port}/", width=1280)
            until(lambda: shows_pictures(page))
            assert page.unfit() == []
            before = page.script("return document.querySelector('#left img').src")
            press(page, "ArrowLeft")
            until(lambda: count() == 1)
            until(lambda: page.script("return document.querySelector('#left img').src") != before)
            until(lambda: shows_pictures(page))
            press(page, "b")
            until(lambda: count() == 2)
            until(lambda: page.script("return document.getElementById('progress').textContent").startswith("2 votes"))
            press(page, "u")
            until(lambda: count() == 1)
            until(lambda: shows_pictures(page))
            assert page.complaints() == []
            assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in page.requests())
        press(page, "ArrowRight")  # nobody is there to store it
        until(lambda: "wait to be stored" in page.script("return document.getElementById('message').textContent"))
        assert count() == 1
        with serving(tmp_path, port):
            until(lambda: count() == 2)
            until(lambda: shows_pictures(page))
            page.open(f"http://127.0.0.1:{port}/", width=390, scheme="dark")
            until(lambda: shows_pictures(page))
            assert page.unfit() == []
            assert count() == 2
    assert [vote.verdict for vote in load_votes(study.records)] == ["left", "right"]


def test_answers_of_two_tabs_wait_while_another_study_is_served_at_their_address(
    study: ReportedStudy, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = begin_reported(tmp_path / "elsewhere", "w", score, trials=6)
    store_pictures(other, range(6))
    port = free_port()

    def message(page: Browser) -> str:
        return str(page.script("return document.getElementById('message').textContent"))

    with browser(tmp_path / "profile") as page:
        first = page.driver.current_window_handle
        with serving(tmp_path, port):
            page.open(f"http://127.0.0.1:{port}/", width=1280)
            until(lambda: shows_pictures(page))
            page.driver.switch_to.new_window("tab")
            second = page.driver.current_window_handle
            page.open(f"http://127.0.0.1:{port}/", width=1280)
            until(lambda: shows_pictures(page))
        for tab, key in ((first, "ArrowLeft"), (second, "b")):  # nobody is there to store them
            page.driver.switch_to.window(tab)
            press(page, key)
            until(lambda: "wait to be stored" in message(page))
        with serving(tmp_path / "elsewhere", port, name="w"):
            for tab in (first, second):
                page.driver.switch_to.window(tab)
                until(lambda: message(page).startswith("2 of your answers wait") and "that of w" in message(page))
            page.driver.refresh()  # which shows the other study
            until(lambda: shows_pictures(page))
            press(page, "ArrowRight")
            until(lambda: load_votes(other.records))
        assert load_votes(study.records) == []
        page.driver.switch_to.window(first)
        with serving(tmp_path, port):
            until(lambda: len(load_votes(study.records)) == 2)
            until(lambda: shows_pictures(page))
    assert [vote.verdict for vote in load_votes(study.records)] == ["left", "both_bad"]
    assert [vote.verdict for vote in load_votes(other.records)] == ["right"]


def test_renders_are_rated_by_keys_and_buttons(study: ReportedStudy, tmp_path: Path) -> None:
    port = free_port()

    def given() -> list[int | None]:
        return [rating.rating for rating in load_ratings(study.records)]

    def rate(key: str, ratings: list[int | None]) -> None:
        before = page.script("return document.querySelector('#left img').src")
        press(page, key)
        until(lambda: given() == ratings)
        until(lambda: page.script("return document.querySelector('#left img').src") != before)
        until(lambda: shows_pictures(page))

    with browser(tmp_path / "profile") as page, serving(tmp_path, port, "--rate"):
        page.open(f"http://127.0.0.1:{port}/", width=390)
        until(lambda: shows_pictures(page))
        assert page.unfit() == []
        rate("7", [7])
        rate("t", [7, 10])
        rate("0", [7, 10, 0])
        press(page, "u")
        until(lambda: given() == [7, 10])
        page.script("document.querySelector('[data-answer=\"10\"]').click()")
        until(lambda: given() == [7, 10, 10])
        assert page.complaints() == []
