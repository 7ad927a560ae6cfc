"""The command line in the test's own process: loading torch for each call would take minutes."""

from __future__ import annotations

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
    """What a user sees of a command."""

    code: int
    out: str
    err: str


class Call(Protocol):
    """`mergetune ARGUMENTS`; with `code` given, it must end with that."""

    def __call__(self, *arguments: str | Path, code: int | None = None) -> Outcome: ...


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> Call:
    """Runs the real parser in the current folder.

    Args:
        words: come first in every call, as the name of a group of commands.
    """

    def run(*arguments: str | Path, code: int | None = None) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mergetune", *words, *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main.run()
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        assert code in {None, left.value.code}, out + err
        return Outcome(left.value.code, out, err)

    return run


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch, files: Path | None = None) -> Path:
    """Make it the current folder, without settings from the environment, with links to the files of another."""
    for file in () if files is None else files.iterdir():
        (folder / file.name).symlink_to(file)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    return folder


def run_program(folder: Path, *arguments: str, code: int = 0, threads: int | None = None) -> str:
    """What `mergetune ARGUMENTS` says as a process of its own, which must end with `code` and show no traceback.

    Args:
        threads: of torch; as many as this process has if left out.
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
