"""The set-up of a command's process: its standard streams, the width of the terminal, and Ctrl-C.

Everything here comes before the libraries are imported, and is set once for the whole process.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

INTERRUPTED: Final = 128 + signal.SIGINT
SIGPIPE: Final = 13  # Windows has none
UNREAD: Final = 128 + SIGPIPE  # what a shell says of a program whose reader has left, as `| head` does
UNWRITTEN: Final = 2
CUT_OFF: Final = 3  # a file became shorter while it was read; the next start says what is wrong with it
WIDTHS: Final = range(20, 10_000)  # columns of a terminal
AGAIN_SECONDS: Final = 0.1
STANDARD_STREAMS: Final = (0, 1, 2)
if sys.platform == "win32":  # signals that ask this program to finish what it is at
    STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
else:
    STOPPING: Final = (signal.SIGINT, signal.SIGTERM)
ALARM: Final[int | None] = getattr(signal, "SIGALRM", None)
IMPORTLIB: Final = "<frozen importlib._bootstrap>"


class Outlet(io.FileIO):
    """Standard output or standard error, of which no failure ends the work: what follows one goes nowhere.

    Attributes:
        failure: why it could not be written; None as long as it could.
    """

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            while (written := super().write(data)) is None:  # another program has made the pipe non-blocking
                select.select([], [self], [])
        except OSError as error:
            self._give_up(error)
            return memoryview(data).nbytes
        return written

    def _give_up(self, failure: OSError) -> None:
        self.failure = failure
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # also what the libraries write to by themselves
        os.close(nowhere)
        if failure.errno != errno.EPIPE and self.fileno() == 1:
            sys.stderr.write(f"error: the output cannot be written ({failure.strerror}): the work goes on without it\n")


def open_streams() -> Outlet:
    """Replace the standard streams by ones that cannot fail, also where some are closed; return standard output's."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    _fill_gaps()
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - it stays open
    sys.stderr, _ = _text(2, sys.stderr)
    sys.stdout, outlet = _text(1, sys.stdout)
    return outlet


def _fill_gaps() -> None:
    """Open the null device as every standard stream that is closed: else the next file would take its number."""
    while (found := os.open(os.devnull, os.O_RDWR)) in STANDARD_STREAMS:
        os.set_inheritable(found, True)
    os.close(found)


def _text(number: int, stream: TextIO | None) -> tuple[TextIO, Outlet]:
    outlet = Outlet(number, "w", closefd=False)
    if sys.platform == "win32" and stream is not None and outlet.isatty():
        return stream, outlet  # a console takes characters and no bytes
    encoding = "utf-8" if stream is None else stream.encoding
    by_line = number == 2 or outlet.isatty() or "PYTHONUNBUFFERED" in os.environ
    return io.TextIOWrapper(io.BufferedWriter(outlet), encoding, line_buffering=by_line), outlet


def ignore_impossible_widths() -> None:
    """Forget a size of the terminal that none has, as `COLUMNS=0`: rich prints nothing into it, typer fails."""
    for name in ("COLUMNS", "TERMINAL_WIDTH"):
        text = os.environ.get(name, "")
        if not (text.isdecimal() and len(text) < 6 and int(text) in WIDTHS):
            os.environ.pop(name, None)


def watch_interrupts() -> None:
    """Raise KeyboardInterrupt on Ctrl-C, again and again where it comes while a library is imported.

    Once would be lost there now and then: importlib has callbacks in which Python prints an exception and forgets it,
    and libraries have an `except:` around what they may do without. Where SIGINT is ignored, as in a shell's background
    job, it stays so. Windows has no alarm to repeat it with: there it comes once.
    """
    if sys.platform != "win32" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        signal.signal(signal.SIGALRM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    arrives = number == ALARM and came_from_interrupt(sys.exc_info()[1])
    if arrives or any(caller.f_code.co_filename == IMPORTLIB for caller in _callers(frame)):
        _set_alarm(AGAIN_SECONDS)
    if not arrives:  # what is cleaned up on its way out is not disturbed
        raise KeyboardInterrupt


def _set_alarm(seconds: float) -> None:
    """Let the alarm come after so many seconds; 0: not any more."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def came_from_interrupt(error: BaseException | None) -> bool:
    """Return whether an error is an interrupt, or was raised in answer to one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def interrupt_has_arrived() -> None:
    """Stop raising it."""
    if sys.platform != "win32" and signal.getsignal(signal.SIGALRM) is _interrupt:
        _set_alarm(0)


def end_at_interrupts() -> None:
    """Let Ctrl-C end the process at once from now on: nothing is left but to take the libraries down."""
    interrupt_has_arrived()
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def final_code(code: int, outlet: Outlet) -> int:
    """Return the exit code of a command: one that says so where all went well but its output was not taken."""
    sys.stdout.flush()
    if code != 0 or outlet.failure is None:
        return code
    return UNREAD if outlet.failure.errno == errno.EPIPE else UNWRITTEN
