"""The documentation says what the program does: commands, options, and the specs it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
from pydantic import BaseModel

from optimizer.cli.main import app
from studies.spec.study import StudySpec, load_spec, parse_spec

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
COMMANDS = (DOCS / "reference" / "commands.md").read_text()


def every_command() -> list[tuple[str, Any]]:
    """(words after `mergetune`, command) for every leaf of the command line."""
    found: list[tuple[str, Any]] = []

    def walk(words: list[str], command: Any) -> None:
        inner_commands = getattr(command, "commands", None)
        if inner_commands is None:
            found.append((" ".join(words), command))
            return
        for name, inner in inner_commands.items():
            walk([*words, name], inner)

    walk([], typer.main.get_command(app))
    return found


@pytest.mark.parametrize(("words", "command"), every_command(), ids=[words for words, _ in every_command()])
def test_every_command_and_option_is_documented(words: str, command: Any) -> None:
    assert f"mergetune {words}" in COMMANDS
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert any(option in COMMANDS for option in parameter.opts), parameter.opts


def test_every_command_in_the_readme_exists() -> None:
    known = [words for words, _ in every_command()]
    shown = re.findall(r"^mergetune ([^#\n]+)", README, flags=re.MULTILINE)
    assert len(shown) >= 6
    for line in shown:
        assert any(line.startswith(words) for words in known), line


def test_every_make_target_in_the_documentation_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        assert set(re.findall(r"make ([\w-]+)", text)) <= targets


def test_the_specs_shown_are_valid(tmp_path: Path) -> None:
    first = re.search(r"```yaml\n(study: .*?)```", README, flags=re.DOTALL)
    assert first is not None
    assert parse_spec(first[1], base_dir=tmp_path).study == "first"
    assert len(load_spec(DOCS / "examples" / "sdxl.yaml").suite.items()) == 16


STORED = {"recipe", "again"}  # written into a spec by the program alone, when a study begins


def settings_below(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every settings class that a key of `model` may hold, with the key, however deep in its annotation."""
    for name, information in model.model_fields.items():
        for settings in named_in(information.annotation):
            yield name, settings
            yield from settings_below(settings)


def named_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from named_in(inner)


def test_every_setting_of_a_spec_is_documented() -> None:
    text = (DOCS / "reference" / "spec.md").read_text()
    for name in StudySpec.model_fields:
        assert f"`{name}`" in text, name
    for part, settings in settings_below(StudySpec):
        for name in settings.model_fields:
            assert f"`{name}`" in text or name in STORED, f"{part}.{name}"


@pytest.mark.parametrize("root", ["optimizer", "studies"])
def test_every_package_is_in_the_architecture_page(root: str) -> None:
    text = (DOCS / "explanation" / "architecture.md").read_text()
    packages = [path.parent for path in (ROOT / root).rglob("__init__.py") if "migrations" not in path.parts]
    for package in packages:
        assert f"{package.name}/`" in text, package


def test_every_file_that_the_architecture_page_names_exists() -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", (DOCS / "explanation" / "architecture.md").read_text())
    assert len(named) > 12
    for file in named:
        assert (ROOT / file).is_file() or (ROOT / "optimizer" / file).is_file(), file
