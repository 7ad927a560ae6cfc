"""Perturbed-attention guidance against diffusers' pipelines, and rescaled guidance against the paper in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPAGPipeline, StableDiffusionXLPAGPipeline
from diffusers_pipelines import TRAINED_NOISE
from live import CPU, lively, resident_of
from slow_cases import first_fast
from small_files import small_parents
from torch import Tensor

from optimizer.errors import RenderError
from optimizer.rendering import unet as unet_module
from optimizer.rendering.guidance import check_perturbed, rescaled, self_attentions
from optimizer.rendering.models import LiveModels, build_models
from optimizer.rendering.prompts.encoder import Conditions, PromptEncoder
from optimizer.rendering.sampling.sample import sample
from optimizer.rendering.unet import GraphedUnet, LaunchedUnet
from search_spaces.blocks import Architecture
from studies.spec.suite import SuiteSettings

SEED, STEPS = 5, 4
PIXELS = 128  # at 64 the middle of SD1.5 sees one cell, which has nothing else to attend to


@pytest.fixture(scope="module")
def models() -> Mapping[Architecture, LiveModels]:
    return {name: lively(build_models(resident_of(small_parents(name)[:1], CPU))) for name in Architecture}


def suite(**changes: Any) -> SuiteSettings:
    row = {"prompt": "a cat", "negative": "blurry", "seeds": [SEED], "sizes": [PIXELS]}
    settings = {"prompts": [row], "steps": STEPS, "cfg": 4.0, "sampler": "euler", "schedule": "normal"}
    return SuiteSettings.model_validate(settings | changes)


def texts(models: LiveModels, settings: SuiteSettings) -> Conditions:
    return PromptEncoder(models, settings).conditions(settings.items())[0]


def latents(models: LiveModels, settings: SuiteSettings) -> Tensor:
    return sample(models, settings, settings.items(), [texts(models, settings)], None)


def of_diffusers(models: LiveModels, settings: SuiteSettings, layers: list[str]) -> Tensor:
    """The latents of diffusers' pipeline with the same weights, texts and noise."""
    parts: dict[str, Any] = {
        "vae": models.vae,
        "unet": copy.deepcopy(models.unet),
        "tokenizer": None,
        "text_encoder": models.text_encoders["text_encoder"],
        "scheduler": EulerDiscreteScheduler(**TRAINED_NOISE, timestep_spacing="linspace", steps_offset=1),
        "feature_extractor": None,
        "pag_applied_layers": layers,
    }
    text = texts(models, settings)
    positive, negative = text.positive[0].embedding, text.negative[0].embedding
    given = {"prompt_embeds": positive.tokens[None], "negative_prompt_embeds": negative.tokens[None]}
    if positive.pooled is not None and negative.pooled is not None:
        given["pooled_prompt_embeds"] = positive.pooled[None]
        given["negative_pooled_prompt_embeds"] = negative.pooled[None]
        second = models.text_encoders["text_encoder_2"]
        pipeline = StableDiffusionXLPAGPipeline(**parts, text_encoder_2=second, tokenizer_2=None, add_watermarker=False)
    else:
        pipeline = StableDiffusionPAGPipeline(**parts, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    found: Tensor = pipeline(
        **given,
        latents=torch.randn((1, 4, PIXELS // 8, PIXELS // 8), generator=torch.Generator().manual_seed(SEED)),
        num_inference_steps=STEPS,
        guidance_scale=settings.cfg,
        pag_scale=settings.pag.scale,
        height=PIXELS,
        width=PIXELS,
        output_type="latent",
    ).images
    return found


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("architecture", list(Architecture))
@pytest.mark.parametrize(("cfg", "scale"), first_fast(1, [(4.0, 3.0), (1.0, 2.5)]))
def test_latents_are_those_of_diffusers(
    architecture: Architecture, cfg: float, scale: float, models: Mapping[Architecture, LiveModels]
) -> None:
    live, settings = models[architecture], suite(cfg=cfg, pag={"scale": scale})
    found = latents(live, settings)
    assert distance(found, of_diffusers(live, settings, ["mid"])) < 1e-5
    assert distance(found, latents(live, suite(cfg=cfg))) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("layers", [["up_blocks.1"], ["down", "mid"], ["up_blocks.1.attentions.0", "mid_block"]])
def test_other_layers_are_those_of_diffusers(layers: list[str], models: Mapping[Architecture, LiveModels]) -> None:
    live, settings = models[Architecture.SD15], suite(pag={"scale": 2, "layers": layers})
    assert distance(latents(live, settings), of_diffusers(live, settings, layers)) < 1e-5
    assert distance(latents(live, settings), latents(live, suite(pag=2))) > 1e-3


def test_pictures_without_it_stay_as_they_were(models: Mapping[Architecture, LiveModels]) -> None:
    """Before and after a picture with it, to the bit: no processor stays behind."""
    live = models[Architecture.SD15]
    before = latents(live, suite())
    latents(live, suite(pag=3))
    assert torch.equal(latents(live, suite()), before)
    assert torch.equal(latents(live, suite(pag=0)), before)


def test_an_attention_attends_again_after_an_error_in_a_call(models: Mapping[Architecture, LiveModels]) -> None:
    call = LaunchedUnet(models[Architecture.SD15].unet)
    x, time, text = torch.randn(1, 4, 8, 8), torch.zeros(1), torch.randn(1, 77, 8)
    with pytest.raises(RuntimeError):
        call(x, time, text, {}, ("mid",))  # a text of another width
    kinds = {type(processor) for processor in models[Architecture.SD15].unet.attn_processors.values()}
    assert len(kinds) == 1


def test_layers_that_a_unet_lacks_are_refused_with_those_that_it_has(
    models: Mapping[Architecture, LiveModels],
) -> None:
    unet = models[Architecture.SDXL].unet
    attentions = self_attentions(name for name, _ in unet.named_parameters())
    check_perturbed(suite(pag={"scale": 1, "layers": ["mid", "up", "down_blocks.1"]}), attentions)
    with pytest.raises(RenderError, match=r"no self-attention in down_blocks\.0: use down_blocks\.1, .*mid_block"):
        check_perturbed(suite(pag={"scale": 1, "layers": ["down_blocks.0"]}), attentions)
    without_middle = [name for name in attentions if not name.startswith("mid_block")]
    with pytest.raises(RenderError, match="no self-attention in mid: use down_blocks"):
        check_perturbed(suite(pag=1), without_middle)
    with pytest.raises(RenderError, match="or anywhere else: leave `pag` out"):
        check_perturbed(suite(pag=1), [])
    check_perturbed(suite(pag={"scale": 0, "layers": ["down_blocks.7"]}), attentions)


@dataclass
class Recording:
    """A recorded graph whose kernels are those of one call."""

    call: Callable[..., Tensor]

    def replay(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.call(inputs["x"], inputs["time"], inputs["text"], {})


def recorded(call: Callable[..., Tensor], inputs: Mapping[str, Tensor], _pool: object) -> tuple[Recording, Tensor]:
    return Recording(call), Recording(call).replay(inputs)


def test_a_graph_is_repeated_only_for_the_layers_that_it_was_recorded_with(
    models: Mapping[Architecture, LiveModels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With recordings in place of a card's."""
    monkeypatch.setattr(unet_module, "_record", recorded)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    live = models[Architecture.SD15]
    graphed = replace(live, unet_call=GraphedUnet(live.unet))
    for settings in (suite(cfg=1), suite(cfg=1, pag=3), suite(cfg=1, pag={"scale": 3, "layers": ["up"]})):
        assert torch.equal(latents(graphed, settings), latents(live, settings))
    assert graphed.unet_call.release()


# ------------------------------------------------------------------------------------------ rescaled guidance


def of_the_paper(within: Tensor, without: Tensor, cfg: float, phi: float) -> Tensor:
    """arXiv:2305.08891, eq. 14 to 16, on outputs that are v."""
    guided = without + cfg * (within - without)
    rows = []
    for one, positive in zip(guided, within, strict=True):
        rescaled_row = one * positive.std() / one.std()
        rows.append(phi * rescaled_row + (1 - phi) * one)
    return torch.stack(rows)


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_rescaled_guidance_is_that_of_the_paper(phi: float, sigma: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x, within, without = (torch.randn(3, 4, 8, 8, generator=generator).double() for _ in range(3))
    x = x * sigma

    def denoised(v: Tensor) -> Tensor:
        """x0 by v for latents of variance 1: arXiv:2202.00512, appendix D."""
        alpha, spread = 1 / math.sqrt(sigma**2 + 1), sigma / math.sqrt(sigma**2 + 1)
        return alpha * (alpha * x) - spread * v

    guided = denoised(without + 5.0 * (within - without))
    found = rescaled(x.float(), guided.float(), denoised(within).float(), sigma, phi)
    torch.testing.assert_close(
        found.double(), denoised(of_the_paper(within, without, 5.0, phi)), rtol=1e-4, atol=1e-4 * max(sigma, 1)
    )


def test_rescaled_guidance_renders(models: Mapping[Architecture, LiveModels]) -> None:
    live = models[Architecture.SD15]
    plain, slightly, wholly = (latents(live, suite(cfg_rescale=share)) for share in (0.0, 0.5, 1.0))
    assert 0 < distance(slightly, plain) < distance(wholly, plain)
    assert torch.equal(latents(live, suite(cfg=1, cfg_rescale=1)), latents(live, suite(cfg=1)))


def test_a_last_step_is_rescaled_before_perturbed_attention(models: Mapping[Architecture, LiveModels]) -> None:
    """ComfyUI's order: what perturbed attention adds is the same with and without rescaling."""
    live = models[Architecture.SD15]

    def one_step(**changes: Any) -> Tensor:
        return latents(live, suite(steps=1, **changes)).double()

    alone = one_step(pag=3) - one_step()
    rescaled_too = one_step(pag=3, cfg_rescale=0.7) - one_step(cfg_rescale=0.7)
    torch.testing.assert_close(rescaled_too, alone, rtol=1e-3, atol=1e-3)
