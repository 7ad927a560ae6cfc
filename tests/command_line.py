"""Call the command line in the test's own process: loading torch for each call would take minutes."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from optimizer.cli import main

SETTINGS = ("STORAGE", "ARTIFACTS", "CACHE", "MODELS", "DEBUG", "DASHBOARD_PASSWORD", "PATIENCE_SECONDS")
VARIABLES = tuple(f"MERGETUNE_{name}" for name in SETTINGS)


@dataclass(frozen=True)
class Outcome:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


class Call(Protocol):
    """A call of `mergetune ARGUMENTS`, which must end with `code` if that is given."""

    def __call__(self, *arguments: str | Path, code: int | None = None) -> Outcome: ...


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> Call:
    """Return a function that runs the real parser in the current folder.

    Args:
        words: come first in every call, such as the name of a command group.
    """

    def run(*arguments: str | Path, code: int | None = None) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mergetune", *words, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.run()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        assert code in {None, ended.value.code}, out + err
        return Outcome(ended.value.code, out, err)

    return run


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch, files: Path | None = None) -> Path:
    """Make `folder` the current one, without settings from the environment, and link the files of another into it."""
    for file in () if files is None else files.iterdir():
        (folder / file.name).symlink_to(file)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    return folder


def run_in(folder: Path, *arguments: str | Path) -> str:
    """Run `mergetune ARGUMENTS` in this process and a folder, for fixtures of wider scope; return what it printed."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        enter(folder, patch)
        patch.setattr(sys, "argv", ["mergetune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.run()
    assert ended.value.code == 0, said.getvalue()
    return said.getvalue()


def run_program(folder: Path, *arguments: str, code: int = 0, threads: int | None = None) -> str:
    """Run `mergetune ARGUMENTS` as a process, which must end with `code` and show no traceback; return its output.

    Args:
        threads: of torch; by default as many as this process has.
    """
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", "optimizer.cli", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr
