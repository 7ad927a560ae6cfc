"""The noise of items: that of the CPU's generators and of torchsde's tree, whatever else is in the batch."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torchsde
from torch import Tensor

from optimizer.rendering.sampling.noise import BatchNoise, BrownianPath, Increments, increments_bytes
from studies.spec.suite import SuiteSettings

CPU = torch.device("cpu")
SHAPE = (4, 8, 16)
LEVELS = (14.614641189575195, 5.5, 1.2000000476837158, 0.029167160391807556, 0.0)


def noise_of(seeds: list[int], **changes: Any) -> BatchNoise:
    suite = SuiteSettings.model_validate({"prompts": ["a"], "seeds": seeds, "sizes": [[128, 64]]} | changes)
    return BatchNoise(suite.items(), suite, suite.sizes[0], 4, CPU)


def drawn(seed: int, times: int) -> list[Tensor]:
    generator = torch.Generator("cpu").manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) for _ in range(times)]


def test_the_first_noise_is_the_generators_of_the_seed_alone() -> None:
    torch.manual_seed(0)
    for program in ("a1111", "comfyui"):
        found = noise_of([7, 8], program=program, ensd=5).first
        assert torch.equal(found, torch.stack([drawn(7, 1)[0], drawn(8, 1)[0]]))


def test_later_noise_of_a1111_is_the_generator_going_on() -> None:
    later = noise_of([7, 8]).later("euler_ancestral", LEVELS)
    for step in (1, 2):
        assert torch.equal(later(2.0, 1.0), torch.stack([drawn(7, 3)[step], drawn(8, 3)[step]]))


@pytest.mark.parametrize(("program", "ensd"), [("a1111", 31337), ("a1111", -3), ("comfyui", 0), ("comfyui", 1)])
def test_ensd_and_comfyui_begin_another_generator(program: str, ensd: int) -> None:
    later = noise_of([7], program=program, ensd=ensd).later("euler_ancestral", LEVELS)
    for expected in drawn(7 + ensd, 2):
        assert torch.equal(later(2.0, 1.0)[0], expected)


def test_noise_of_sde_samplers_is_the_trees_increment_downwards() -> None:
    """As k-diffusion's BrownianTreeNoiseSampler asks for it, with the levels in float32."""
    later = noise_of([7, 8]).later("dpmpp_2m_sde", LEVELS)
    levels = torch.tensor(LEVELS)
    for row, seed in enumerate((7, 8)):
        tree = torchsde.BrownianTree(levels[-2], torch.zeros(1, *SHAPE), levels[0], entropy=seed)
        for high, low in pairwise(levels[:-1]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a time beyond an end that was rounded
                expected = -tree(low, high) / (high - low).sqrt()
            assert torch.equal(later(float(high), float(low))[row], expected[0])


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde"])
@pytest.mark.parametrize("program", ["a1111", "comfyui"])
def test_an_items_noise_does_not_depend_on_the_others(sampler: Any, program: str) -> None:
    together, alone = noise_of([1, 2, 3], program=program), noise_of([3], program=program)
    several, one = together.later(sampler, LEVELS), alone.later(sampler, LEVELS)
    for high, low in pairwise(LEVELS[:-1]):
        assert torch.equal(several(high, low)[2:], one(high, low))


# ------------------------------------------------------------------------------------ increments of the trials before


PATH = BrownianPath(seed=3, shape=SHAPE, low=LEVELS[-2], high=LEVELS[0])
INCREMENT = torch.zeros(SHAPE).nbytes


def test_increments_are_the_paths_whether_they_were_known_or_not() -> None:
    known = Increments()
    for _ in range(2):
        for high, low in pairwise(LEVELS[:-1]):
            assert torch.equal(known.of(PATH, high, low), PATH.increment(high, low))
    other = replace(PATH, seed=4)
    assert torch.equal(known.of(other, LEVELS[0], LEVELS[1]), other.increment(LEVELS[0], LEVELS[1]))


def test_increments_are_computed_once_as_far_as_their_memory_reaches() -> None:
    known, steps = Increments(limit=2 * INCREMENT), list(pairwise(LEVELS[:-1]))
    first, second = ([known.of(PATH, high, low) for high, low in steps] for _ in range(2))
    assert [one is two for one, two in zip(first, second, strict=True)] == [True, True, False]


@pytest.mark.parametrize(("sampler", "draws"), [("euler_ancestral", 0), ("dpmpp_2m_sde", 1), ("dpmpp_sde", 2)])
def test_the_memory_of_increments_is_foreseen(sampler: Any, draws: int) -> None:
    settings = {"prompts": ["a"], "seeds": [1, 2], "sizes": [[128, 64]], "sampler": sampler, "steps": 7}
    suite = SuiteSettings.model_validate(settings)
    known, noise = Increments(), BatchNoise(suite.items(), suite, suite.sizes[0], 4, CPU)
    later, levels = noise.later(sampler, LEVELS, known), torch.linspace(14.0, 0.5, 7 * draws + 1).tolist()
    for high, low in pairwise(levels):
        later(high, low)
    assert increments_bytes(suite, 4) == known.nbytes == 2 * 7 * draws * INCREMENT
