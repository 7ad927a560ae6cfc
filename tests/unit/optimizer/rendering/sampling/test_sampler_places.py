"""Every sampler and schedule stands in all places that a name needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optimizer.rendering.sampling import samplers, schedules
from optimizer.rendering.sampling.noise import BROWNIAN
from studies.spec.samplers import (
    A1111_FORMS,
    COMFYUI_FORMS,
    NOT_OFFERED,
    OWN_SCHEDULES,
    SAMPLERS,
    SCHEDULES,
    SCHEDULES_NOT_OFFERED,
    TWO_CALLS,
    USUAL_SCHEDULES,
    SamplerName,
    Sampling,
    read_sampler,
    read_schedule,
    usual_schedule,
)

REFERENCE = (Path(__file__).parents[5] / "docs" / "reference" / "spec.md").read_text()
SECTION = REFERENCE.partition("### Samplers")[2].partition("\n## ")[0]
FORMS = {*A1111_FORMS.values(), *COMFYUI_FORMS.values()}
PLAIN = [name for name in SAMPLERS if name not in FORMS]


def rows(name: str) -> list[list[str]]:
    """Return the cells of the rows of the reference's tables that begin with a name."""
    found = re.findall(rf"^\| `{re.escape(name)}` \|(.*)\|$", SECTION, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in found]


def test_every_sampler_has_a_function_and_every_schedule_its_levels() -> None:
    assert set(samplers.SAMPLERS) == set(SAMPLERS)
    assert {*schedules.SCHEDULES, "align_your_steps"} == set(SCHEDULES)
    assert set(schedules.A1111_SCHEDULES) == set(schedules.SCHEDULES)


def test_what_is_said_of_samplers_is_said_of_ones_that_there_are() -> None:
    said = {*FORMS, *A1111_FORMS, *COMFYUI_FORMS, *OWN_SCHEDULES, *USUAL_SCHEDULES, *TWO_CALLS, *BROWNIAN}
    assert said <= set(SAMPLERS)
    assert set().union(*schedules._PASS_OVER.values()) <= set(SAMPLERS)
    assert set(A1111_FORMS) == set(COMFYUI_FORMS)


def test_samplers_of_stochastic_equations_take_brownian_noise() -> None:
    assert {name for name in SAMPLERS if "sde" in name.split("_")} == BROWNIAN


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_calls_the_unet_as_often_as_is_said(name: SamplerName) -> None:
    calls = 0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return x / (1 + sigma**2)

    levels = (14.6, 6.0, 2.0, 0.5, 0.0)
    samplers.SAMPLERS[name](denoise, torch.ones(1, 4, 8, 8), levels, lambda _from, _to: torch.zeros(1, 4, 8, 8))
    assert calls == Sampling(sampler=name, schedule="normal", steps=len(levels) - 1, cfg=1).calls


@pytest.mark.parametrize("name", PLAIN)
def test_the_reference_has_a_sampler_with_its_usual_schedule_and_a1111s_name(name: SamplerName) -> None:
    a1111, schedule = rows(name)[0]
    assert schedule.startswith(f"`{usual_schedule(name)}`")
    if a1111:
        assert read_sampler(a1111) == (name, None)


@pytest.mark.parametrize("name", A1111_FORMS)
def test_the_reference_says_how_the_programs_differ(name: SamplerName) -> None:
    *_, a1111, comfyui = rows(name)[1]
    assert (a1111, comfyui) == (f"`{A1111_FORMS[name]}`", f"`{COMFYUI_FORMS[name]}`")


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_reference_has_a_schedule(name: str) -> None:
    assert rows(name)


def test_the_reference_has_what_is_not_offered_with_the_closest_one() -> None:
    listed = re.findall(r"^\| ([^`|]+) \| `(\w+)` \|$", SECTION, re.MULTILINE)
    found = {name.casefold().replace("+", "p"): close for names, close in listed for name in names.split(", ")}
    letters = {re.sub(r"[^a-z0-9]", "", name): close for name, close in found.items()}
    assert letters == {**NOT_OFFERED, **SCHEDULES_NOT_OFFERED}


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_a_sampler_that_is_not_offered_is_none_that_is(name: str) -> None:
    with pytest.raises(ValueError, match=f"is not supported: {NOT_OFFERED[name]} comes closest"):
        read_sampler(name)


@pytest.mark.parametrize("name", SCHEDULES_NOT_OFFERED)
def test_a_schedule_that_is_not_offered_is_none_that_is(name: str) -> None:
    with pytest.raises(ValueError, match=f"is not supported: {SCHEDULES_NOT_OFFERED[name]} comes closest"):
        read_schedule(name)
