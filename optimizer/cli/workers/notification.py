"""What happens when a study's work ends: a command of the user's is told, or the terminal's bell rings."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import typer

from basics.messages import first_line
from optimizer.cli.common import console, errors, escaped
from optimizer.cli.process import came_from_interrupt

BELL: Final = "bell"
TIMEOUT_SECONDS: Final = 60.0

Outcome = Literal["ended", "stopped", "failed"]

Notify = Annotated[
    str | None,
    typer.Option(
        "--notify",
        metavar="CMD",
        envvar="MERGETUNE_NOTIFY",
        help="A shell command to run when the work ends, which finds MERGETUNE_ENDED_STUDY, MERGETUNE_ENDED_OUTCOME "
        "(ended, stopped, failed) and MERGETUNE_ENDED_MESSAGE in its environment; `bell` rings the terminal's bell.",
        show_default=False,
    ),
]


@dataclass(kw_only=True)
class Ending:
    """How the work on a study ended, as far as it is known."""

    study: str = ""
    outcome: Outcome = "failed"
    message: str = ""  # one line


@contextmanager
def notifying(command: str | None) -> Iterator[Ending]:
    """Run a command of the user's after the block, whatever became of that; a failure of the command harms nothing.

    Args:
        command: None for none, `bell` for the terminal's bell.

    Yields:
        What the block fills in; a block that raises has failed, or was stopped where it was interrupted.
    """
    ending = Ending()
    try:
        yield ending
    except BaseException as error:
        ending.outcome = "stopped" if came_from_interrupt(error) else "failed"
        ending.message = first_line(error)
        raise
    finally:
        if command is not None:
            _tell(command, ending)


def _tell(command: str, ending: Ending) -> None:
    if command == BELL:
        console.bell()
        return
    told = {"STUDY": ending.study, "OUTCOME": ending.outcome, "MESSAGE": ending.message}
    environment = os.environ | {f"MERGETUNE_ENDED_{name}": value for name, value in told.items()}
    try:
        done = subprocess.run(  # noqa: S602 - the user's own command, as typed
            command, shell=True, env=environment, stdin=subprocess.DEVNULL, timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        _note(command, first_line(error))
        return
    if done.returncode != 0:
        _note(command, f"exit code {done.returncode}")


def _note(command: str, problem: str) -> None:
    errors.print(f"[yellow]note:[/] --notify {escaped(command)} failed: {escaped(problem)}; the study is unharmed")
