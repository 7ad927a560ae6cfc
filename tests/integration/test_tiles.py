"""Images decoded in tiles: other pixels, the same in every trial and in the proof of the export, from less memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from demo_study import DEMO, SMALL, ShortStudy, begin
from diffusers import AutoencoderKL

from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.outcome.export import Watch, deliver, render_file
from optimizer.rendering.render import Renderer
from optimizer.rendering.tiles import TILE, is_tiled
from optimizer.runtime.setup import build_renderer
from studies.records import stored_trials
from studies.spec.rendering import RenderSettings
from studies.spec.suite import SuitePrompt, SuiteSettings

CPU = torch.device("cpu")
CELLS = TILE // 8
KEPT = TILE * 3 // 4  # pixels of a tile that its neighbours do not touch, from its upper left corner
LARGE = {**SMALL["suite"], "seeds": [1], "sizes": [[576, 64]]}


def renderer(*, tiled: bool, size: tuple[int, int] = (576, 64)) -> Renderer:
    suite = SuiteSettings(prompts=(SuitePrompt(prompt="a fox"),), sizes=(size,), steps=1)
    ingredients = Ingredients(Parents.of([Checkpoint.open(DEMO / "animals.safetensors")]))
    return build_renderer(ingredients, suite, RenderSettings(vae_tiling=tiled), CPU, None)[1]


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return renderer(tiled=True).models.vae


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    """Parents, decoded in tiles."""
    short = begin(tmp_path_factory.mktemp("tiles"), {**SMALL, "suite": LARGE, "render": {"vae_tiling": True}})
    short.run(stop_after=2)
    return short


@torch.inference_mode()
def test_the_first_tile_is_decoded_as_if_it_were_the_image(vae: AutoencoderKL) -> None:
    latents = torch.randn(1, vae.config.latent_channels, CELLS + 8, 16, generator=torch.Generator().manual_seed(0))
    image, tile = vae.decode(latents).sample, vae.decode(latents[:, :, :CELLS]).sample
    assert image.shape[-2:] == ((CELLS + 8) * 8, 128)
    assert torch.equal(image[:, :, :KEPT], tile[:, :, :KEPT])
    assert not torch.equal(image[:, :, KEPT:TILE], tile[:, :, KEPT:TILE])  # blended with the second


def test_images_of_one_tile_keep_their_pixels_and_larger_ones_do_not() -> None:
    for size, tiled in {(TILE, 64): False, (TILE + 64, 64): True}.items():
        one, other = (renderer(tiled=each, size=size).render().images[0] for each in (False, True))
        assert is_tiled(*size) is tiled
        assert torch.equal(one, other) is not tiled


def test_the_export_of_a_study_in_tiles_is_proven_in_tiles(short: ShortStudy, tmp_path: Path) -> None:
    trial = stored_trials.load_trials(short.records)[0]
    target = tmp_path / "merge.safetensors"
    watch = Watch(written=lambda _: None, compared=lambda _: None, rendered=lambda _: None)
    done = deliver(short.records, trial, short.runtime.plan, short.artifacts, target, overwrite=False, watch=watch)
    assert "identical, to the bit" in done.proof
    assert not done.difference
    whole = short.study.spec.render.model_copy(update={"vae_tiling": False})
    spec = short.study.spec.model_copy(update={"render": whole})
    (tiled,), (other,) = render_file(target, short.study), render_file(target, replace(short.study, spec=spec))
    assert not torch.equal(tiled, other)
