"""The `mergetune` command: its groups and commands. Only what is needed to parse arguments is imported here."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from optimizer.cli.commands import (
    bracket,
    cluster,
    dashboard,
    demo,
    difference,
    export,
    init,
    inspection,
    lists,
    lora,
    merge,
    plot,
    study,
    suite,
    worker,
)
from optimizer.cli.common import USER_ERROR, close_databases, debugging, errors, guarded, print_error
from optimizer.cli.console import make_log_safe
from optimizer.cli.process import INTERRUPTED
from optimizer.cli.views.help import Commands
from optimizer.cli.views.suggestions import meant_instead
from optimizer.system.cores import wait_without_spinning

app = Commands(
    name="mergetune",
    help="Search for the best merge of Stable Diffusion checkpoints, prove it, and export it.",
    pretty_exceptions_enable=False,
)
app.add_typer(study.app, name="study")
app.add_typer(lora.app, name="lora")
app.add_typer(suite.app, name="suite")
app.add_typer(cluster.app, name="cluster")
app.command(name="init")(init.init)
app.command(name="demo")(demo.demo)
app.command(name="worker")(worker.worker)
app.command(name="dashboard")(dashboard.dashboard)
app.command(name="plot")(plot.plot)
app.command(name="export")(export.export)
app.command(name="merge")(merge.merge)
app.command(name="bracket")(bracket.bracket)
app.command(name="inspect")(inspection.inspect)
app.command(name="diff")(difference.diff)
app.command(name="scorers")(lists.scorers)
app.command(name="spaces")(lists.spaces)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mergetune {version('mergetune')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Search for the best merge of Stable Diffusion checkpoints, prove it, and export it."""


def run() -> NoReturn:
    """Run the command that the arguments name, and leave with its exit code."""
    wait_without_spinning()
    make_log_safe()
    # optuna-dashboard imports linear_operator, which calls torch.jit.script on import.
    warnings.filterwarnings("ignore", message="`torch.jit.script", category=FutureWarning)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be valid text
    try:
        sys.exit(guarded(_parse_and_run, debug=debugging()))
    finally:
        close_databases()


def _parse_and_run() -> object:
    try:
        code = app(standalone_mode=False, prog_name="mergetune")  # the same name under `python -m`
    except typer.Exit as ended:
        return ended.exit_code
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _wrong_usage(error)
    if code == INTERRUPTED:  # typer's answer to Ctrl-C
        raise KeyboardInterrupt
    return code


def _wrong_usage(error: Exception) -> int:
    """Print what click found wrong with the arguments; typer bundles its own click, whose classes we cannot import."""
    context = getattr(error, "ctx", None)
    message: str = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        if message.strip():  # empty if rich has printed it already
            errors.print(message, markup=False)
    else:
        hint = f" (see `{context.command_path} --help`)" if context is not None else ""
        meant = None if context is None else meant_instead(message, context.find_root().command)
        if meant is not None:  # which click's own guess would contradict
            message = message.partition(". Did you mean")[0]
        print_error("error", f"{message.rstrip('.')}{hint if meant is None else f': {meant}'}")
    return USER_ERROR
