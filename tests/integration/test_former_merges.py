"""Studies, recipes and merged files of the time before random methods named their random numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from command_line import Call, caller, enter
from demo_study import DEMO, SMALL, begin
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from optimizer.merging.engine.metadata import RECIPE_FIELD
from studies.recipe.recipe import DRAWS, FORMER_DRAWS
from studies.records import tables

STORAGE = "sqlite:///study.db"
OTHER = "random numbers of another version"


def without_draws(data: Any) -> Any:
    """The data without any `draws`, however deep."""
    if isinstance(data, dict):
        return {key: without_draws(value) for key, value in data.items() if key != "draws"}
    return [without_draws(value) for value in data] if isinstance(data, list) else data


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study by a random method, as an earlier version stored it."""
    folder = tmp_path_factory.mktemp("former")
    changes: dict[str, Any] = {
        "method": "dare_linear",
        "final": {"top": 1},
        "probes": {"uniform": [0.5], "profiles": 0},
        "budget": {"trials": 4},
    }
    short = begin(folder, {**SMALL, **changes})
    short.run()
    with short.database.engine.begin() as connection:
        for column in (tables.studies.c.spec, tables.trials.c.recipe):
            table = column.table
            for key, text in connection.execute(sa.select(table.c.id, column)).all():
                was = json.dumps(without_draws(json.loads(text)))
                connection.execute(sa.update(table).where(table.c.id == key).values({column.name: was}))
    short.database.close()
    return folder


@pytest.fixture
def call(former: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    enter(former, monkeypatch)
    monkeypatch.setenv("MERGETUNE_STORAGE", STORAGE)
    return caller(monkeypatch, capsys)


def files_in(folder: Path) -> set[Path]:
    return set(folder.glob("*.safetensors")) | set(folder.glob("*.tmp*"))


@pytest.mark.parametrize("command", ["list", "show short"])
def test_the_study_is_shown(command: str, call: Call) -> None:
    call("study", *command.split(), code=0)


@pytest.mark.parametrize("command", ["study resume short --trials 6", "study finish short", "export short --trial 2"])
def test_what_would_merge_anew_is_refused_in_one_line_and_leaves_nothing(
    command: str, former: Path, call: Call
) -> None:
    before = files_in(former)
    refused = call(*command.split(), code=2)
    assert OTHER in " ".join(refused.err.split())
    assert "Traceback" not in refused.err + refused.out
    assert files_in(former) == before


def test_a_parent_is_exported_as_ever(call: Call, tmp_path: Path) -> None:
    call("export", "short", "--trial", "0", "-o", tmp_path / "a.safetensors", code=0)


def test_a_trials_recipe_says_which_numbers_were_its_own(call: Call, tmp_path: Path) -> None:
    recipe, merged = tmp_path / "trial.yaml", tmp_path / "merged.safetensors"
    call("export", "short", "--trial", "2", "--recipe", recipe, code=0)
    assert yaml.safe_load(recipe.read_text())["draws"] == FORMER_DRAWS
    assert OTHER in " ".join(call("merge", recipe, "-o", merged, code=2).err.split())
    assert not merged.exists()
    recipe.write_text(recipe.read_text().replace(FORMER_DRAWS, DRAWS))
    call("merge", recipe, "-o", merged, code=0)


def test_a_merged_file_is_not_made_again_as_another(call: Call, tmp_path: Path) -> None:
    recipe, merged, former_file = tmp_path / "r.yaml", tmp_path / "merged.safetensors", tmp_path / "former.safetensors"
    models = str(DEMO)
    parents = [str(DEMO / name) for name in ("foods.safetensors", "animals.safetensors")]
    recipe.write_text(yaml.safe_dump({"parents": parents, "method": "della", "values": {"strength": 0.5}}))
    call("merge", recipe, "-o", merged, code=0)
    with safe_open(merged, "pt") as file:
        metadata = dict(file.metadata())
    call("merge", merged, "-o", tmp_path / "again.safetensors", "--models", models, code=0)
    metadata[RECIPE_FIELD] = json.dumps(without_draws(json.loads(metadata[RECIPE_FIELD])))
    save_file(load_file(merged), former_file, metadata)
    refused = call("merge", former_file, "-o", tmp_path / "other.safetensors", "--models", models, code=2)
    assert OTHER in " ".join(refused.err.split())
    assert not (tmp_path / "other.safetensors").exists()
    assert f"draws: {FORMER_DRAWS}" in call("merge", former_file, "--show", code=0).out
