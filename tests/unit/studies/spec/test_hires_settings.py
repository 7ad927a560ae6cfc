"""`hires` of a suite: its forms, its defaults, what is refused, and that old suites keep their digest."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from studies.spec.hires import NO_HIRES, HiresSettings
from studies.spec.suite import SuiteSettings


def suite(hires: Any, **changes: Any) -> SuiteSettings:
    return SuiteSettings.model_validate({"prompts": ["a lion"], "hires": hires} | changes)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (True, HiresSettings(scale=2, steps=20, denoise=0.7, upscaler="latent")),
        (1.5, HiresSettings(scale=1.5, steps=20, denoise=0.7)),
        ({"steps": 8, "denoise": 0.4}, HiresSettings(steps=8, denoise=0.4)),
        ({"upscaler": "Latent (nearest-exact)"}, HiresSettings(steps=20, upscaler="latent_nearest_exact")),
        ({"upscaler": "None"}, HiresSettings(steps=20, upscaler="lanczos")),
        (False, NO_HIRES),
        (0, NO_HIRES),
        (None, NO_HIRES),
    ],
)
def test_it_is_written_in_short_or_at_length(written: Any, expected: HiresSettings) -> None:
    (item,) = suite(written).items()
    assert item.sampling.hires == expected


def test_it_has_as_many_steps_as_the_first_pass_of_its_prompt() -> None:
    one, other = suite(True, prompts=["a", {"prompt": "b", "steps": 9}], steps=30).items()
    assert [item.sampling.hires.steps for item in (one, other)] == [30, 9]
    assert [item.sampling.second.steps for item in (one, other) if item.sampling.second] == [30, 9]


def test_a_prompt_has_one_of_its_own_or_none() -> None:
    rows = [{"prompt": "a", "hires": False}, {"prompt": "b", "hires": 1.5}, {"prompt": "c"}]
    assert [item.image_size for item in suite(2, prompts=rows).items()] == [(512, 512), (768, 768), (1024, 1024)]


def test_a_prompt_has_the_suites_settings_for_those_that_it_leaves_out() -> None:
    usual = {"scale": 4, "steps": 3, "denoise": 0.5, "upscaler": "lanczos"}
    rows = [{"prompt": "a", "hires": {"denoise": 0.4}}, {"prompt": "b", "hires": 1.5}, {"prompt": "c", "hires": True}]
    found = suite(usual, prompts=rows)
    expected = [HiresSettings.model_validate(usual | own) for own in ({"denoise": 0.4}, {"scale": 1.5}, {})]
    assert [item.sampling.hires for item in found.items()] == expected
    assert SuiteSettings.model_validate(found.model_dump(mode="json")).items() == found.items()
    (alone,) = suite(False, prompts=rows[:1]).items()
    assert alone.sampling.hires == HiresSettings(steps=20, denoise=0.4)


def test_a_suite_that_has_none_has_the_digest_of_before() -> None:
    plain = SuiteSettings.model_validate({"prompts": ["a lion"]}).digest
    assert suite(False).digest == plain
    assert suite(False, prompts=[{"prompt": "a lion", "hires": None}]).digest == plain
    assert len({plain, suite(True).digest, suite(1.5).digest, suite({"upscaler": "lanczos"}).digest}) == 4


def test_what_is_stored_is_read_back() -> None:
    for written in (True, False, {"scale": 1.5, "denoise": 0.3, "upscaler": "lanczos"}):
        first = suite(written)
        assert SuiteSettings.model_validate(first.model_dump(mode="json")) == first


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"denoise": 0}, "`denoise: 0` would only enlarge the image"),
        ({"denoise": 1.2}, "less than or equal to 1"),
        ({"scale": 0.5}, "greater than or equal to 1"),
        ({"upscaler": "R-ESRGAN 4x+"}, "'R-ESRGAN 4x+' is no upscaler of a suite: use one of latent, "),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"sampler": "euler"}, "Extra inputs are not permitted"),
        ("ESRGAN", "expected false, a scale such as 1.5, or a mapping such as {scale: 2, denoise: 0.5}"),
        ([2, 0.5], "expected false, a scale such as 1.5"),
        ({"steps": 20, "denoise": 0.01}, "use a denoise of at least 0.02, or fewer steps"),
        ({"denoise": 1e-9}, "and a model has 1000 noise levels"),
        (9, "less than or equal to 8"),
    ],
)
def test_bad_input_is_refused(written: Any, told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        suite(written)
    assert told in str(refused.value)


def test_an_image_beyond_4096_is_refused() -> None:
    with pytest.raises(ValidationError, match="hires of 1024x1536 gives 4096x6144, and at most 4096 are rendered"):
        suite(4, sizes=["1024x1536"])
