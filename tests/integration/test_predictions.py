"""What parents predict, from their files to the plan that people see and the file that is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import caller
from demo_study import DEMO, SMALL, begin, short_spec
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimizer.cli.common import console
from optimizer.cli.views.planning import print_plan
from optimizer.errors import ExportError, OptimizerError, ParentsDifferError, RenderError
from optimizer.merging.engine.export import write_merge
from optimizer.merging.engine.metadata import MARKERS_FIELD
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.outcome.export import Watch, deliver, marker_metadata
from optimizer.rendering.prediction import Prediction, agreed_prediction, prediction_of
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import Plan, make_plan, recipe_parents
from studies.recipe.recipe import Recipe
from studies.records.stored_trials import load_trials
from studies.spec.study import parse_spec

ZERO_SNR = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The demo's parents, plain and marked."""
    folder = tmp_path_factory.mktemp("marked")
    found: dict[str, str] = {}
    for name in ("animals", "foods"):
        tensors: dict[str, Tensor] = load_file(DEMO / f"{name}.safetensors")
        save_file(tensors | ZERO_SNR, folder / f"{name}.safetensors")
        found |= {name: str(DEMO / f"{name}.safetensors"), f"{name} of v": str(folder / f"{name}.safetensors")}
    return found


def plan_of(parents: list[str], **suite: Any) -> Plan:
    spec = short_spec(parents=parents, suite=short_spec()["suite"] | suite)
    return make_plan(parse_spec(yaml.safe_dump(spec), base_dir=DEMO))


def test_the_plan_knows_and_tells_what_marked_parents_predict(marked: Mapping[str, str]) -> None:
    plan = plan_of([marked["animals of v"], marked["foods of v"]], scheduler="euler")
    assert plan.prediction == Prediction(kind="v", zero_snr=True)
    with console.capture() as shown:
        print_plan(plan, torch.device("cpu"))
    (row,) = [line for line in shown.get().splitlines() if "prediction" in line]
    assert "v_prediction, zero terminal SNR" in row


def test_the_plan_is_silent_about_models_that_predict_noise(marked: Mapping[str, str]) -> None:
    with console.capture() as shown:
        print_plan(plan_of([marked["animals"], marked["foods"]]), torch.device("cpu"))
    assert "prediction" not in shown.get()


@pytest.mark.parametrize(
    ("parents", "suite", "error", "message"),
    [
        (["animals", "foods of v"], {}, ParentsDifferError, "parents must predict the same"),
        (["animals of v", "foods of v"], {"scheduler": "heun"}, RenderError, "heun cannot render .* zero terminal SNR"),
        (["animals", "foods"], {"zero_snr": True}, RenderError, "needs v_prediction"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    parents: list[str],
    suite: Mapping[str, Any],
    error: type[OptimizerError],
    message: str,
    marked: Mapping[str, str],
) -> None:
    with pytest.raises(error, match=message):
        plan_of([marked[name] for name in parents], **suite)


def test_one_file_alone_is_taken_for_what_the_study_rendered(marked: Mapping[str, str]) -> None:
    """An export is opened like any checkpoint, with parent A's markers or without, to be rendered once more."""
    said = plan_of([marked["animals"], marked["foods"]], prediction="v_prediction", zero_snr=True)
    read = plan_of([marked["animals of v"], marked["foods of v"]])
    for plan in (said, read):
        alone = agreed_prediction(plan.checkpoints[:1], plan.spec.suite)
        assert alone == plan.prediction == Prediction(kind="v", zero_snr=True)


# ------------------------------------------------------------------------------------------ export


@pytest.mark.parametrize(
    ("parents", "suite", "expected"),
    [
        (["animals", "foods"], {"prediction": "v_prediction", "zero_snr": True}, ["v_pred", "ztsnr"]),
        (["animals", "foods"], {"prediction": "v_prediction"}, ["v_pred"]),
        (["animals", "foods of v"], {"prediction": "v_prediction", "zero_snr": True}, ["v_pred", "ztsnr"]),
        (["animals of v", "foods"], {"prediction": "v_prediction", "zero_snr": False}, ["v_pred"]),
        (["animals of v", "foods"], {"prediction": "epsilon"}, []),
        (["animals of v", "foods of v"], {}, ["v_pred", "ztsnr"]),
        (["animals", "foods"], {}, []),
    ],
)
def test_an_export_carries_the_markers_of_what_was_rendered(
    parents: list[str], suite: Mapping[str, Any], expected: list[str], marked: Mapping[str, str], tmp_path: Path
) -> None:
    plan = plan_of([marked[name] for name in parents], **suite, scheduler="euler")
    recipe = Recipe(architecture="sd15", parents=recipe_parents(hash_parents(plan)))
    path = tmp_path / "export.safetensors"
    write_merge(path, recipe, plan.ingredients, marker_metadata(plan), torch.device("cpu"))
    opened = Checkpoint.open(path)
    assert sorted(opened.tensors.keys() & {"v_pred", "ztsnr"}) == expected
    assert prediction_of(opened) == plan.prediction
    weights = load_file(marked["animals"])
    assert all(torch.equal(tensor, weights[key]) for key, tensor in load_file(path).items() if key not in expected)


def test_a_studys_export_says_what_it_predicts_and_is_made_again_to_the_bit(
    marked: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = SMALL["suite"] | {"prediction": "v_prediction", "zero_snr": True, "scheduler": "euler"}
    short = begin(tmp_path, {**SMALL, "parents": [marked["animals"], marked["foods of v"]], "suite": suite})
    short.run(stop_after=1)
    (trial,) = load_trials(short.records)
    export = tmp_path / "export.safetensors"
    watch = Watch(written=lambda _: None, compared=lambda _: None, rendered=lambda _: None)
    deliver(short.records, trial, short.runtime.plan, short.artifacts, export, overwrite=False, watch=watch)
    short.database.close()
    opened = Checkpoint.open(export)
    assert opened.metadata["modelspec.prediction_type"] == "v"
    assert prediction_of(opened) == Prediction(kind="v", zero_snr=True)
    call, parents = (
        caller(monkeypatch, capsys),
        [f"--parent=A={marked['animals']}", f"--parent=B={marked['foods of v']}"],
    )
    again = call("merge", export, "-o", tmp_path / "again.safetensors", *parents, code=0)
    assert "equal to export.safetensors, bit for bit" in again.out
    call("merge", export, "-o", tmp_path / "half.safetensors", "--dtype", "bf16", *parents, code=0)
    assert prediction_of(Checkpoint.open(tmp_path / "half.safetensors")) == Prediction(kind="v", zero_snr=True)


def test_markers_that_no_model_has_are_not_written(marked: Mapping[str, str], tmp_path: Path) -> None:
    plan = plan_of([marked["animals"], marked["foods"]])
    recipe = Recipe(architecture="sd15", parents=recipe_parents(hash_parents(plan)))
    with pytest.raises(ExportError, match=r"mergetune.markers is 'v_pred x': expected some of v_pred, ztsnr"):
        write_merge(tmp_path / "x", recipe, plan.ingredients, {MARKERS_FIELD: "v_pred x"}, torch.device("cpu"))
    assert not (tmp_path / "x").exists()
