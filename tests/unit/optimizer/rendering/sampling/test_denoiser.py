"""The denoiser of a batch: guidance, prompts that change on the way, and the sizes that SDXL is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from decoded import float_pixels
from embedded_prompts import embedded
from live import CPU, resident_of
from small_files import small_parents
from torch import Tensor, nn

from optimizer.rendering.models import LiveModels, build_models
from optimizer.rendering.prompts.encoder import Conditions, Embedding, Phase, PromptEncoder, phase_at
from optimizer.rendering.render import Renderer
from optimizer.rendering.sampling.sample import sample
from search_spaces.blocks import Architecture
from studies.spec.suite import SuiteSettings


@pytest.fixture(scope="module")
def models() -> Mapping[Architecture, LiveModels]:
    return {name: build_models(resident_of(small_parents(name)[:1], CPU)) for name in Architecture}


def suite(**changes: Any) -> SuiteSettings:
    settings: dict[str, Any] = {"prompts": ["a cat"], "sizes": [64], "steps": 4, "cfg": 3.0, "sampler": "euler"}
    return SuiteSettings.model_validate(settings | changes)


@contextmanager
def calls(models: LiveModels) -> Iterator[list[Mapping[str, Any]]]:
    """The keyword arguments of each call of the U-Net, its time among them."""
    seen: list[Mapping[str, Any]] = []

    def listen(_: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Any]) -> None:
        seen.append({**kwargs, "time": args[1]})

    handle = models.unet.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def test_a_phase_holds_to_its_last_call_and_the_first_one_after_all() -> None:
    embedding = Embedding(torch.zeros(1, 1), None)
    phases = [Phase(until_call=1, embedding=embedding), Phase(until_call=3, embedding=embedding)]
    assert [phase_at(phases, call) for call in range(6)] == [0, 0, 1, 1, 0, 0]


def test_a_prompt_may_change_from_call_to_call(models: Mapping[Architecture, LiveModels]) -> None:
    live, settings = models[Architecture.SD15], suite()
    texts = embedded(live, ["a cat", "a dog", ""])
    changing = Conditions(
        positive=(Phase(1, texts["a cat"]), Phase(9, texts["a dog"])), negative=(Phase(9, texts[""]),)
    )
    with calls(live) as seen:
        sample(live, settings, settings.items(), [changing], None)
    for call, text in enumerate(["a cat", "a cat", "a dog", "a dog"]):
        assert torch.equal(seen[call]["encoder_hidden_states"], torch.stack([texts[""].tokens, texts[text].tokens]))


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({}, [64, 128, 0, 0, 64, 128]),
        ({"size_conditioning": {"original": [640, 320], "crop": [8, 16]}}, [320, 640, 16, 8, 64, 128]),
        ({"size_conditioning": {"target": 1024}}, [64, 128, 0, 0, 1024, 1024]),
    ],
)
def test_sdxl_is_told_heights_before_widths(
    changes: dict[str, Any], numbers: list[int], models: Mapping[Architecture, LiveModels]
) -> None:
    with calls(models[Architecture.SDXL]) as seen:
        Renderer(models[Architecture.SDXL], suite(sizes=[[128, 64]], **changes)).render()
    assert all(call["added_cond_kwargs"]["time_ids"].tolist() == [numbers] * 2 for call in seen)


def test_comfyui_takes_the_nearest_time_and_a1111_the_one_between(models: Mapping[Architecture, LiveModels]) -> None:
    times = {}
    for program in ("a1111", "comfyui"):
        with calls(models[Architecture.SD15]) as seen:
            Renderer(models[Architecture.SD15], suite(schedule="karras", program=program, steps=6)).render()
        times[program] = torch.stack([call["time"][0] for call in seen])
    assert torch.equal(times["comfyui"], times["comfyui"].round())
    assert not torch.equal(times["a1111"], times["a1111"].round())
    assert (times["a1111"] - times["comfyui"]).abs().max() < 0.6


@pytest.mark.parametrize("architecture", list(Architecture))
def test_items_of_different_sampling_render_as_in_suites_of_their_own(
    architecture: Architecture, models: Mapping[Architecture, LiveModels]
) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a cat"},
        {"prompt": "a dog", "sampler": "DPM++ 2M SDE", "steps": 3, "cfg": 1.0},
        {"prompt": "a fox", "cfg": 9.0, "clip_skip": 2},
        {"prompt": "a cat", "schedule": "sgm_uniform"},
    ]
    together = float_pixels(Renderer(models[architecture], suite(prompts=rows)))
    for row, pixels in zip(rows, together, strict=True):
        (alone,) = float_pixels(Renderer(models[architecture], suite(prompts=[row])))
        torch.testing.assert_close(pixels, alone, rtol=0, atol=2e-4)
    assert not any(torch.equal(one, other) for one, other in pairwise(together))


def test_guidance_of_1_is_the_prompt_alone(models: Mapping[Architecture, LiveModels]) -> None:
    live, settings = models[Architecture.SD15], suite(cfg=1.0)
    (item,) = settings.items()
    texts = PromptEncoder(live, settings).conditions([item])
    alone = sample(live, settings, [item], [texts[0]], None)
    barely = replace(item, sampling=replace(item.sampling, cfg=1 + 1e-6))
    torch.testing.assert_close(sample(live, settings, [barely], [texts[0]], None), alone, rtol=1e-3, atol=1e-3)
