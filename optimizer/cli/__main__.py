"""`python -m optimizer.cli` is `mergetune`."""

from __future__ import annotations

import sys
from typing import NoReturn

from optimizer.cli import process
from optimizer.system.cut_off_files import report_cut_off_files


def run() -> NoReturn:
    """Entry point of the `mergetune` command: what is set here holds while the libraries are imported, too."""
    outlet = process.open_streams()
    process.ignore_impossible_widths()
    process.watch_interrupts()
    report_cut_off_files(process.CUT_OFF)
    code = _code_of_command()
    process.end_at_interrupts()
    sys.exit(process.final_code(code, outlet))


def _code_of_command() -> int:
    try:
        from optimizer.cli.main import run as run_command

        run_command()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0
    except BaseException as error:
        if not process.came_from_interrupt(error):
            raise
        process.interrupt_has_arrived()
        sys.stderr.write("interrupted\n")
        return process.INTERRUPTED


if __name__ == "__main__":
    run()
