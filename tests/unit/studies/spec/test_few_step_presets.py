"""Presets of models of few steps: what a spec beside them says wins, and the stored spec has the values."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from demo_study import DEMO, short_spec

from studies.errors import SpecError
from studies.spec.presets import PRESETS
from studies.spec.study import StudySpec, parse_spec
from studies.spec.suite import SuiteSettings


def suite(**settings: Any) -> SuiteSettings:
    return SuiteSettings.model_validate({"prompts": ["a cat"], **settings})


def sampling(found: SuiteSettings) -> tuple[Any, ...]:
    return found.sampler, found.schedule, found.steps, found.cfg


@pytest.mark.parametrize("program", ["a1111", "comfyui"])
@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_sets_the_same_in_both_programs(name: str, program: str) -> None:
    found = suite(preset=name, program=program)
    assert found.preset is not None
    preset = PRESETS[found.preset]
    assert sampling(found) == (preset.sampler, preset.schedule, preset.steps, preset.cfg)
    assert not found.items()[0].sampling.is_guided


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, ("euler", "sgm_uniform", 8, 1.0)),
        ({"steps": 10}, ("euler", "sgm_uniform", 10, 1.0)),
        ({"cfg": 1.5}, ("euler", "sgm_uniform", 8, 1.5)),
        ({"sampler": "dpmpp_sde"}, ("dpmpp_sde", "sgm_uniform", 8, 1.0)),
        ({"sampler": "DPM++ SDE Karras"}, ("dpmpp_sde", "karras", 8, 1.0)),
        ({"schedule": "simple"}, ("euler", "simple", 8, 1.0)),
        ({"schedule": "auto"}, ("euler", "normal", 8, 1.0)),
    ],
)
def test_what_is_written_beside_it_wins(written: dict[str, Any], expected: tuple[Any, ...]) -> None:
    for name in ("lightning-8", "Lightning 8", "LIGHTNING_8"):
        assert sampling(suite(preset=name, **written)) == expected


def test_prompts_may_differ_from_it() -> None:
    rows: list[Any] = ["a cat", {"prompt": "a dog", "steps": 2, "cfg": 3}]
    first, second = suite(preset="dmd2-4", prompts=rows).items()
    assert (first.sampling.steps, second.sampling.steps, second.sampling.cfg) == (4, 2, 3)
    assert first.sampling.sampler == second.sampling.sampler == "lcm_comfyui"


def test_a_suite_written_out_has_the_same_digest() -> None:
    written = suite(sampler="euler", schedule="turbo", steps=4, cfg=1)
    assert suite(preset="hyper-4").digest == written.digest
    assert suite(preset="hyper-4", cfg=5).digest != written.digest


def test_the_stored_spec_has_the_values_whatever_the_preset_may_become() -> None:
    text = yaml.safe_dump(short_spec(suite={"prompts": ["a cat"], "sizes": [64], "preset": "turbo-4"}))
    stored = parse_spec(text, base_dir=DEMO).to_json()
    written = json.loads(stored)["suite"]
    assert [written[key] for key in ("sampler", "schedule", "steps", "cfg")] == ["euler_ancestral", "turbo", 4, 1.0]
    written_otherwise = json.loads(stored)
    written_otherwise["suite"] |= {"steps": 3, "schedule": "normal"}  # as a version with another preset stored it
    reopened = StudySpec.from_json(json.dumps(written_otherwise)).suite
    assert sampling(reopened) == ("euler_ancestral", "normal", 3, 1.0)
    assert StudySpec.from_json(stored) == parse_spec(text, base_dir=DEMO)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("lightning-6", r"there is no preset 'lightning-6': did you mean lightning-8"),
        ("flux", "there is no preset 'flux': use one of turbo-1, turbo-4, lightning-2"),
        (8, "`suite.preset`"),
        (["turbo-1"], "`suite.preset`"),
    ],
)
def test_one_that_does_not_exist_is_refused(preset: Any, message: str) -> None:
    text = yaml.safe_dump(short_spec(suite={"prompts": ["a cat"], "sizes": [64], "preset": preset}))
    with pytest.raises(SpecError, match=message):
        parse_spec(text, base_dir=DEMO)
