"""Components that take turns are, one after the other, what they are all at once."""

from __future__ import annotations

import pytest
import torch
from checkpoints import write_checkpoint
from live import weighted
from slow_cases import first_fast, slow_but

from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.placement import Placement
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.layout import Component
from optimizer.merging.files.parents import Parents
from optimizer.rendering.models import build_models, live_dtypes
from optimizer.rendering.render import Renderer
from search_spaces.blocks import Architecture
from studies.spec.suite import SuitePrompt, SuiteSettings

COMPONENTS: tuple[Component, ...] = ("unet", "vae", "text_encoder", "text_encoder_2")


# SDXL has every component.
@pytest.fixture(scope="module", params=first_fast(1, [Architecture.SDXL, Architecture.SD15]))
def parents(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Parents:
    folder = tmp_path_factory.mktemp(str(request.param))
    paths = [write_checkpoint(folder / f"{seed}.safetensors", request.param, seed) for seed in range(2)]
    return Parents.of([Checkpoint.open(path) for path in paths])


def model(
    parents: Parents, device: torch.device, *, in_turns: bool, placement: Placement = Placement.DEVICE
) -> ResidentModel:
    dtypes = live_dtypes(device, torch.float16)
    return ResidentModel(
        Ingredients(parents), device=device, live_dtypes=dtypes, placement=placement, in_turns=in_turns
    )


@pytest.mark.parametrize("placement", slow_but(Placement, Placement.DEVICE))
def test_each_has_the_bits_that_it_has_when_all_stay(
    parents: Parents, device: torch.device, placement: Placement
) -> None:
    whole, turns = (model(parents, device, in_turns=flag, placement=placement) for flag in (False, True))
    for ratio in (0.3, 0.7):
        recipe = weighted(whole, ratio)
        assert turns.merge(recipe) == whole.merge(recipe)
        for key, expected in whole.live_tensors().items():
            assert torch.equal(turns.live_tensor(key), expected), key


def test_only_those_in_use_have_memory(parents: Parents, device: torch.device) -> None:
    turns = model(parents, device, in_turns=True, placement=Placement.FILES)
    whole = model(parents, device, in_turns=False, placement=Placement.FILES).nbytes()
    sizes = []
    for component in COMPONENTS:
        turns.use(component)
        sizes.append(turns.nbytes())
    assert sum(sizes) == pytest.approx(whole, rel=0.01)
    assert max(sizes) < whole


def test_where_all_stay_using_one_changes_nothing(parents: Parents, device: torch.device) -> None:
    whole = model(parents, device, in_turns=False)
    before = whole.nbytes()
    whole.use("vae")
    assert whole.nbytes() == before


@pytest.mark.slow
def test_a_merge_that_is_broken_off_is_made_again_when_its_component_is_used(
    parents: Parents, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, turns = (model(parents, device, in_turns=flag) for flag in (False, True))
    recipe = weighted(whole, 0.4)
    whole.merge(recipe)
    turns.merge(recipe)
    with monkeypatch.context() as lacking:
        lacking.setattr("optimizer.merging.engine.resident.merge_flat", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            turns.use("unet")
    turns.use("unet")
    for name, expected in whole.parameters("unet"):
        assert torch.equal(dict(turns.parameters("unet"))[name], expected), name


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_what_is_not_finite_is_found_in_every_component(parents: Parents, device: torch.device) -> None:
    turns = model(parents, device, in_turns=True)
    assert turns.broken_keys() == ()


def test_renders_are_the_same(parents: Parents, device: torch.device) -> None:
    """Two sizes and small batches: all of a stage is denoised before any of it is decoded."""
    suite = SuiteSettings(
        prompts=(SuitePrompt(prompt="a lion"), SuitePrompt(prompt="a fox")),
        seeds=(1, 2),
        sizes=((64, 64), (128, 64)),
        steps=2,
        clip_skip=2,
    )
    pixels = []
    for in_turns in (False, True):
        resident = model(parents, device, in_turns=in_turns)
        renderer = Renderer(build_models(resident), suite, batch_size=3)
        counts: list[int] = []
        with torch.inference_mode():
            for ratio in (0.2, 0.6):
                resident.merge(weighted(resident, ratio))
                renderer.text_changed()
                pixels.append(torch.cat([row.flatten() for row in renderer.render(counts.append).images]))
        assert counts == [3, 4, 7, 8] * 2
    assert torch.equal(pixels[0], pixels[2])
    assert torch.equal(pixels[1], pixels[3])
