"""Help pages in which nothing is cut: typer's own end long words, such as URLs, with an ellipsis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandFunctionType

if TYPE_CHECKING:
    from rich.panel import Panel

    Entry = tuple[str, str]  # what to type, and what it means

NAMES_SHARE = 0.45  # of a page's width, at most, for what to type


class Commands(typer.Typer):
    """A group of commands with help pages of ours.

    Args:
        settings: of `typer.Typer`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Group, no_args_is_help=True, rich_markup_mode=None, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Add a command, as `typer.Typer.command` does."""
        return super().command(name, cls=_Command, **settings)


class _Command(TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        del formatter
        _print_page(self, ctx, ())


class _Group(TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        del formatter
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        _print_page(self, ctx, [(name, _sentence(command.help)) for name, command in commands if command is not None])


def _sentence(text: str | None) -> str:
    """Return the first paragraph of a docstring in one line."""
    return " ".join((text or "").partition("\n\n")[0].split())


def _print_page(command: TyperCommand | TyperGroup, context: Any, commands: Iterable[Entry]) -> None:
    """Print usage, purpose, arguments, options and commands."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False, emoji=False)
    console.print(Padding(Text(command.get_usage(context), "bold", overflow="fold"), 1))
    console.print(Padding(Text(_sentence(command.help), overflow="fold"), (0, 1, 1, 1)))
    entries = {
        "Arguments": _explained(command, context, "argument"),
        "Options": _explained(command, context, "option"),
        "Commands": commands,
    }
    for title, of_title in entries.items():
        if rows := list(of_title):
            console.print(_panel(title, rows, console.width))


def _explained(command: TyperCommand | TyperGroup, context: Any, kind: str) -> Iterator[Entry]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if parameter.param_type_name == kind else None
        if record is not None:
            yield record


def _panel(title: str, rows: list[Entry], width: int) -> Panel:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), expand=True)
    table.add_column(style="bold cyan", overflow="fold", max_width=max(1, round(NAMES_SHARE * width)))
    table.add_column(overflow="fold", ratio=1)
    for name, meaning in rows:
        table.add_row(Text(name), Text(meaning))
    return Panel(table, title=title, title_align="left", border_style="dim")
