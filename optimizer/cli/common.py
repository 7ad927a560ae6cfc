"""What every command shares: the console, options, and errors as one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

USER_ERROR = 2
BUG = 1

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

DEFAULT_STORAGE = "sqlite:///mergetune.db"

Storage = Annotated[
    str,
    typer.Option(
        envvar="MERGETUNE_STORAGE",
        help="Study database: a URL (sqlite:///file.db, postgresql+psycopg://user@host/name) or a SQLite file.",
    ),
]
ArtifactFolder = Annotated[
    Path | None,
    typer.Option(
        "--artifacts",
        envvar="MERGETUNE_ARTIFACTS",
        help="Folder of contact sheets and renders. [default: beside the SQLite file]",
        show_default=False,
    ),
]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        envvar="MERGETUNE_CACHE",
        help="Folder of downloaded scorer weights and reference statistics. [default: ~/.cache/mergetune]",
        show_default=False,
    ),
]


def storage_url(storage: str) -> str:
    """A plain path means a SQLite file."""
    return storage if "://" in storage else f"sqlite:///{Path(storage).expanduser().resolve()}"


def cache_folder(cache: Path | None) -> Path:
    """The given folder, or the user's cache after the XDG convention."""
    if cache is not None:
        return cache.expanduser().resolve()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "mergetune"


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    errors.print(f"[bold red]error:[/] {escaped(message)}")
    raise typer.Exit(USER_ERROR)


def escaped(text: str) -> str:
    """Text in which rich sees no markup."""
    return text.replace("[", r"\[")


def guarded(command: Callable[[], object], *, debug: bool) -> int:
    """Run a command; everything that is the user's to mend becomes one line and exit code 2."""
    from optimizer.errors import OptimizerError
    from scorers.errors import ScorerError
    from search_spaces.errors import SpaceError
    from studies.errors import StudyError

    try:
        code = command()
    except (OptimizerError, ScorerError, SpaceError, StudyError) as error:
        if debug:
            raise
        errors.print(f"[bold red]error:[/] {escaped(str(error))}")
        return USER_ERROR
    except KeyboardInterrupt:
        errors.print("interrupted")
        return 130
    except Exception as error:
        if debug:
            raise
        kind = type(error).__name__
        errors.print(f"[bold red]internal error:[/] {escaped(f'{kind}: {error}'.splitlines()[0])}")
        errors.print("This is a bug in mergetune. Run again with MERGETUNE_DEBUG=1 to see where it comes from.")
        return BUG
    return code if isinstance(code, int) else 0


def debugging() -> bool:
    return os.environ.get("MERGETUNE_DEBUG", "") not in {"", "0"}


def interactive() -> bool:
    return sys.stdout.isatty()
