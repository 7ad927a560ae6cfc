"""What `mergetune study check` says of a suite's sampling, and what it counts."""

from __future__ import annotations

from typing import Any

import pytest

from optimizer.cli.views.planning import sampling_in_words, unet_passes
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
    ],
)  # fmt: skip
def test_guidance_is_said_and_its_passes_are_counted(changes: dict[str, Any], words: str, passes: int) -> None:
    items = suite(**changes).items()
    assert sampling_in_words(items) == words
    assert unet_passes(items[0].sampling) == passes
