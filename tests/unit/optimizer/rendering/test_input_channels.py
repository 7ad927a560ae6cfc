"""Inpainting and instruction models: what their U-Nets are given beside the noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from decoded import float_pixels
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline
from embedded_prompts import embedded
from live import CPU, resident_of, weighted
from marked_files import COSXL, write_marked
from slow_cases import first_fast
from torch import Tensor, nn

from optimizer.errors import RenderError
from optimizer.merging.engine.resident import ResidentModel
from optimizer.rendering.input_channels import unet_kind
from optimizer.rendering.models import LiveModels, build_models
from optimizer.rendering.prediction import prediction_of
from optimizer.rendering.render import Renderer
from studies.spec.suite import SuiteSettings

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

INPAINTING, INSTRUCTION = 9, 8


def suite(**changes: Any) -> SuiteSettings:
    settings: dict[str, Any] = {
        "prompts": ["a red apple", {"prompt": "a bird", "negative": "blurry"}],
        "seeds": (1, 2),
        "sizes": (64,),
        "steps": 2,
        "cfg": 4.0,
        "sampler": "ddim_comfyui",
        "sgm_noise_multiplier": True,  # as diffusers
    }
    return SuiteSettings.model_validate(settings | changes)


def resident(
    folder: Path, channels: int, seeds: tuple[int, ...] = (0,), device: torch.device = CPU, **options: Any
) -> ResidentModel:
    parents = [write_marked(folder / f"{seed}.safetensors", channels=channels, seed=seed, **options) for seed in seeds]
    return resident_of(parents, device)


@contextmanager
def inputs(models: LiveModels) -> Iterator[list[Tensor]]:
    """Everything the U-Net's first convolution is given, on the CPU."""
    seen: list[Tensor] = []

    def listen(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].to("cpu", copy=True))

    handle = models.unet.conv_in.register_forward_pre_hook(listen)
    try:
        yield seen
    finally:
        handle.remove()


def grey_latents(models: LiveModels, height: int, width: int) -> Tensor:
    """The mean of what the VAE makes of mid-grey, by its layers: [1, 4, h, w] on the CPU."""
    with torch.no_grad():
        moments: Tensor = models.vae.quant_conv(
            models.vae.encoder(torch.zeros(1, 3, height, width, device=models.vae.device))
        )
    return moments[:, :4].cpu() * 0.18215


class TestKinds:
    @pytest.mark.parametrize(("channels", "kind"), [(4, "text"), (9, "inpainting"), (8, "instruction")])
    def test_are_told_by_the_input_channels(self, channels: int, kind: str) -> None:
        assert unet_kind(channels, 4) == kind

    @pytest.mark.parametrize("channels", [1, 3, 5, 7, 10, 13])
    def test_others_are_refused(self, channels: int) -> None:
        with pytest.raises(RenderError, match=rf"takes {channels} input channels, .* 9 \(inpainting\), 8 \(instr"):
            unet_kind(channels, 4)


class TestInpainting:
    @torch.no_grad()
    def test_images_are_those_of_diffusers_with_all_of_a_grey_image_masked(
        self, device: torch.device, tmp_path: Path
    ) -> None:
        models, settings = build_models(resident(tmp_path, INPAINTING)), suite()
        ours = float_pixels(Renderer(build_models(resident(tmp_path, INPAINTING, device=device)), settings))
        items = settings.items()
        found = embedded(models, (text for item in items for text in (item.prompt, item.negative)))
        pipeline = StableDiffusionInpaintPipeline(
            vae=models.vae,
            text_encoder=models.text_encoders["text_encoder"],
            tokenizer=None,
            unet=models.unet,
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=True,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        noise = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(item.seed)) for item in items]
        result = pipeline(
            prompt_embeds=torch.stack([found[item.prompt].tokens for item in items]),
            negative_prompt_embeds=torch.stack([found[item.negative].tokens for item in items]),
            image=torch.zeros(len(items), 3, 64, 64),
            mask_image=torch.ones(len(items), 1, 64, 64),
            masked_image_latents=grey_latents(models, 64, 64).expand(len(items), -1, -1, -1),
            strength=1.0,
            latents=torch.stack(noise),
            num_inference_steps=settings.steps,
            guidance_scale=settings.cfg,
            height=64,
            width=64,
            output_type="pt",
        )
        assert len({float(row.mean()) for row in ours}) == len(items)
        torch.testing.assert_close(torch.stack(ours), result.images, rtol=0, atol=2e-4)

    def test_the_unet_is_given_noise_mask_and_grey_in_that_order(self, device: torch.device, tmp_path: Path) -> None:
        models = build_models(resident(tmp_path, INPAINTING, device=device))
        with inputs(models) as seen:
            Renderer(models, suite(sizes=(64, (128, 64)), seeds=(7,), prompts=["x"])).render()
        assert [tuple(row.shape) for row in seen] == [(2, 9, 8, 8)] * 2 + [(2, 9, 8, 16)] * 2  # with and without prompt
        for index, (height, width) in ((0, (64, 64)), (2, (64, 128))):
            noise = torch.randn(
                (4, height // 8, width // 8), generator=torch.Generator().manual_seed(7)
            )  # an ordinary model's
            grey = grey_latents(models, height, width)
            torch.testing.assert_close(seen[index][:, :4], noise.expand(2, -1, -1, -1))
            for row in seen[index : index + 2]:
                assert row[:, 4].eq(1).all()
                torch.testing.assert_close(row[:, 5:], grey.expand(2, -1, -1, -1))
        assert not torch.equal(seen[0][:, :4], seen[1][:, :4])

    def test_the_grey_follows_the_merged_vae(self, device: torch.device, tmp_path: Path) -> None:
        merged = resident(tmp_path, INPAINTING, seeds=(0, 1), device=device)
        models = build_models(merged)
        renderer = Renderer(models, suite(seeds=(1,), prompts=["x"]))
        greys = []
        for ratio in (0.0, 0.5):
            merged.merge(weighted(merged, {"vae": ratio}))
            with inputs(models) as seen:
                renderer.render()
            torch.testing.assert_close(seen[0][:1, 5:], grey_latents(models, 64, 64))
            greys.append(seen[0][:1, 5:])
        assert (greys[0] - greys[1]).abs().max() > 1e-3

    @pytest.mark.parametrize("sampler", first_fast(1, ["euler_ancestral", "ddim_comfyui"]))
    def test_images_do_not_depend_on_the_batch_or_on_another_renderer(
        self, device: torch.device, sampler: str, tmp_path: Path
    ) -> None:
        models, settings = build_models(resident(tmp_path, INPAINTING, device=device)), suite(sampler=sampler)
        first, second = Renderer(models, settings), Renderer(models, settings, batch_size=1)
        one, two, again = (float_pixels(row) for row in (first, second, first))
        torch.testing.assert_close(torch.stack(one), torch.stack(two), rtol=0, atol=2e-4)
        assert all(torch.equal(pixels, later) for pixels, later in zip(one, again, strict=True))


class TestInstruction:
    def test_the_image_is_zeros(self, device: torch.device, tmp_path: Path) -> None:
        models = build_models(resident(tmp_path, INSTRUCTION, device=device))
        with inputs(models) as seen:
            found = float_pixels(Renderer(models, suite()))
        assert {tuple(row.shape) for row in seen} == {(8, 8, 8, 8)}  # four items, with and without the prompt
        assert all(row[:, 4:].eq(0).all() and row[:, :4].std() > 0.1 for row in seen)
        assert all(pixels.isfinite().all() and pixels.std() > 0 for pixels in found)

    def test_images_are_those_of_a_model_whose_weights_for_the_image_are_not_there(
        self, device: torch.device, tmp_path: Path
    ) -> None:
        wide = build_models(resident(tmp_path, INSTRUCTION, device=device))
        plain = build_models(resident(tmp_path, 4, device=device))
        plain.unet.conv_in.weight.data.copy_(wide.unet.conv_in.weight[:, :4])
        ours, theirs = (float_pixels(Renderer(models, suite())) for models in (wide, plain))
        torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=0, atol=2e-4)


@pytest.mark.parametrize("channels", first_fast(1, [INPAINTING, INSTRUCTION]))
def test_sdxl_and_edm_models_of_both_kinds_render(device: torch.device, channels: int, tmp_path: Path) -> None:
    """CosXL Edit is an EDM model that takes an image."""
    checkpoint = write_marked(tmp_path / "a.safetensors", COSXL, architecture="sdxl", channels=channels)
    models = build_models(resident_of([checkpoint], device), prediction_of(checkpoint))
    found = float_pixels(Renderer(models, suite(sampler="euler")))
    assert all(pixels.isfinite().all() and pixels.std() > 0 for pixels in found)
