"""Ratios and LoRA weights that no search gains from: a spec with them is refused, a study that has begun opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from demo_study import SMALL, short_spec
from safetensors.torch import save_file

from optimizer.runtime.plan import make_plan
from search_spaces.slots import beyond_usual
from studies.errors import RecipeError, SpecError
from studies.spec.study import StudySpec, parse_spec


@pytest.fixture
def style(tmp_path: Path) -> Path:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    width = 96  # of the demo's checkpoints
    factors = {f"{name}.lora_up.weight": torch.ones(width, 1), f"{name}.lora_down.weight": torch.ones(1, width)}
    save_file(factors, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


def spec_with(folder: Path, **changes: Any) -> StudySpec:
    return parse_spec(yaml.safe_dump(short_spec(**SMALL, **changes)), base_dir=folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"frozen": {"OUT*": 50}}}, "OUT00, B is held at 50, far beyond -1 to 2: did you mean 0.5? (and 11"),
        ({"space": {"bounds": {"M00": [0, 100]}}}, "M00, B is searched to 100, far beyond -1 to 2: did you mean 1?"),
        ({"space": {"bounds": {"*": [-5, 1]}}}, "far beyond -1 to 2: did you mean -0.5?"),
        ({"method": "ties", "space": {"frozen": {"IN04.strength": 8}}}, "did you mean 0.8?"),
        ({"probes": {"uniform": [0.5, 75]}}, "probes: uniform 75 is far beyond -1 to 2: did you mean 0.75?"),
        ({"probes": {"uniform": [1e9]}}, "far beyond -1 to 2"),
    ],
)
def test_a_spec_with_them_is_refused_and_a_begun_study_opens(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    spec = spec_with(tmp_path, **changes)
    with pytest.raises(SpecError) as raised:
        make_plan(spec)
    assert said in str(raised.value)
    assert make_plan(spec, begun=True).spec.study == "short"


@pytest.mark.parametrize("weight", [80, [0, 80], {"bounds": [-30, 1], "granularity": "blocks"}])
def test_so_are_weights_of_loras(style: Path, weight: Any) -> None:
    loras = {"style": {"path": str(style), "weight": weight}}
    with pytest.raises(SpecError, match=r"style is .* far beyond -3 to 3: did you mean -?0\.[38]"):
        make_plan(spec_with(style.parent, loras=loras))


@pytest.mark.parametrize(
    "numbers", [{"ratio": 50}, {"ratio": ",".join(["0.1"] * 24 + ["50"])}, {"values": {"B": {"IN*": 50}}}]
)
def test_so_are_recipes_among_the_probes(tmp_path: Path, numbers: dict[str, Any]) -> None:
    recipe = {"parents": short_spec()["parents"], **numbers}
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=r"recipe best.yaml: .* is 50 in .*: did you mean 0.5\?"):
        make_plan(spec_with(tmp_path, probes={"recipes": ["best.yaml"]}))


@pytest.mark.parametrize(
    ("kind", "value"), [("ratio", -1.0), ("ratio", 2.0), ("lora", -3.0), ("lora", 3.0), ("parameter", 50.0)]
)
def test_what_merges_use_is_usual(kind: str, value: float) -> None:
    assert beyond_usual(kind, value) is None


@pytest.mark.parametrize("value", [float("1e30"), 777.0, -4000.0])
def test_nothing_is_guessed_where_no_slip_gives_it(value: float) -> None:
    assert beyond_usual("ratio", value) == "far beyond -1 to 2"
