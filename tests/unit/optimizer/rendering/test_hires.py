"""Images of two passes: sizes, batches, what is enlarged and how, faults, and prompts that change in the second."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from live import CPU, lively, resident_of
from slow_cases import first_fast, slow_but
from small_files import small_parents
from torch import Tensor

from optimizer.rendering.enlarging import enlarged
from optimizer.rendering.largest_batches import LargestBatches
from optimizer.rendering.models import LiveModels, build_models
from optimizer.rendering.prompts.encoder import PromptEncoder
from optimizer.rendering.render import Renderer
from optimizer.rendering.sampling.sample import sample, sample_again
from search_spaces.blocks import Architecture
from studies.spec.hires import LATENT_UPSCALERS, UPSCALERS, UpscalerName
from studies.spec.samplers import SAMPLERS
from studies.spec.suite import SuiteSettings


@pytest.fixture(scope="module")
def models() -> LiveModels:
    return lively(build_models(resident_of(small_parents(Architecture.SD15)[:1], CPU)))


@pytest.fixture(scope="module")
def sdxl() -> LiveModels:
    return lively(build_models(resident_of(small_parents(Architecture.SDXL)[:1], CPU)))


def suite(hires: Any = None, prompts: Any = ("a cat",), **changes: Any) -> SuiteSettings:
    settings = {"prompts": prompts, "seeds": [1, 2], "sizes": [64], "steps": 3, "cfg": 4, "sampler": "euler"}
    return SuiteSettings.model_validate(settings | ({} if hires is None else {"hires": hires}) | changes)


def images(models: LiveModels, settings: SuiteSettings, **renderer: Any) -> tuple[Tensor, ...]:
    return Renderer(models, settings, **renderer).render().images


@pytest.mark.parametrize("upscaler", slow_but(UPSCALERS, "latent", "lanczos"))
def test_an_image_has_the_size_of_the_second_pass(models: LiveModels, upscaler: str) -> None:
    settings = suite({"scale": 2, "steps": 2, "denoise": 0.6, "upscaler": upscaler}, sizes=["64x128"])
    found = images(models, settings)
    assert [image.shape for image in found] == [(3, 256, 128)] * 2
    assert not torch.equal(*found)


def test_renders_are_both_passes_one_after_the_other(models: LiveModels) -> None:
    settings = suite({"scale": 2, "steps": 3, "denoise": 0.5, "upscaler": "lanczos"}, seeds=[3])
    (item,) = settings.items()
    encoder = PromptEncoder(models, settings)
    first, second = encoder.conditions([item])[0], encoder.second_conditions([item])[0]
    latents = enlarged(sample(models, settings, [item], [first], None), (128, 128), "lanczos", models.vae)
    latents = sample_again(models, settings, [item], [second], None, latents)
    with torch.inference_mode():
        pixels = models.vae.decode(latents / models.vae.config.scaling_factor).sample[0] / 2 + 0.5
    (image,) = images(models, settings)
    assert int((image.int() - (pixels.clamp(0, 1) * 255).round().int()).abs().max()) <= 1


@pytest.mark.slow
def test_prompts_with_and_without_it_stand_beside_each_other(models: LiveModels) -> None:
    both = images(models, suite(2, prompts=["a cat", {"prompt": "a dog", "hires": False}]))
    assert [image.shape[-1] for image in both] == [128, 128, 64, 64]
    for image, alone in zip(both[:2], images(models, suite(2)), strict=True):
        assert torch.equal(image, alone)
    for image, alone in zip(both[2:], images(models, suite(prompts=["a dog"])), strict=True):
        assert torch.equal(image, alone)


@pytest.mark.parametrize("upscaler", first_fast(1, ["latent", "lanczos"]))
def test_images_do_not_depend_on_the_batch(models: LiveModels, upscaler: str) -> None:
    settings = suite({"scale": 2, "upscaler": upscaler}, seeds=[1, 2, 3], sampler="euler_ancestral")
    together, alone = images(models, settings), images(models, settings, batch_size=1)
    for one, other in zip(together, alone, strict=True):
        assert float((one.int() - other.int()).abs().float().mean()) < 0.1


@pytest.mark.slow
def test_the_limit_of_a_device_is_that_of_the_large_image(models: LiveModels) -> None:
    limits = LargestBatches()
    limits.lower("unet", (128, 128), 2, "too large")
    done: list[int] = []
    Renderer(models, suite(2), largest_batches=limits).render(done.append)
    assert done == [1, 2]


@pytest.mark.parametrize(("scale", "side"), first_fast(1, [(1.3, 80), (1.5, 96), (1.15, 72)]))
def test_sizes_are_cut_to_whole_latents(models: LiveModels, sdxl: LiveModels, scale: float, side: int) -> None:
    for each in (models, sdxl):
        (image, _) = images(each, suite({"scale": scale, "upscaler": "lanczos"}))
        assert image.shape == (3, side, side)


SOME_SAMPLERS = [name for name in SAMPLERS if "_" not in name or name.endswith("a1111")]


@pytest.mark.parametrize("sampler", slow_but(SOME_SAMPLERS, "heun", "ddim_a1111"))
def test_samplers_make_a_second_pass(sampler: str, models: LiveModels) -> None:
    (image, _) = images(models, suite({"steps": 4, "denoise": 0.5}, sampler=sampler))
    assert image.shape == (3, 128, 128)


def test_a_broken_first_pass_is_a_fault_of_the_image(models: LiveModels) -> None:
    latents = torch.zeros(2, 4, 8, 8)
    latents[1] = torch.nan
    for upscaler in get_args(UpscalerName):
        found = enlarged(latents, (128, 128), upscaler, models.vae)
        assert bool(found[0].isfinite().all())
        assert not bool(found[1].isfinite().all())


class TestEnlarging:
    @pytest.mark.parametrize("upscaler", LATENT_UPSCALERS)
    def test_even_latents_stay_even(self, upscaler: Any, models: LiveModels) -> None:
        found = enlarged(torch.full((1, 4, 8, 8), 0.7), (96, 128), upscaler, models.vae)
        torch.testing.assert_close(found, torch.full((1, 4, 16, 12), 0.7))

    def test_latents_are_interpolated_between_the_centres_of_cells(self, models: LiveModels) -> None:
        row = torch.arange(8.0)
        found = enlarged(row.expand(1, 4, 8, 8), (128, 64), "latent", models.vae)
        centres = (np.arange(16) + 0.5) / 2 - 0.5
        expected = np.interp(centres, np.arange(8), np.arange(8.0))
        torch.testing.assert_close(found[0, 0, 0], torch.tensor(expected, dtype=torch.float32))

    def test_pixels_are_repeated_by_nearest(self, models: LiveModels) -> None:
        """Every pixel of the picture, in whole grey levels, becomes four, and the VAE encodes them."""
        vae, scale = models.vae, models.vae.config.scaling_factor
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            levels = ((vae.decode(latents / scale).sample / 2 + 0.5).clamp(0, 1) * 255).floor()
            fours = levels.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            expected = vae.encode(fours / 255 * 2 - 1).latent_dist.mode() * scale
        torch.testing.assert_close(enlarged(latents, (128, 128), "nearest", vae), expected, rtol=1e-4, atol=1e-4)

    def test_latents_at_scale_1_stay(self, models: LiveModels) -> None:
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        assert torch.equal(enlarged(latents, (64, 64), "latent_nearest", models.vae), latents)


class TestPrompts:
    def same_images(self, models: LiveModels, one: str, other: str) -> bool:
        """Compare images of 4 steps, then 4 in the second pass."""
        settings = [suite({"steps": 4, "denoise": 0.6}, prompts=[text], steps=4, seeds=[1]) for text in (one, other)]
        return torch.equal(*(images(models, each)[0] for each in settings))

    @pytest.mark.slow
    def test_shares_above_1_and_late_steps_are_of_the_second_pass(self, models: LiveModels) -> None:
        assert self.same_images(models, "a [cat:dog:1.5]", "a [cat:dog:6]")
        assert not self.same_images(models, "a [cat:dog:1.5]", "a cat")
        assert not self.same_images(models, "a [cat:dog:1.5]", "a dog")

    @pytest.mark.slow
    def test_an_edit_of_the_first_pass_holds_in_the_second(self, models: LiveModels) -> None:
        assert not self.same_images(models, "a [cat:dog:0.5]", "a dog")

    @pytest.mark.slow
    def test_prompts_that_do_not_change_are_embedded_once(self, models: LiveModels) -> None:
        calls: list[int] = []
        encoder = models.text_encoders["text_encoder"]
        handle = encoder.register_forward_hook(lambda _module, inputs, _output: calls.append(len(inputs)))
        try:
            images(models, suite({"steps": 5}, prompts=["a cat", "a dog"]))
        finally:
            handle.remove()
        assert len(calls) == 1
