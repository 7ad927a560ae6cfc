"""`mergetune`: the command line. Only what is needed to parse arguments is imported here."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from optimizer.cli import dashboard, demo, export, inspection, lists, study, work
from optimizer.cli.common import debugging, guarded

app = typer.Typer(
    name="mergetune",
    help="Search for the best merge of Stable Diffusion checkpoints, prove it, and export it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(study.app, name="study")
app.command(name="demo")(demo.demo)
app.command(name="worker")(work.worker)
app.command(name="dashboard")(dashboard.dashboard)
app.command(name="export")(export.export)
app.command(name="inspect")(inspection.inspect)
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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Search for the best merge of Stable Diffusion checkpoints, prove it, and export it."""


def run() -> None:
    """Entry point of the `mergetune` command."""
    sys.exit(guarded(_parse_and_run, debug=debugging()))


def _parse_and_run() -> object:
    try:
        return app(standalone_mode=False)
    except typer.Exit as left:
        return left.exit_code
    except Exception as error:
        import click

        if isinstance(error, click.ClickException):  # wrong usage
            error.show()
            return error.exit_code
        if isinstance(error, click.Abort):
            raise KeyboardInterrupt from error
        raise
