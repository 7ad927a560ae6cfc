"""Commands as processes whose streams are closed, full or no longer read, and that are interrupted as they begin."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from command_line import VARIABLES
from demo_study import SMALL, write_spec
from slow_cases import first_fast

from optimizer.cli.process import UNREAD, UNWRITTEN
from studies.records.database import open_database

PROGRAM = f"{sys.executable} -m optimizer.cli"
FULL = Path("/dev/full")
HEEDING = ["env", "--default-signal=INT"]  # a shell's background jobs, of which these tests may be one, ignore it
INTERRUPTED = {128 + signal.SIGINT, -signal.SIGINT}  # Python ends itself by the signal if `exec` was interrupted


def shell(folder: Path, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `mergetune` is the command; the code is that of the first part of a pipeline."""
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "TERM"}}
    script = f'mergetune() {{ {PROGRAM} "$@"; }}\n{line}\nexit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=280,
        check=False,
    )
    for sign in ("Traceback", "bug", "Exception ignored"):
        assert sign not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


# ------------------------------------------------------------------------------------- closed streams


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_command_ends_well_without_some_of_its_streams(closed: str, tmp_path: Path) -> None:
    done = shell(tmp_path, f"mergetune spaces {closed}")
    assert done.returncode == 0
    assert done.stderr == ""
    assert ("composition" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_a_mistake_keeps_its_code_where_nobody_can_be_told(tmp_path: Path) -> None:
    assert shell(tmp_path, "mergetune nonsense 2>&-").returncode == 2
    assert shell(tmp_path, "mergetune nonsense 2>/dev/full >&-").returncode == 2


def test_no_file_is_opened_in_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    program = (
        "import os; from optimizer.cli.process import open_streams; open_streams(); "
        "raise SystemExit(os.open('file', os.O_WRONLY | os.O_CREAT))"
    )
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "{program}" <&- >&- 2>&-'], cwd=tmp_path, check=False)
    assert done.returncode > 2


# -------------------------------------------------------------------------------- nobody reads, no room


PRINTING = [
    "spaces",
    "study --help",
    "study list --storage empty.db",
    "--help",
    "--version",
    "scorers",
]


@pytest.mark.parametrize("words", first_fast(2, PRINTING))
def test_a_reader_that_leaves_ends_a_command_as_it_ends_others(words: str, tmp_path: Path) -> None:
    if "empty.db" in words:
        open_database(f"sqlite:///{tmp_path}/empty.db").close()
    for reader in ("head -1", "true"):
        done = shell(tmp_path, f"mergetune {words} | {reader}")
        assert done.returncode in ({UNREAD, 0} if reader == "head -1" else {UNREAD})  # one line may be all there is
        assert done.stderr == ""


def test_a_reader_of_errors_that_leaves_changes_nothing(tmp_path: Path) -> None:
    assert shell(tmp_path, "mergetune nonsense 2>&1 >/dev/null | true").returncode == 2


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full on this system")
@pytest.mark.parametrize("words", ["--version", "spaces", "study --help"])
def test_output_for_which_there_is_no_room_is_an_error_in_one_line(words: str, tmp_path: Path) -> None:
    done = shell(tmp_path, f"mergetune {words} > {FULL}")
    assert done.returncode == UNWRITTEN
    assert done.stderr.startswith("error: the output cannot be written (No space left on device)")
    assert done.stderr.count("\n") == 1


def test_a_pipe_that_another_program_made_non_blocking_gets_everything(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    program = (
        "import sys; from optimizer.cli.process import open_streams; open_streams(); "
        "sys.stdout.write('x' * 1_000_000); sys.stdout.flush()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=writing) as process:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            time.sleep(0.5)  # it meets a full pipe
            assert len(pipe.read()) == 1_000_000
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["head -1", "true", "tee /dev/full >/dev/null 2>&1"])
def test_a_study_goes_on_when_the_reader_of_its_output_has_left(reader: str, tmp_path: Path) -> None:
    write_spec(tmp_path / "short.yaml", **{**SMALL, "budget": {"trials": 3}})
    done = shell(tmp_path, f"mergetune study start short.yaml --log-json - 2>&1 | {reader}")
    assert done.returncode in {UNREAD, 0}
    with closing(sqlite3.connect(tmp_path / "mergetune.db")) as database:
        states = [state for (state,) in database.execute("SELECT state FROM trials")]
    assert states == ["COMPLETE"] * 3


# ---------------------------------------------------------------------------------------- the terminal


@pytest.mark.parametrize("columns", first_fast(1, ["abc", "0", "", "-5", "1", "99999999999"]))
def test_a_width_that_no_terminal_has_is_ignored(columns: str, tmp_path: Path) -> None:
    usual = shell(tmp_path, "mergetune spaces").stdout
    assert "composition" in usual
    assert shell(tmp_path, "mergetune spaces", COLUMNS=columns).stdout == usual
    assert "Usage" in shell(tmp_path, "mergetune --help", TERMINAL_WIDTH=columns).stdout


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.slow),
        pytest.param({"LC_ALL": "C", "LANG": "C"}, marks=pytest.mark.slow),
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        pytest.param({"TERM": "no-such-terminal", "PYTHONIOENCODING": "ascii"}, marks=pytest.mark.slow),
        pytest.param({"LC_ALL": "no_SUCH.locale", "PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.slow),
        pytest.param({"TERM": "dumb"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_what_the_terminal_cannot_show_is_written_in_another_way(variables: dict[str, str], tmp_path: Path) -> None:
    assert "composition" in shell(tmp_path, "mergetune spaces", **variables).stdout
    done = shell(tmp_path, "mergetune inspect 猫-ü.safetensors", **variables)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no checkpoint at ")


# ------------------------------------------------------------------------------------------- interrupts

# Python reads this before anything else. As `library` is imported, Ctrl-C comes in a place where it is lost.
SWALLOWED = """
import importlib.abc, os, signal, sys, weakref

class Thing:
    pass

def press(*_):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass

class Loss(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == LIBRARY:
            sys.meta_path.remove(self)
            HOW
        return None

def caught():
    try:
        press()
    except:
        pass

def taken_for_a_failure():
    try:
        press()
    except BaseException as error:
        raise ImportError("no such thing") from error

def in_a_callback():
    thing = Thing()
    noted = weakref.ref(thing, press)
    del thing

sys.meta_path.insert(0, Loss())
"""


LOSSES = {"rich": "caught", "sqlalchemy": "taken_for_a_failure", "optuna": "in_a_callback"}


@pytest.mark.parametrize(
    ("library", "how"),
    [
        pytest.param(library, how, marks=() if LOSSES[library] == how else pytest.mark.slow)
        for library in LOSSES
        for how in LOSSES.values()
    ],
)
def test_an_interrupt_that_a_library_swallows_is_not_lost(library: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        SWALLOWED.replace("LIBRARY", repr(library)).replace("HOW", f"{how}()"), encoding="utf-8"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    sqlite3.connect(tmp_path / "empty.db").close()
    done = interrupted(tmp_path, ["study", "list", "--storage", "empty.db"], PYTHONPATH=path)
    assert done.returncode in INTERRUPTED
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "interrupted"
    assert "error:" not in done.stderr


def interrupted(folder: Path, words: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    command = [*HEEDING, sys.executable, "-m", "optimizer.cli", *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


def test_an_interrupt_that_was_to_be_ignored_is_ignored(tmp_path: Path) -> None:
    ignoring = "import os, signal; from optimizer.cli.process import watch_interrupts; watch_interrupts(); "
    ignoring += "os.kill(os.getpid(), signal.SIGINT); print('still here')"
    done = shell(tmp_path, f'trap "" INT; {sys.executable} -c "{ignoring}"')
    assert (done.returncode, done.stdout) == (0, "still here\n")


def begun(words: Sequence[str]) -> subprocess.Popen[str]:
    command = [*HEEDING, sys.executable, "-m", "optimizer.cli", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_an_interrupt_at_any_moment_of_loading_ends_the_command(tmp_path: Path) -> None:
    started = time.monotonic()
    begun(["scorers"]).communicate(timeout=120)
    usual = time.monotonic() - started
    moments = random.Random(5)
    for _ in range(30):
        process = begun(["scorers"])
        time.sleep(moments.uniform(0.2, 0.9) * usual)
        still_there = process.poll() is None
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=60)
        assert "Traceback" not in complained
        assert process.returncode in INTERRUPTED or said or not still_there
