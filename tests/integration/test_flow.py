"""A small model that was trained by flow matching: what it draws, and how its merges and exports say what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import caller
from demo_study import DEMO, SMALL, begin, short_spec
from live import resident_of
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimizer.errors import OptimizerError, ParentsDifferError, RenderError
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.outcome.export import Watch, deliver
from optimizer.rendering.models import build_models
from optimizer.rendering.prediction import Prediction, agreed_prediction, prediction_of
from optimizer.rendering.render import Renderer
from optimizer.runtime.plan import Plan, make_plan
from scorers.config import ClipModelSettings
from scorers.networks.clip.embedder import load_embedder
from scorers.prompt_fit.clip_score import ClipScorer
from scorers.protocol import SuiteImages
from studies.records.stored_trials import load_trials
from studies.spec.study import parse_spec
from studies.spec.suite import SuiteSettings

TRAINED = Path(__file__).parents[1] / "data" / "flow.safetensors"  # what studies/demo/training/flow.py writes
FLOW = {"format": "pt", "modelspec.prediction_type": "flow"}
ANIMALS = ("lion", "panda", "fox", "penguin", "frog", "crab", "tiger", "koala")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The demo's `animals`, and the same after training by flow matching: marked, with a shift, and not marked."""
    folder = tmp_path_factory.mktemp("flow")
    tensors = load_file(DEMO / "animals.safetensors") | load_file(TRAINED)
    found = {"epsilon": str(DEMO / "animals.safetensors")}
    kinds = {"flow": FLOW, "shifted": FLOW | {"mergetune.shift": "6"}, "bigASP_v2.5": {"format": "pt"}}
    for name, metadata in kinds.items():
        path = folder / f"{name}.safetensors"
        save_file(tensors, path, metadata=metadata)
        found[name] = str(path)
    return found


def suite(**changes: Any) -> SuiteSettings:
    settings: dict[str, Any] = {
        "prompts": [f"an emoji of a {name}" for name in ANIMALS],
        "seeds": [1],
        "sizes": [64],
        "steps": 12,
        "cfg": 3,
        "sampler": "euler",
        "schedule": "normal",
        "program": "comfyui",
    }
    return SuiteSettings.model_validate(settings | changes)


def rendered(path: str, settings: SuiteSettings) -> tuple[Tensor, ...]:
    parents = [Checkpoint.open(Path(path))]
    models = build_models(resident_of(parents), agreed_prediction(parents, settings))
    return Renderer(models, settings).render().images


def reference_pictures() -> tuple[Tensor, ...]:
    """Return the pictures that the model learned: uint8 [3, 64, 64]."""
    found = []
    for name in ANIMALS:
        with Image.open(DEMO / "reference" / f"{name}.png") as file:
            data = torch.frombuffer(bytearray(file.convert("RGB").tobytes()), dtype=torch.uint8)
            found.append(data.view(file.height, file.width, 3).permute(2, 0, 1).contiguous())
    return tuple(found)


def clip_score(images: tuple[Tensor, ...]) -> float:
    """Return the mean score of a small CLIP that knows these pictures."""
    settings = ClipModelSettings(model="tiny-clip", pretrained=str(DEMO / "clip.safetensors"), config_dir=DEMO)
    prompts = tuple(f"an emoji of a {name}" for name in ANIMALS)
    scores = ClipScorer(load_embedder(settings)).score(SuiteImages(images=images, prompts=prompts))
    return float(scores.mean())


def distance(images: tuple[Tensor, ...]) -> float:
    """Return the mean difference in grey levels to what the model learned: the picture of that name, or its mirror."""
    drawn, learned = torch.stack(images).double(), torch.stack(reference_pictures()).double()
    both = [(drawn - each).abs().mean(dim=(1, 2, 3)) for each in (learned, learned.flip(-1))]
    return float(torch.minimum(*both).mean())


def test_a_model_of_a_flow_draws_what_it_learned_but_not_if_it_is_read_as_epsilon(files: Mapping[str, str]) -> None:
    learned, right = clip_score(reference_pictures()), rendered(files["flow"], suite())
    wrong = rendered(files["flow"], suite(prediction="epsilon"))
    assert clip_score(right) > 0.9 * learned
    assert clip_score(wrong) < 0.5 * learned
    assert distance(right) < 15
    assert distance(wrong) > 25


def test_a_model_of_noise_does_not_draw_well_if_it_is_read_as_a_flow(files: Mapping[str, str]) -> None:
    right, wrong = rendered(files["epsilon"], suite()), rendered(files["epsilon"], suite(prediction="flow"))
    assert clip_score(wrong) < 0.8 * clip_score(right)


@pytest.mark.parametrize(
    ("sampler", "schedule", "shift"),
    [
        ("euler_ancestral", "normal", 6),
        ("dpmpp_2m", "simple", 3),
        pytest.param("dpmpp_3m_sde", "beta", 1, marks=pytest.mark.slow),
        pytest.param("uni_pc", "karras", 3, marks=pytest.mark.slow),
    ],
)
def test_other_samplers_and_shifts_draw_the_same_things(
    sampler: str, schedule: str, shift: float, files: Mapping[str, str]
) -> None:
    images = rendered(files["flow"], suite(sampler=sampler, schedule=schedule, shift=shift))
    assert clip_score(images) > 0.9 * clip_score(reference_pictures())


# ------------------------------------------------------------------------------------------ plan and export


def plan_of(parents: list[str], **settings: Any) -> Plan:
    spec = short_spec(parents=parents, suite=short_spec()["suite"] | settings)
    return make_plan(parse_spec(yaml.safe_dump(spec), base_dir=DEMO))


def test_a_plan_takes_the_shift_that_a_parent_is_marked_with(files: Mapping[str, str]) -> None:
    assert plan_of([files["flow"], files["shifted"]]).prediction == Prediction(kind="flow", shift=6.0)


@pytest.mark.parametrize(
    ("parents", "settings", "error", "message"),
    [
        (["flow", "epsilon"], {}, ParentsDifferError, "predicts flow, B .* epsilon"),
        (["epsilon", "shifted"], {}, ParentsDifferError, "predicts epsilon, B .* flow"),
        (["epsilon", "bigASP_v2.5"], {"shift": 3}, RenderError, "needs a model that follows a flow"),
        (["flow", "shifted"], {"sampler": "lms_a1111"}, RenderError, "the sampler lms_a1111 is not defined"),
        (["flow", "shifted"], {"schedule": "align_your_steps"}, RenderError, "the schedule align_your_steps is not"),
        (["flow", "shifted"], {"sgm_noise_multiplier": True}, RenderError, "`sgm_noise_multiplier` does not apply"),
    ],
)
def test_what_does_not_fit_a_flow_is_refused_before_anything_is_loaded(
    parents: list[str],
    settings: Mapping[str, Any],
    error: type[OptimizerError],
    message: str,
    files: Mapping[str, str],
) -> None:
    with pytest.raises(error, match=message):
        plan_of([files[name] for name in parents], **settings)


def test_a_file_that_is_only_called_like_a_flow_gets_a_note_until_the_spec_says_what_it_is(
    files: Mapping[str, str],
) -> None:
    parents = [files["bigASP_v2.5"], files["epsilon"]]
    (note,) = [note for note in plan_of(parents).notes if "follows a flow" in note]
    assert note.startswith("bigASP_v2.5.safetensors is called like a model that follows a flow (bigASP_v2.5)")
    assert note.endswith("write `suite: {prediction: flow}`")
    assert not [note for note in plan_of(parents, prediction="epsilon").notes if "follows a flow" in note]


def test_the_export_of_a_flow_says_so_to_programs_and_people_and_is_made_again_to_the_bit(
    files: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SMALL["suite"] | {"prediction": "flow", "shift": 4.5, "sampler": "euler", "schedule": "normal"}
    parents = [files["shifted"], files["bigASP_v2.5"]]
    short = begin(tmp_path, {**SMALL, "parents": parents, "suite": settings})
    short.run(stop_after=1)
    (trial,) = load_trials(short.records)
    export = tmp_path / "export.safetensors"
    watch = Watch(written=lambda _: None, compared=lambda _: None, rendered=lambda _: None)
    plan = short.runtime.plan
    delivery = deliver(short.records, trial, plan, short.artifacts, export, overwrite=False, watch=watch)
    short.database.close()
    assert any("ModelSamplingSD3 with shift 4.5 " in note for note in delivery.file.notes)
    assert "identical, to the bit" in delivery.proof
    opened = Checkpoint.open(export)
    assert opened.metadata["modelspec.prediction_type"] == "flow"
    assert "ModelSamplingSD3 with shift 4.5 " in opened.metadata["modelspec.usage_hint"]
    assert prediction_of(opened) == Prediction(kind="flow", shift=4.5)
    named = [f"--parent=A={parents[0]}", f"--parent=B={parents[1]}"]
    call = caller(monkeypatch, capsys)
    again = call("merge", export, "-o", tmp_path / "again.safetensors", *named, code=0)
    assert "equal to export.safetensors, bit for bit" in again.out
    call("merge", export, "-o", tmp_path / "half.safetensors", "--dtype", "bf16", *named, code=0)
    assert prediction_of(Checkpoint.open(tmp_path / "half.safetensors")) == Prediction(kind="flow", shift=4.5)
