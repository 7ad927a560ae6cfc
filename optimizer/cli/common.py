"""What all commands share: the console, options, and errors as one line."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.status import Status

from basics.errors import MergetuneError
from basics.messages import first_line, first_of
from basics.names import plain, the_same, typed_path
from basics.texts import MESSAGE_CHARACTERS, shortened
from optimizer.cli.console import SafeConsole
from optimizer.cli.process import INTERRUPTED, came_from_interrupt, interrupt_has_arrived
from studies.system.advice import STORAGE_VARIABLE

if TYPE_CHECKING:
    from studies.records.database import Database
    from studies.spec.study import StudySpec

USER_ERROR = 2
STORAGE_LOST = 3
BUG = 1
YAML_SUFFIXES = (".yaml", ".yml")

# Lines are as long as what they say: a terminal wraps them, and elsewhere they are searched.
console = SafeConsole(highlight=False, emoji=False, soft_wrap=True)
errors = SafeConsole(stderr=True, highlight=False, emoji=False, soft_wrap=True)

_opened = ExitStack()  # the databases of this command

TAG = re.compile(r"(\\*)(\[(?:[a-z#/@][^\[]*?\])?)")  # what rich reads as a tag, or a plain bracket

# What is typed gets the form in which it is stored by its parser: `plain` for a name, `typed_path` for a path.
StudyName = Annotated[str, typer.Argument(parser=plain, metavar="STUDY", help="Name of the study.", show_default=False)]
Storage = Annotated[
    str,
    typer.Option(
        envvar=STORAGE_VARIABLE,
        help="Study database: a URL (sqlite:///file.db, postgresql+psycopg://user@host/name) or a SQLite file.",
    ),
]
ArtifactFolder = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        envvar="MERGETUNE_ARTIFACTS",
        metavar="FOLDER|URL",
        help="Folder for contact sheets and renders, or s3://bucket/prefix. [default: beside the SQLite file]",
        show_default=False,
    ),
]
ReplacePlot = Annotated[bool, typer.Option("--force", help="Replace an existing plot.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        parser=typed_path,
        metavar="FOLDER",
        envvar="MERGETUNE_CACHE",
        help="Folder for downloaded scorer weights and reference statistics. [default: ~/.cache/mergetune]",
        show_default=False,
    ),
]

Weights = Annotated[
    str | None,
    typer.Option(
        parser=plain,
        metavar="NAME=NUMBER,...",
        help="With several objectives: choose the best trial of their Pareto front by these weights. "
        "[default: the front's knee]",
        show_default=False,
    ),
]


def print_notes(notes: Iterable[str]) -> None:
    """Print what the user should know, one line each."""
    for note in notes:
        console.print(f"[yellow]note:[/] {escaped(note)}")


def output_option(metavar: str, help_text: str) -> Any:
    """Return the option `--output` of a command that writes one file."""
    return typer.Option("--output", "-o", parser=typed_path, metavar=metavar, help=help_text, show_default=False)


def read_spec(file: Path) -> StudySpec:
    """Read and check a spec file; print which of its texts may have been meant otherwise, and notes on its pictures.

    Raises:
        SpecError: as `load_spec`.
    """
    from studies.errors import SpecError
    from studies.spec.study import load_spec_and_notes
    from studies.system.documents import read_text
    from studies.system.texts import cut_texts

    print_notes(cut_texts(read_text(file, "spec", "a study's YAML file", SpecError)))
    found = load_spec_and_notes(file)
    print_notes(found.notes)
    return found.spec


def parsed_weights(weights: str | None, known: Sequence[str]) -> dict[str, float] | None:
    """Parse `clip_score=1,fid=0.5`; None stays None.

    Args:
        known: the study's objectives; a name that is the same as one of them is that one.
    """
    if weights is None:
        return None
    from optimizer.trial.front import parse_weights

    return {the_same(name, known) or name: weight for name, weight in parse_weights(weights).items()}


def storage_url(storage: str) -> str:
    """Return the URL of a database; a plain path is a SQLite file."""
    from studies.system.database_url import complete_url

    return complete_url(storage)


def stored_url(storage: str, *, create: bool = False) -> str:
    """Return the URL of a database that must be there; a file is looked for before what opens databases is imported.

    Args:
        create: whether it may be missing.

    Raises:
        DatabaseError: there is no such file, or it is no database.
    """
    from studies.system.database_files import require_database_file
    from studies.system.database_url import database_file

    url = storage_url(storage)
    file = database_file(url)
    if file is not None:
        require_database_file(file, create=create)
    return url


def database_to_read(storage: str) -> Database:
    """Open the database for a command that only looks: nothing is written, not even beside it.

    Raises:
        DatabaseError: there is none, or it must be brought to this version's schema first.
    """
    url = stored_url(storage)
    from studies.records.database import open_to_read
    from studies.system.waiting import set_patience

    set_patience(patience_seconds())
    return _until_the_end(open_to_read(url))


def database_to_change(storage: str) -> Database:
    """Open a database for a command that writes to it.

    Raises:
        DatabaseError: it does not exist, or it is a SQLite file on a network share.
    """
    url = stored_url(storage)
    from studies.records.database import open_database
    from studies.records.network_shares import require_local
    from studies.system.waiting import set_patience

    require_local(url)
    set_patience(patience_seconds())
    return _until_the_end(open_database(url, create=False))


def _until_the_end(database: Database) -> Database:
    _opened.callback(database.close)
    return database


def close_databases() -> None:
    """Close what `database_to_read` and `database_to_change` opened, at a command's end."""
    _opened.close()


def patience_seconds() -> float:
    """Return how long to wait for an unreachable or locked database: MERGETUNE_PATIENCE_SECONDS, or ten minutes.

    Raises:
        StorageError: the variable is not a number of seconds.
    """
    from optimizer.errors import StorageError
    from studies.system.waiting import USUAL_PATIENCE_SECONDS

    text = os.environ.get("MERGETUNE_PATIENCE_SECONDS", str(USUAL_PATIENCE_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise StorageError(f"MERGETUNE_PATIENCE_SECONDS: expected a number of seconds of at least 0, got {text!r}")
    return seconds


def cache_folder(cache: Path | None) -> Path:
    """Return the given folder; by default the user's cache as the XDG convention says."""
    if cache is not None:
        return cache.resolve()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "mergetune"


def fail(message: str) -> NoReturn:
    """End the command with an error: one line on stderr, exit code 2."""
    print_error("error", message)
    raise typer.Exit(USER_ERROR)


def print_error(kind: str, message: str) -> None:
    """Print one line to stderr, even if the message has several or is very long."""
    errors.print(f"[bold red]{kind}:[/] {escaped(shortened(' '.join(message.split()), MESSAGE_CHARACTERS))}")


def escaped(text: str) -> str:
    """Escape a text so that rich finds no markup in it; rich's own `escape` loses or doubles some backslashes."""
    return TAG.sub(_escaped_bracket, text)


def _escaped_bracket(found: re.Match[str]) -> str:
    backslashes, bracket = found.groups()  # rich wants backslashes doubled before a tag only
    return (backslashes if bracket == "[" else 2 * backslashes) + "\\" + bracket


def guarded(command: Callable[[], object], *, debug: bool) -> int:
    """Run a command, and return its exit code; errors that the user can correct become one line and code 2."""
    try:
        code = command()
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if came_from_interrupt(error):  # a library had it for a failure of its own
            return _interrupted()
        if debug:
            raise
        return _exit_code(error)
    return code if isinstance(code, int) else 0


def _interrupted() -> int:
    interrupt_has_arrived()
    errors.print("interrupted")
    return INTERRUPTED


def _exit_code(error: Exception) -> int:
    """Print an error for people; return the exit code."""
    if isinstance(error, MergetuneError):
        print_error("error", str(error))
        return _code_of(error)
    cause = _external_cause(error)
    if cause is not None:
        print_error("error", cause)
        return STORAGE_LOST if _is_away(error) else USER_ERROR
    print_error("internal error", f"{type(error).__name__}: {error}")
    errors.print("This is a bug in mergetune. Run the command again with MERGETUNE_DEBUG=1 to see the traceback.")
    return BUG


def _code_of(error: MergetuneError) -> int:
    """Return the exit code of an error of ours: one that a restart may mend has a code of its own."""
    from optimizer.errors import DatabaseLostError
    from studies import errors as of_studies

    if isinstance(error, of_studies.WaitEndedError):
        return INTERRUPTED
    lost = (
        DatabaseLostError,
        of_studies.DatabaseLockedError,
        of_studies.DatabaseReplacedError,
        of_studies.LockLostError,
        of_studies.ArtifactsLostError,
        of_studies.ArtifactsReplacedError,
    )
    return STORAGE_LOST if isinstance(error, lost) else USER_ERROR


def _is_away(error: Exception) -> bool:
    """Return whether the study database went away in the midst of a command."""
    if "sqlalchemy.exc" not in sys.modules:
        return False
    from studies.records.refusals import is_away

    return is_away(error)


def _external_cause(error: Exception) -> str | None:
    """Explain an error of the operating system, the memory or the database server; None for a bug of ours."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    if "torch" in sys.modules:
        from scorers.memory import lacks_memory

        if lacks_memory(error):
            return f"out of memory: {first_line(error) if str(error) else 'close other programs'}"
    database_errors = sys.modules.get("sqlalchemy.exc")
    cause: BaseException | None = error
    while cause is not None and database_errors is not None:
        if isinstance(cause, database_errors.DBAPIError):
            from studies.records.refusals import in_words

            return f"the study database cannot be used: {in_words(cause)}"
        cause = cause.__cause__
    return None


def quiet_optuna() -> None:
    """Silence Optuna's log of every trial: our reporters do that better."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def loading_libraries() -> Status:
    """Return the status to show while torch and the like are imported, which takes seconds."""
    return errors.status("loading torch and the other libraries")  # the output may go to another program


def require_usual(unusual: Sequence[str], *, force: bool) -> None:
    """Refuse numbers that are far outside of what merges use, unless the user insists; then say them.

    Args:
        unusual: what is said of each.
    """
    if not unusual:
        return
    told = first_of(unusual)
    if not force:
        fail(f"{told}; with --force it is taken as it is")
    errors.print(f"[yellow]note:[/] {escaped(told)}")  # stdout may be a recipe


def safetensors_target(output: Path) -> Path:
    """Return the path of `-o`, which must end in .safetensors."""
    if output.suffix.lower() != ".safetensors":
        fail(f"-o writes a .safetensors file, got {output}: give a name that ends in .safetensors")
    from optimizer.merging.files.presence import require_utf8_name

    require_utf8_name(output)  # it becomes the model's title in the header
    return output


def yaml_target(output: Path, option: str = "-o") -> Path:
    """Return the path of an option that names a YAML file to write, which must end so."""
    if output.suffix.lower() not in YAML_SUFFIXES:
        fail(f"{option} writes a YAML file, got {output}: give a name that ends in .yaml")
    return output


def debugging() -> bool:
    """Return whether MERGETUNE_DEBUG asks for tracebacks."""
    return os.environ.get("MERGETUNE_DEBUG", "") not in {"", "0"}


def interactive() -> bool:
    """Return whether the output goes to a terminal."""
    return sys.stdout.isatty()
