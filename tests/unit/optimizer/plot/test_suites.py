"""What of a suite a plot renders, and suites with another value of one setting."""

from __future__ import annotations

from typing import Any

import pytest

from optimizer.errors import PlotError
from optimizer.plot.suites import SETTINGS, most_images, own_values, setting_of, shown, with_setting
from studies.spec.suite import SuiteItem, SuiteSettings


def suite(**changes: Any) -> SuiteSettings:
    prompts = ["a lion", {"prompt": "a fox", "cfg": 9, "steps": 8, "seeds": [7, 8]}, "a bee", "a cat"]
    data = {"prompts": prompts, "seeds": [1, 2], "sizes": ["64x64", "64x128"], "steps": 4, "cfg": 5}
    return SuiteSettings.model_validate(data | changes)


def of_items(changed: SuiteSettings, name: str) -> set[Any]:
    def value(item: SuiteItem) -> Any:
        return getattr(item, name) if hasattr(item, name) else getattr(item.sampling, name)

    return {value(item) for item in changed.items()}


@pytest.mark.parametrize(
    ("name", "typed", "field", "value"),
    [
        ("cfg", "7.5", "cfg", 7.5),
        ("steps", "12", "steps", 12),
        ("clip_skip", "2", "clip_skip", 2),
        ("seed", "5", "seed", 5),
        ("negative", "blurry, low", "negative", "blurry, low"),
        ("cfg_rescale", "0.7", "cfg_rescale", 0.7),
        ("sampler", "Euler a", "sampler", "euler_ancestral"),
        ("schedule", "exponential", "schedule", "exponential"),
    ],
)
def test_a_setting_holds_for_every_image_also_for_prompts_with_their_own(
    name: str, typed: str, field: str, value: Any
) -> None:
    assert of_items(with_setting(suite(), name, typed), field) == {value}


def test_a_setting_changes_nothing_else() -> None:
    before, after = suite(), with_setting(suite(), "cfg", "5")
    assert [(item.prompt, item.seed, item.sampling.steps) for item in after.items()] == [
        (item.prompt, item.seed, item.sampling.steps) for item in before.items()
    ]


def test_a_schedule_reaches_prompts_with_a_sampler_of_their_own() -> None:
    prompts = ["a lion", {"prompt": "a fox", "sampler": "euler"}]
    assert of_items(with_setting(suite(prompts=prompts), "schedule", "karras"), "schedule") == {"karras"}


def test_a_joint_name_brings_its_schedule_and_a_sampler_alone_keeps_the_suites() -> None:
    of_suite = suite(sampler="euler", schedule="exponential")
    joint = with_setting(of_suite, "sampler", "DPM++ 2M Karras").items()[0].sampling
    alone = with_setting(of_suite, "sampler", "dpmpp_2m").items()[0].sampling
    assert (joint.sampler, joint.schedule) == ("dpmpp_2m", "karras")
    assert (alone.sampler, alone.schedule) == ("dpmpp_2m", "exponential")


@pytest.mark.parametrize("sampler", ["DDIM", "LCM", "LMS", "UniPC", "DPM++ 2M", "LCM Karras"])
@pytest.mark.parametrize("programs", [("a1111", "comfyui"), ("comfyui", "a1111")])
def test_a_program_has_the_samplers_that_it_would_have_in_a_spec(sampler: str, programs: tuple[str, str]) -> None:
    def written(program: str) -> SuiteSettings:
        prompts = ["a lion", {"prompt": "a fox", "sampler": sampler}]
        return suite(program=program, sampler=sampler, prompts=prompts)

    before, after = map(written, programs)
    assert with_setting(before, "program", programs[1]).items() == after.items()


def test_a_prompt_is_a_number_of_the_suites_with_its_settings_or_a_text() -> None:
    second, text = with_setting(suite(), "prompt", "2"), with_setting(suite(), "prompt", "an owl, at night")
    assert {(item.prompt, item.sampling.cfg, item.seed) for item in second.items()} == {
        ("a fox", 9, 7),
        ("a fox", 9, 8),
    }
    assert {(item.prompt, item.sampling.cfg) for item in text.items()} == {("an owl, at night", 5)}


@pytest.mark.parametrize(
    ("name", "typed", "said"),
    [
        ("cfg", "high", "cfg"),
        ("steps", "2.5", "steps"),
        ("steps", "0", "steps"),
        ("clip_skip", "40", "clip_skip"),
        ("prompt", "5", "4 prompts"),
        ("size", "65x64", "65x64"),
        ("sampler", "eular", "eular"),
        ("seed", "-1", "seed"),
    ],
)
def test_a_value_that_a_suite_cannot_have_is_refused(name: str, typed: str, said: str) -> None:
    with pytest.raises(PlotError) as refused:
        with_setting(suite(), name, typed)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("CFG", "cfg"),
        ("cfg scale", "cfg"),
        ("seeds", "seed"),
        ("Scheduler", "schedule"),
        ("negative_prompt", "negative"),
    ],
)
def test_settings_are_known_by_the_words_of_other_programs(typed: str, name: str) -> None:
    assert setting_of(typed) == name


@pytest.mark.parametrize("name", ["OUT*", "text_encoder", "B", "loras", "IN00.B", "prediction"])
def test_what_is_no_setting_of_a_suite_is_none(name: str) -> None:
    assert setting_of(name) is None


def test_every_setting_that_may_vary_is_one_of_the_suite() -> None:
    assert set(SETTINGS.values()) <= set(SuiteSettings.model_fields)


def test_a_name_alone_is_every_value_of_the_suite() -> None:
    assert own_values(suite(), "prompt") == ("1", "2", "3", "4")
    assert own_values(suite(), "seed") == ("1", "2", "7", "8")
    assert own_values(suite(), "size") == ("64x64", "64x128")
    assert own_values(suite(), "cfg") == ()


def test_images_of_a_cell_are_spread_over_the_prompts_with_their_first_seeds_and_sizes() -> None:
    assert [(item.prompt, item.seed, item.height) for item in shown(suite(), 1).items()] == [("a lion", 1, 64)]
    assert [(item.prompt, item.seed) for item in shown(suite(), 2).items()] == [("a lion", 1), ("a bee", 1)]
    assert {item.prompt for item in shown(suite(), 4).items()} == {"a lion", "a fox", "a bee", "a cat"}


@pytest.mark.parametrize("count", range(1, 9))
def test_a_cell_has_as_many_images_as_it_should(count: int) -> None:
    assert len(shown(suite(), count).items()) == count


def test_more_images_than_a_suite_has_are_refused() -> None:
    assert most_images(suite()) == 8
    with pytest.raises(PlotError, match="at most 8 images"):
        shown(suite(), 9)
