"""The command line's own behaviour: help, wrong usage, errors as one line, and what it imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Call, Outcome
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from slow_cases import first_fast
from sqlalchemy.exc import OperationalError
from torch import OutOfMemoryError

from basics.names import plain, typed_path
from optimizer.cli import common, main
from optimizer.cli.common import cache_folder, escaped, guarded, storage_url
from optimizer.errors import CheckpointError
from scorers.errors import MissingWeightsError
from search_spaces.errors import BoundsError
from studies.errors import SpecError

ROOT = Path(__file__).parents[4]


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with the words that call it."""

    def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield words, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from below(inner, (*words, name))

    yield from below(typer.main.get_command(main.app), ())


COMMANDS = dict(commands())


STUDY_COMMANDS = (
    "check",
    "start",
    "resume",
    "finish",
    "list",
    "show",
    "stop",
    "pause",
    "priority",
    "importance",
    "compare",
    "rescore",
    "report",
    "migrate",
    "doctor",
    "prune-artifacts",
    "delete",
    "rename",
    "clone",
    "vote",
    "votes",
    "train-personal",
)


def test_the_commands_are_those_of_the_design() -> None:
    assert {" ".join(words) for words in COMMANDS} == {
        "",
        "study",
        "lora",
        "lora extract",
        "lora bake",
        "merge",
        *(f"study {name}" for name in STUDY_COMMANDS),
        "cluster",
        *(f"cluster {name}" for name in ("start", "status", "stop")),
        "init",
        "bracket",
        "plot",
        "demo",
        "worker",
        "dashboard",
        "export",
        "inspect",
        "diff",
        "scorers",
        "spaces",
        "suite",
        "suite import",
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_and_each_of_its_options(
    words: tuple[str, ...], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    outcome = call(*words, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"mergetune {' '.join(words)}".strip() in outcome.out
    for parameter in COMMANDS[words].params:
        assert parameter.help, f"{parameter.name} is not explained"
        for option in parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]:
            assert option in outcome.out


@pytest.mark.parametrize("columns", first_fast(1, ["30", "80", "60"]))
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_help_page_cuts_a_word(
    words: tuple[str, ...], columns: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    page = call(*words, "--help", code=0).out
    assert "…" not in page
    assert "\\" not in page  # help texts have no markup to be escaped
    assert max(map(len, page.splitlines())) <= int(columns)
    unfolded = re.sub(r"[\s│]", "", page)
    explained = [parameter.help for parameter in COMMANDS[words].params]
    explained += [inner.help for inner in getattr(COMMANDS[words], "commands", {}).values()]
    for word in " ".join([COMMANDS[words].help, *explained]).split():
        assert word in unfolded


@pytest.mark.parametrize(
    ("words", "default"),
    [
        (("study", "check"), "beside the SQLite file"),
        (("study", "check"), "~/.cache/mergetune"),
        (("study", "show"), "the front's knee"),
        (("study", "doctor"), "all"),
        (("worker",), "MERGETUNE_MODELS"),
        (("export",), "STUDY-trial-N.safetensors"),
        (("merge",), "the recipe's, else that of A"),
        (("lora", "extract"), "as --rank"),
        (("lora", "bake"), "that of CHECKPOINT"),
    ],
)
def test_a_default_that_is_a_rule_is_shown(
    words: tuple[str, ...], default: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert f"[default: {default}]" in call(*words, "--help").out


def test_the_version_is_that_of_the_package(call: Call) -> None:
    from importlib.metadata import version

    assert call("--version") == Outcome(0, f"mergetune {version('mergetune')}\n", "")


@pytest.mark.parametrize("words", [(), ("study",)])
def test_a_group_without_a_command_shows_what_there_is(words: tuple[str, ...], call: Call) -> None:
    outcome = call(*words)
    assert outcome.code == 2
    shown = outcome.out + outcome.err
    for name in COMMANDS[words].commands:
        assert name in shown
    assert "error" not in shown
    assert "bug" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stduy"], ["stduy", "mergetune --help"]),
        (["study", "chek"], ["chek", "check", "mergetune study --help"]),
        (["study", "check"], ["SPEC", "mergetune study check --help"]),
        (["study", "check", "a", "b"], ["b", "mergetune study check --help"]),
        (["study", "check", "spec.yaml", "--storge", "x"], ["--storge"]),
        (["export", "name", "--trial"], ["--trial"]),
        (["study", "resume", "name", "--trials", "many"], ["--trials", "integer"]),
        (["study", "resume", "name", "--trials", "0"], ["--trials", "1"]),
        (["study", "resume", "name", "--trials", "1000001"], ["--trials", "1000000"]),
        (["dashboard", "--port", "70000"], ["--port", "65535"]),
        (["--storage", "x", "study", "list"], ["--storage"]),
        (["inspect"], ["CHECKPOINT"]),
    ],
)
def test_wrong_usage_is_one_line_that_names_it_and_where_help_is(
    arguments: list[str], words: list[str], call: Call
) -> None:
    outcome = call(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err


def imported_by(folder: Path, *arguments: str, code: int) -> set[str]:
    """Packages that are loaded when a command has ended."""
    program = (
        "import json, sys\n"
        f"sys.argv = ['mergetune', *{arguments!r}]\n"
        "from optimizer.cli.main import run\n"
        f"try:\n    run()\nexcept SystemExit as left:\n    assert left.code == {code}, left.code\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    loaded = {name.split(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}
    assert "optimizer" in loaded
    return loaded


def test_help_is_fast_because_nothing_heavy_is_imported(tmp_path: Path) -> None:
    heavy = {"optuna", "diffusers", "transformers", "numpy", "pydantic", "sqlalchemy", "alembic", "yaml", "PIL"}
    assert imported_by(tmp_path, "--help", code=0) & {"torch", *heavy} == set()


@pytest.mark.parametrize("words", [("study", "start", "missing.yaml"), ("worker",), ("export", "nobody")])
def test_a_mistake_is_told_before_torch_is_imported(words: tuple[str, ...], tmp_path: Path) -> None:
    assert imported_by(tmp_path, *words, code=2) & {"torch", "diffusers", "open_clip"} == set()


def test_the_installed_command_answers(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("mergetune")
    if not program.exists():
        pytest.skip("the package is not installed beside this Python")
    done = subprocess.run(
        [program, "study", "show", "absent", "--storage", "absent.db"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("MERGETUNE_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: no study database at ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------ errors as lines


def guard(error: BaseException, *, debug: bool = False) -> int:
    def command() -> None:
        raise error

    return guarded(command, debug=debug)


@pytest.mark.parametrize(
    "error",
    [
        SpecError("no [red]spec[/red] at [/x] :smile: {y}"),
        CheckpointError("first line\nsecond line\n\tthird line"),
        BoundsError(r"a\[b] and \\[bold]c"),
        MissingWeightsError("x" * 500),
    ],
)
def test_an_error_of_ours_is_printed_as_it_is_in_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert guard(error) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {' '.join(str(error).split())}\n"


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (OSError(28, "No space left on device", "/data/study.db"), "/data/study.db: No space left on device", 2),
        (PermissionError(13, "Permission denied", "x.png"), "x.png: Permission denied", 2),
        (OperationalError("SELECT 1", {}, Exception("server closed\nDETAIL")), "study database.*server closed$", 3),
        (OutOfMemoryError("CUDA out of memory.\nGPU 0 has"), "error: out of memory: CUDA out of memory.$", 2),
        (MemoryError(), "error: out of memory: close other programs$", 2),
    ],
)
def test_what_the_system_or_the_server_does_to_us_is_no_bug(
    error: Exception, words: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guard(error) == code
    _, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(words, err.strip())


def test_a_database_error_that_optuna_wraps_is_still_one(capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = RuntimeError("An exception is raised during the commit")
    wrapped.__cause__ = OperationalError("INSERT", {}, Exception("database is locked"))
    assert guard(wrapped) == 2
    assert "database is locked" in capsys.readouterr().err


def test_a_bug_is_called_one_with_the_way_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert guard(ZeroDivisionError("division by zero")) == 1
    _, err = capsys.readouterr()
    assert err.startswith("internal error: ZeroDivisionError: division by zero\n")
    assert "MERGETUNE_DEBUG=1" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("error", [SpecError("wrong"), ZeroDivisionError("wrong")])
def test_debugging_shows_where_an_error_comes_from(error: Exception) -> None:
    with pytest.raises(type(error), match="wrong"):
        guard(error, debug=True)


@pytest.mark.parametrize(("value", "on"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_debugging_is_switched_by_the_environment(value: str | None, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MERGETUNE_DEBUG", raising=False)
    if value is not None:
        monkeypatch.setenv("MERGETUNE_DEBUG", value)
    assert common.debugging() is on


def test_ctrl_c_is_not_an_error_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert guard(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3), ("text", 0)])
def test_a_command_that_ends_well_leaves_with_its_own_code(result: object, code: int) -> None:
    assert guarded(lambda: result, debug=False) == code


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), max_size=40) | st.text(r"\[]/a1 ", max_size=12))
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    assert Text.from_markup(escaped(text), emoji=False).plain == text


# --------------------------------------------------------------------------------------------- options


NOT_NAMES = {"trial", "workers", "host", "address", "metrics", "notify"}
NAMES_WITHIN = {"storage", "artifacts", "log_json", "parent", "lora", "loras"}  # URLs, and paths beside something else


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_name_and_path_that_is_typed_gets_the_form_that_is_stored(words: tuple[str, ...]) -> None:
    described = {
        parameter.name: parameter.type_descriptor for parameter in COMMANDS[words].params if parameter.name != "help"
    }
    parsers = {
        name: descriptor.parameter_info.parser
        for name, descriptor in described.items()
        if descriptor.annotation in {str, Path, list[str], list[Path]}
    }
    either = {("study", "resume"): "study", ("plot",): "source"}  # a name or a spec file
    parsers.pop(either.get(words, ""), None)
    unknown = parsers.keys() - NOT_NAMES - NAMES_WITHIN
    assert {name for name in unknown if parsers[name] not in {plain, typed_path}} == set()


def test_a_plain_path_is_a_sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage_url("merges.db") == f"sqlite:///{tmp_path}/merges.db"
    assert storage_url("~/merges.db") == "sqlite:////home/someone/merges.db"
    assert storage_url("postgresql+psycopg://host/name") == "postgresql+psycopg://host/name"


def test_the_cache_follows_the_option_then_xdg_then_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder(Path("here")) == tmp_path / "here"
    assert cache_folder(None) == Path("/xdg/mergetune")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(None) == Path("/home/someone/.cache/mergetune")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "", "127.0.0.1.example.com"])
def test_the_dashboard_is_not_shown_to_others_without_a_password(host: str, call: Call) -> None:
    outcome = call("dashboard", "--host", host)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {host} can be reached".replace("error:  ", "error: "))
    assert "--password-file" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_password(host: str, call: Call) -> None:
    outcome = call("dashboard", "--host", host, "--storage", "absent.db")
    assert outcome.code == 2
    assert outcome.err.startswith("error: no study database")  # it got that far


def test_with_a_password_any_address_will_do(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGETUNE_DASHBOARD_PASSWORD", "secret")
    outcome = call("dashboard", "--host", "0.0.0.0", "--storage", "absent.db")
    assert outcome.err.startswith("error: no study database")
    assert "secret" not in outcome.out + outcome.err


# ----------------------------------------------------------------------------------------------- lists


def test_every_scorer_is_listed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from scorers.registry import kinds

    monkeypatch.setattr(common.console, "width", 300)
    outcome = call("scorers")
    assert outcome.code == 0
    for name in kinds():
        assert name in outcome.out


def test_every_search_space_is_listed_with_its_number_of_ratios(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from search_spaces.presets import preset_names

    monkeypatch.setattr(common.console, "width", 300)
    outcome = call("spaces")
    assert outcome.code == 0
    for name in preset_names():
        assert name in outcome.out
    (row,) = [line for line in outcome.out.splitlines() if line.strip("│┃ ").startswith("blocks ")]
    assert row.split("│")[-3].strip() == "26"  # 12 + 1 + 12 blocks and one text encoder
