"""What `mergetune study check` says of a suite's sampling, and what it counts."""

from __future__ import annotations

from typing import Any

import pytest

from optimizer.cli.views.planning import preset_in_words, sampling_in_words
from optimizer.rendering.prediction import EPSILON
from optimizer.runtime.timing import unet_passes
from studies.spec.suite import SuiteSettings


def suite(**changes: Any) -> SuiteSettings:
    return SuiteSettings.model_validate({"prompts": ["a cat"], "sampler": "euler", "steps": 10} | changes)


@pytest.mark.parametrize(
    ("changes", "words", "passes"),
    [
        ({}, "10 steps of euler, normal, CFG 7", 20),
        ({"cfg": 1}, "10 steps of euler, normal, CFG 1", 10),
        ({"pag": 3}, "10 steps of euler, normal, CFG 7, PAG 3 in mid", 30),
        ({"pag": {"scale": 0.5, "layers": ["up_blocks.1", "mid"]}, "cfg": 1},
         "10 steps of euler, normal, CFG 1, PAG 0.5 in mid, up_blocks.1", 20),
        ({"cfg_rescale": 0.7}, "10 steps of euler, normal, CFG 7 rescaled by 0.7", 20),
        ({"sampler": "heun", "pag": 3}, "10 steps of heun, normal, CFG 7, PAG 3 in mid", 57),
        ({"schedule": "ddim_uniform", "steps": 30, "cfg": 1}, "30 steps of euler, ddim_uniform, CFG 1", 31),
    ],
)  # fmt: skip
def test_guidance_is_said_and_its_passes_are_counted(changes: dict[str, Any], words: str, passes: int) -> None:
    items = suite(**changes).items()
    assert sampling_in_words(items) == words
    assert unet_passes(items[0].sampling, EPSILON, "a1111") == passes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "lightning-8 sets sampler euler, schedule sgm_uniform, steps 8, cfg 1"),
        ({"cfg": 1.5, "sampler": "dpmpp_sde"},
         "lightning-8 sets schedule sgm_uniform, steps 8; the spec says sampler dpmpp_sde, cfg 1.5"),
        ({"cfg": 2, "sampler": "Euler a Karras", "steps": 9},
         "lightning-8 sets nothing; the spec says sampler euler_ancestral, schedule karras, steps 9, cfg 2"),
    ],
)  # fmt: skip
def test_what_a_preset_set_is_said(changes: dict[str, Any], words: str) -> None:
    settings: dict[str, Any] = {"prompts": ["a cat"], "preset": "lightning-8"}
    assert preset_in_words(SuiteSettings.model_validate(settings | changes), "lightning-8") == words
