"""Texts of others are shown as characters: no terminal, page or table carries out what they contain."""

from __future__ import annotations

import io
import logging
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from checkpoints import write_checkpoint
from command_line import Call, caller, enter
from marked_files import write_header
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text
from stored_study import SPEC, store_study

from basics.texts import visible
from optimizer.cli.common import escaped, print_error
from optimizer.cli.console import SafeConsole, make_log_safe
from optimizer.observe.metrics import Metrics, MetricsReporter
from optimizer.rendering.contact_sheet import comparison_sheet, contact_sheet
from studies.records.database import open_database
from studies.spec.study import parse_spec

CLEAR = "\x1b[2J\x1b[1;1H"  # C0
TITLE = "\x9d0;pwned\x9c"  # C1: sets a window's title
REVERSED = "cat\u202egnp.exe"
OTHERS = "\x7f\x1f"  # rich itself leaves out a few, such as the bell
MARKUP = "[bold red]error:[/] [link=file:///etc/passwd]here[/link]"
EVIL = [CLEAR, TITLE, REVERSED, OTHERS, "a\0b", "\u2066x\u2069", "\u2028", "\ud800", MARKUP]
evil = pytest.mark.parametrize("text", EVIL, ids=ascii)


def is_safe(shown: str) -> bool:
    return visible(shown) == shown


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    enter(tmp_path, monkeypatch)
    return caller(monkeypatch, capsys)


@evil
def test_visible_keeps_what_people_write_and_says_what_the_rest_is(text: str) -> None:
    assert is_safe(visible(text))
    assert visible("två ord\n\tナイフ 👩\u200d🚀 — ok") == "två ord\n\tナイフ 👩\u200d🚀 — ok"
    assert visible(CLEAR) == "\\x1b[2J\\x1b[1;1H"
    assert visible(REVERSED) == "cat\\u202egnp.exe"


def printed(show: Callable[[SafeConsole], object]) -> str:
    """What a terminal gets."""
    file = io.StringIO()
    show(
        SafeConsole(
            file=file, force_terminal=True, width=300, highlight=False, color_system="truecolor", legacy_windows=False
        )
    )
    return file.getvalue()


def _swapped(show: Callable[[SafeConsole, str], object], text: str, console: SafeConsole) -> object:
    return show(console, text)


def commands(shown: str) -> Counter[str]:
    return Counter(character for character in shown if not is_safe(character))


def in_progress(console: SafeConsole, text: str) -> None:
    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[more]}", markup=False))
    with Progress(*columns, console=console) as progress:
        progress.add_task(escaped(text), more=text)
        progress.refresh()


def in_table(console: SafeConsole, text: str) -> None:
    table = Table(escaped(text), title=escaped(text))
    table.add_row(escaped(text))
    table.add_row(Text(text))
    console.print(table)


SHOWN: dict[str, Callable[[SafeConsole, str], object]] = {
    "line": lambda console, text: console.print(escaped(text)),
    "no markup": lambda console, text: console.print(text, markup=False),
    "styled": lambda console, text: console.print(Text(text, style="red")),
    "progress": in_progress,
    "table": in_table,
    "status": lambda console, text: console.status(escaped(text)).__enter__().__exit__(None, None, None),
    "rule": lambda console, text: console.rule(escaped(text)),
}


@evil
@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_whatever_a_console_shows_contains_no_commands_of_the_text(
    show: Callable[[SafeConsole, str], object], text: str
) -> None:
    """The terminal's own commands (colours, the cursor of a progress bar) are those of the text `harmless`."""
    shown, harmless = (printed(partial(_swapped, show, each)) for each in (text, visible(text)))
    assert commands(shown) == commands(harmless)
    assert "\\" in shown or text == MARKUP


def test_colours_stay(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(lambda console: console.print(f"[red]{escaped(CLEAR)}[/]")) == "\x1b[31m\\x1b[2J\\x1b[1;1H\x1b[0m\n"
    print_error("error", f"no file {CLEAR}\n{MARKUP}")
    assert capsys.readouterr().err == f"error: no file \\x1b[2J\\x1b[1;1H {MARKUP}\n"


def test_metadata_of_a_file_and_its_names_are_shown_as_characters(call: Call, tmp_path: Path) -> None:
    metadata = {f"key {CLEAR}": TITLE, "modelspec.title": REVERSED, "sd_merge_recipe": f'{{"a": "{TITLE}"}}'}
    path = tmp_path / f"evil{OTHERS}{CLEAR[:4]}\u202e.safetensors"
    write_header(path, metadata=metadata)
    for arguments in (("inspect", path), ("inspect", path, "--json"), ("merge", path)):
        outcome = call(*arguments)
        assert is_safe(outcome.out + outcome.err), ascii(outcome)
    assert "key \\x1b[2J" in call("inspect", path, code=0).out


def test_rows_of_a_database_are_shown_as_characters(call: Call, tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/mergetune.db")
    store_study(
        database, "stored", lambda _: {"sharpness": (1.0,) * 4, "contrast": (1.0,) * 4}, trials=4, failed=(2, 3)
    )
    database.close()
    with closing(sqlite3.connect(tmp_path / "mergetune.db")) as connection, connection:
        evil_text = CLEAR + TITLE + REVERSED + MARKUP
        connection.execute("UPDATE mergetune_trials SET reason = ? WHERE reason IS NOT NULL", (evil_text,))
        connection.execute("UPDATE mergetune_parents SET path = '/m/' || ?", (evil_text,))
        assert connection.execute("SELECT count(*) FROM mergetune_trials WHERE reason IS NOT NULL").fetchone() == (2,)
    seen = ""
    for arguments in (("list",), ("show", "stored", "--trials"), ("doctor", "stored"), ("importance", "stored")):
        outcome = call("study", *arguments)
        assert is_safe(outcome.out + outcome.err), ascii(outcome)
        seen += outcome.out
    assert f"failed: \\x1b[2J\\x1b[1;1H\\x9d0;pwned\\x9ccat\\u202egnp.exe{MARKUP}" in seen


def test_a_recipe_that_is_printed_can_be_read_again(call: Call, tmp_path: Path) -> None:
    names = [f"{letter}\u202e\x1b[1m.safetensors" for letter in "ab"]
    for seed, name in enumerate(names):
        write_checkpoint(tmp_path / name, seed=seed)
    recipe = tmp_path / "mine\x1b[2J.yaml"
    recipe.write_text(yaml.safe_dump({"parents": names, "ratio": 0.5}))
    text = call("merge", recipe, "--show", code=0).out
    assert is_safe(text)
    again = tmp_path / "again.yaml"
    again.write_text(text)
    assert yaml.safe_load(call("merge", again, "--show", code=0).out) == yaml.safe_load(text)


def test_log_records_are_printed_as_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    last = logging.StreamHandler(sys.stderr)
    last.setLevel(logging.WARNING)
    monkeypatch.setattr(logging, "lastResort", last)
    make_log_safe()
    record = logging.LogRecord("scorers", logging.WARNING, "x.py", 1, "%s is damaged", (f"{CLEAR}{TITLE}",), None)
    last.handle(record)
    assert capsys.readouterr().err == "\\x1b[2J\\x1b[1;1H\\x9d0;pwned\\x9c is damaged\n"


def test_labels_of_metrics_contain_no_control_characters() -> None:
    metrics = Metrics()
    spec = parse_spec(SPEC.format(name="texts"), base_dir=Path("/"))
    study = SimpleNamespace(name=f"{CLEAR}{TITLE}", spec=spec)
    MetricsReporter(metrics, SimpleNamespace(study=study))  # type: ignore[arg-type]
    (labels,) = {sample.labels["study"] for family in metrics.outages.collect() for sample in family.samples}
    assert labels == visible(CLEAR + TITLE)


@evil
def test_contact_sheets_can_be_drawn_of_any_text(text: str) -> None:
    import torch

    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    sheets = [
        (contact_sheet(each, [image], [each]), comparison_sheet(each, [(each, [image])], [each]))
        for each in (text, visible(text))
    ]
    assert [sheet.tobytes() for sheet in sheets[0]] == [sheet.tobytes() for sheet in sheets[1]]
