"""Questions in a terminal: asked again until the answer can be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer

from basics.names import typed_path
from optimizer.cli.common import console, escaped

T = TypeVar("T")


def answer(question: str, parse: Callable[[str], T]) -> T:
    """Ask until the answer can be used.

    Args:
        parse: raises ValueError with the reason where it cannot.

    Raises:
        typer.Abort: the input has ended.
    """
    from rich.prompt import Prompt

    while True:
        try:
            text = Prompt.ask(escaped(question), console=console, default="", show_default=False)
        except EOFError as error:
            raise typer.Abort from error
        try:
            return parse(text.strip())
        except ValueError as error:
            console.print(f"[yellow]{escaped(str(error))}[/]")


def or_nothing(parse: Callable[[str], T]) -> Callable[[str], T | None]:
    """Return a parser to which an empty answer is None."""
    return lambda text: parse(text) if text else None


def something_there(text: str) -> Path:
    """Return a path at which something is.

    Raises:
        ValueError: nothing is.
    """
    path = typed_path(text)
    if not text or not path.exists():
        raise ValueError(f"there is nothing at {text or 'an empty path'}: give a path that exists")
    return path


def folder_there(text: str) -> Path:
    """Return the path of a folder.

    Raises:
        ValueError: there is none.
    """
    path = typed_path(text)
    if not path.is_dir():
        raise ValueError(f"{text} is not a folder: give one that exists")
    return path


def number_between(low: float, high: float, usual: float) -> Callable[[str], float]:
    """Return a parser of numbers from `low` to `high`; an empty answer is the usual one."""

    def parse(text: str) -> float:
        try:
            number = float(text.replace(",", ".")) if text else usual
        except ValueError:
            raise ValueError(f"expected a number, such as {usual:g}, got {text!r}") from None
        if not low <= number <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}, got {text!r}")
        return number

    return parse
