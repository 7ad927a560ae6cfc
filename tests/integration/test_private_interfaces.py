"""What we use of Optuna and optuna-dashboard that is theirs alone, named: another version may change it.

Where one of these fails, look at what uses it before the upper bound in pyproject.toml is raised.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.artifacts import ArtifactMeta
from optuna.storages import RDBStorage
from optuna.trial import Trial

from studies.records.optuna_tables import FIGURE, NOTE_LETTERS

ROOT = Path(__file__).parents[2]
TABLES = {  # every column of those that studies/records/optuna_tables.py uses; * marks one that may not be NULL
    "trials": {
        "trial_id*", "number", "study_id", "state*", "datetime_start", "datetime_complete",
    },
    "trial_params": {"param_id*", "trial_id", "param_name", "param_value", "distribution_json"},
    "studies": {"study_id*", "study_name*"},
    "trial_user_attributes": {"trial_user_attribute_id*", "trial_id", "key", "value_json"},
    "study_user_attributes": {"study_user_attribute_id*", "study_id", "key", "value_json"},
    "study_system_attributes": {"study_system_attribute_id*", "study_id", "key", "value_json"},
}  # fmt: skip
CALLS = {  # what is called -> the names of its arguments
    "optuna_dashboard._app:get_pareto_front_trials": ["trials", "directions"],  # optimizer/dashboard/pareto_front.py
    "optuna_dashboard._app:get_plotly_graph_objects": ["system_attrs"],  # optimizer/dashboard/figure_order.py
    "optuna.storages._cached_storage:_CachedStorage.__init__": ["self", "backend"],  # optimizer/dashboard/storage.py
    "optuna.storages._cached_storage:_CachedStorage.get_best_trial": ["self", "study_id"],
    "optuna.trial:Trial.__init__": ["self", "study", "trial_id"],
    "optuna.storages:RDBStorage.create_new_trial": ["self", "study_id", "template_trial"],
    "optuna.storages:RDBStorage.get_study_id_from_name": ["self", "study_name"],
    "optuna.storages:RDBStorage.get_trial_id_from_study_id_trial_number": ["self", "study_id", "trial_number"],
    "optuna.storages:RDBStorage.set_trial_state_values": ["self", "trial_id", "state", "values"],
    "optuna.storages:RDBStorage.set_trial_system_attr": ["self", "trial_id", "key", "value"],
    "optuna.storages:RDBStorage.set_trial_user_attr": ["self", "trial_id", "key", "value"],
}
VALUES = {  # what is read, or written as they would -> what it is
    "optuna.artifacts._upload:ARTIFACTS_ATTR_PREFIX": "artifacts:",  # studies/files/artifacts.py
    "optuna_dashboard.artifact._backend:ARTIFACTS_ATTR_PREFIX": "artifacts:",
    "optuna_dashboard._custom_plot_data:SYSTEM_ATTR_PLOT_DATA": FIGURE,
    "optuna_dashboard._custom_plot_data:SYSTEM_ATTR_MAX_LENGTH": NOTE_LETTERS,
    "optuna_dashboard._note:SYSTEM_ATTR_MAX_LENGTH": NOTE_LETTERS,  # studies/records/optuna_tables.py
}
NOTE_KEYS = {"note_ver_key": "dashboard:7:note_ver", "note_str_key_prefix": "dashboard:7:note_str:"}  # of trial 7


def found(name: str) -> Any:
    """What `module:dotted.name` is."""
    module, _, path = name.partition(":")
    thing: Any = importlib.import_module(module)
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> optuna.Study:
    file = tmp_path_factory.mktemp("private") / "study.db"
    return optuna.create_study(storage=RDBStorage(f"sqlite:///{file}"))


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_the_columns_that_we_know(study: optuna.Study, table: str) -> None:
    storage = study._storage._backend  # type: ignore[attr-defined]
    columns = sa.inspect(storage.engine).get_columns(table)
    assert {column["name"] + ("" if column["nullable"] else "*") for column in columns} == TABLES[table]


def test_a_running_trials_state_is_stored_as_its_name(study: optuna.Study) -> None:
    study.ask()
    with study._storage._backend.engine.connect() as connection:  # type: ignore[attr-defined]
        assert connection.execute(sa.text("SELECT state FROM trials")).scalar() == "RUNNING"


@pytest.mark.parametrize("name", CALLS)
def test_a_function_takes_the_arguments_that_we_give(name: str) -> None:
    assert list(inspect.signature(found(name)).parameters) == CALLS[name]


@pytest.mark.parametrize("name", VALUES)
def test_a_constant_is_what_we_know(name: str) -> None:
    assert found(name) == VALUES[name]


@pytest.mark.parametrize("name", NOTE_KEYS)
def test_a_note_of_the_dashboard_has_the_keys_that_we_write(name: str) -> None:
    assert found(f"optuna_dashboard._note:{name}")(7) == NOTE_KEYS[name]


def test_an_artifact_has_the_fields_that_we_write() -> None:
    assert [field.name for field in dataclasses.fields(ArtifactMeta)] == [
        "artifact_id",
        "filename",
        "mimetype",
        "encoding",
    ]


def test_a_trial_and_a_study_have_the_private_names_that_we_read(study: optuna.Study) -> None:
    trial = Trial(study, study.ask()._trial_id)
    assert (trial.storage, trial.study) == (study._storage, study)
    assert study._storage.get_study_id_from_name(study.study_name) == study._study_id
    assert trial.relative_params == {}


@pytest.mark.parametrize("package", ["optuna", "optuna-dashboard"])
def test_a_package_whose_private_names_we_use_has_an_upper_bound(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [line for line in project["dependencies"] if re.match(rf"{package}\b(?!-)", line)]
    bound = re.search(r"<(\d+)\.(\d+)$", wanted)
    assert bound is not None, f"{wanted} has no bound below the next minor version"
    installed = tuple(map(int, version(package).split(".")[:2]))
    assert installed < (int(bound[1]), int(bound[2]))
