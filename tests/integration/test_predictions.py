"""What parents predict, from their files to the plan that people see and the file that is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import yaml
from demo_study import DEMO, short_spec
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimizer.cli.common import console
from optimizer.cli.planning import print_plan
from optimizer.errors import OptimizerError, ParentsDifferError, RenderError
from optimizer.rendering.prediction import Prediction, agreed_prediction
from optimizer.setup import Plan, make_plan
from studies.spec import parse_spec

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
