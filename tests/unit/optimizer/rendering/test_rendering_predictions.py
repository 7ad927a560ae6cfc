"""Renders of models that predict v, end in pure noise or follow EDM, against loops written here in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from decoded import float_pixels
from embedded_prompts import embedded
from live import resident_of
from marked_files import COSXL, PLAYGROUND, V_PRED, ZERO_SNR, write_marked
from slow_cases import first_fast, slow_but
from torch import Tensor, nn

from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.rendering.models import LiveModels, build_models
from optimizer.rendering.prediction import Prediction, agreed_prediction
from optimizer.rendering.render import Renderer
from studies.spec.samplers import SAMPLERS, SamplerName
from studies.spec.suite import SuiteItem, SuiteSettings

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (sample, time) -> guided output, all in float64
MARKERS: Mapping[str, Mapping[str, Tensor]] = {
    "epsilon": {},
    "v": V_PRED,
    "zero_snr": ZERO_SNR,
    "cosxl": COSXL,
    "playground": PLAYGROUND,
}


def suite(**changes: Any) -> SuiteSettings:
    settings: dict[str, Any] = {
        "prompts": [{"prompt": "a bird", "negative": "blurry"}],
        "seeds": (3, 4),
        "sizes": (64,),
        "steps": 3,
        "cfg": 3.0,
        "sampler": "ddim_comfyui",
        "sgm_noise_multiplier": True,
    }
    return SuiteSettings.model_validate(settings | changes)


def live_models(checkpoint: Checkpoint, settings: SuiteSettings, device: torch.device) -> LiveModels:
    return build_models(resident_of([checkpoint], device), agreed_prediction([checkpoint], settings))


@pytest.fixture(scope="module")
def sd15(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LiveModels]:
    """The same SD1.5 weights, marked in every way."""
    folder = tmp_path_factory.mktemp("marked")
    return {
        name: live_models(write_marked(folder / f"{name}.safetensors", markers), suite(), device)
        for name, markers in MARKERS.items()
    }


@dataclass
class Seen:
    """What a VAE was asked to decode: the renderer's final latents, as the VAE knows them."""

    latents: Tensor
    pixels: tuple[Tensor, ...]


def render(models: LiveModels, settings: SuiteSettings) -> Seen:
    decoded: list[Tensor] = []

    def listen(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        decoded.append(args[0].to("cpu", copy=True))

    handle = models.vae.post_quant_conv.register_forward_pre_hook(listen)
    try:
        pixels = float_pixels(Renderer(models, settings))
    finally:
        handle.remove()
    return Seen(torch.cat(decoded).double(), pixels)


def denoiser(models: LiveModels, item: SuiteItem, settings: SuiteSettings) -> Denoiser:
    """The model's guided output for one item, computed on the CPU."""
    unet = copy.deepcopy(models.unet).cpu().double()
    found = embedded(models, [item.prompt, item.negative], clip_skip=settings.clip_skip)
    rows = [found[item.negative], found[item.prompt]]
    tokens = torch.stack([row.tokens for row in rows]).cpu().double()
    added = None
    if rows[0].pooled is not None:
        sizes = torch.tensor([[item.height, item.width, 0, 0, item.height, item.width]] * 2).double()
        added = {"text_embeds": torch.stack([row.pooled for row in rows if row.pooled is not None]), "time_ids": sizes}
        added["text_embeds"] = added["text_embeds"].cpu().double()

    def guided(sample: Tensor, time: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = unet(
                torch.cat([sample] * 2), time, encoder_hidden_states=tokens, added_cond_kwargs=added
            ).sample
        without, with_prompt = out.chunk(2)
        return without + settings.cfg * (with_prompt - without)

    return guided


def first_noise(item: SuiteItem) -> Tensor:
    generator = torch.Generator().manual_seed(item.seed)
    return torch.randn((1, 4, item.height // 8, item.width // 8), generator=generator).double()


def alphas() -> Tensor:
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, dim=0)


def without_signal(alphas: Tensor) -> Tensor:
    """Algorithm 1 of arXiv:2305.08891: the last step's signal becomes zero, the first one's stays."""
    root = alphas.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def ddim_of_v(guided: Denoiser, sample: Tensor, alphas: Tensor, times: list[int], step: int) -> Tensor:
    """DDIM without noise, on outputs that are v: arXiv:2202.00512, appendix D."""
    for time in times:
        alpha, sigma = alphas[time].sqrt(), (1 - alphas[time]).sqrt()
        v = guided(sample, torch.tensor(time))
        image, noise = alpha * sample - sigma * v, sigma * sample + alpha * v
        earlier = alphas[time - step] if time >= step else torch.tensor(1.0, dtype=torch.float64)
        sample = earlier.sqrt() * image + (1 - earlier).sqrt() * noise
    return sample


def euler_of_edm(guided: Denoiser, noise: Tensor, levels: Tensor, data: float, sign: int) -> Tensor:
    """Euler's method on dx = (x - D(x)) / sigma dsigma with the preconditioning of arXiv:2206.00364, table 1."""
    sample = noise * (levels[0] ** 2 + 1).sqrt()
    for level, following in zip(levels, [*levels[1:], torch.tensor(0.0)], strict=True):
        spread = (level**2 + data**2).sqrt()
        out = guided(sample / spread, level.log() / 4)
        image = data**2 / spread**2 * sample + sign * level * data / spread * out
        sample = sample + (sample - image) / level * (following - level)
    return sample


def test_v_prediction_is_ddim_on_v(sd15: Mapping[str, LiveModels]) -> None:
    settings = suite()
    expected = [
        ddim_of_v(denoiser(sd15["v"], item, settings), first_noise(item), alphas(), [667, 334, 1], 333)
        for item in settings.items()
    ]
    found = render(sd15["v"], settings).latents
    torch.testing.assert_close(found, torch.cat(expected) / 0.18215, rtol=1e-4, atol=1e-3)


def test_zero_snr_begins_in_pure_noise_on_the_rescaled_schedule(sd15: Mapping[str, LiveModels]) -> None:
    settings = suite(steps=4, schedule="turbo")
    schedule = without_signal(alphas())
    expected = [
        ddim_of_v(denoiser(sd15["zero_snr"], item, settings), first_noise(item), schedule, [999, 749, 499, 249], 250)
        for item in settings.items()
    ]
    found = render(sd15["zero_snr"], settings).latents
    torch.testing.assert_close(found, torch.cat(expected) / 0.18215, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("architecture", slow_but(["sd15", "sdxl"], "sdxl"))
def test_cosxl_is_euler_on_preconditioned_v(device: torch.device, architecture: str, tmp_path: Path) -> None:
    settings = suite(sampler="euler", seeds=[5])
    models = live_models(write_marked(tmp_path / "a.safetensors", COSXL, architecture=architecture), settings, device)
    (item,) = settings.items()
    levels = torch.tensor([120.0, (120 * 0.002) ** 0.5, 0.002], dtype=torch.float64)  # evenly spaced logarithms
    expected = euler_of_edm(denoiser(models, item, settings), first_noise(item), levels, data=1.0, sign=-1)
    scale = 0.18215 if architecture == "sd15" else 0.13025
    torch.testing.assert_close(render(models, settings).latents, expected / scale, rtol=1e-3, atol=1e-2)


def test_playground_is_edm_on_latents_with_a_mean_and_deviation(device: torch.device, tmp_path: Path) -> None:
    settings = suite(sampler="euler", seeds=[5])
    models = live_models(write_marked(tmp_path / "a.safetensors", PLAYGROUND, architecture="sdxl"), settings, device)
    (item,) = settings.items()
    levels = torch.tensor([80.0, (80 * 0.002) ** 0.5, 0.002], dtype=torch.float64)
    latents = euler_of_edm(denoiser(models, item, settings), first_noise(item), levels, data=0.5, sign=1)
    expected = latents * PLAYGROUND["edm_std"] / 0.5 + PLAYGROUND["edm_mean"]
    torch.testing.assert_close(render(models, settings).latents, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("architecture", first_fast(1, ["sd15", "sdxl"]))
def test_a_flow_is_euler_on_straight_lines(device: torch.device, architecture: str, tmp_path: Path) -> None:
    settings = suite(sampler="euler", schedule="simple", steps=4, sgm_noise_multiplier=False, seeds=[5])
    path, metadata = tmp_path / "a.safetensors", {"modelspec.prediction_type": "flow", "mergetune.shift": "2"}
    models = live_models(write_marked(path, architecture=architecture, metadata=metadata), settings, device)
    (item,) = settings.items()
    guided, sample = denoiser(models, item, settings), first_noise(item)
    levels = [2 * share / (1 + share) for share in (1.0, 0.75, 0.5, 0.25, 0.0)]
    for level, following in pairwise(levels):
        sample = sample + (following - level) * guided(sample, torch.tensor(1000 * level))
    scale = 0.18215 if architecture == "sd15" else 0.13025
    torch.testing.assert_close(render(models, settings).latents, sample / scale, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", slow_but(SAMPLERS, "euler", "dpmpp_2m_sde", "uni_pc", "ddim_a1111", "lcm"))
def test_every_sampler_renders_every_prediction(name: SamplerName, sd15: Mapping[str, LiveModels]) -> None:
    settings = suite(sampler=name, seeds=[1], cfg=1)
    found = {marking: render(models, settings) for marking, models in sd15.items()}
    for marking, seen in found.items():
        assert seen.latents.isfinite().all()
        assert all(pixels.isfinite().all() and pixels.std() > 0 for pixels in seen.pixels)
        if marking != "epsilon":  # the same weights, another meaning
            assert (seen.latents - found["epsilon"].latents).abs().mean() > 0.1, marking


@pytest.mark.parametrize(
    ("marking", "name"), [("zero_snr", "uni_pc"), ("zero_snr", "dpmpp_2m"), ("cosxl", "dpmpp_3m_sde")]
)
def test_one_step_is_enough(marking: str, name: SamplerName, sd15: Mapping[str, LiveModels]) -> None:
    assert render(sd15[marking], suite(sampler=name, steps=1)).latents.isfinite().all()


@pytest.mark.slow
def test_the_suite_can_say_what_no_marker_does(
    device: torch.device, sd15: Mapping[str, LiveModels], tmp_path: Path
) -> None:
    said = suite(prediction="v_prediction", zero_snr=True)
    bare = live_models(write_marked(tmp_path / "bare.safetensors"), said, device)
    assert bare.prediction == Prediction(kind="v", zero_snr=True)
    assert torch.equal(render(bare, said).latents, render(sd15["zero_snr"], suite()).latents)
