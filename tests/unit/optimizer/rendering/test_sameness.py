"""Renders that are one image whatever was written: seeds, prompts and negative prompts as they reach the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from demo_study import SMALL, ShortStudy, begin, short_spec

from optimizer.errors import FinalError
from optimizer.outcome.final import FinalProgress, hold_final
from optimizer.rendering.sameness import model_inputs, repeated_renders, same_renders, same_stages
from optimizer.rendering.sampling.noise import BatchNoise
from optimizer.runtime.plan import make_plan
from optimizer.trial.repeats import first_of_each
from search_spaces.blocks import Architecture
from studies.errors import SpecError
from studies.spec.study import StudySpec, parse_spec
from studies.spec.suite import SuiteSettings, noise_of

LONG = "a photo of a lion, " * 20
SUITE = {"prompts": ["a lion", "a panda"], "seeds": [1], "sizes": [64], "steps": 1, "syntax": "plain"}


def spec_with(suite: dict[str, Any], **changes: Any) -> StudySpec:
    data = short_spec(**{**SMALL, **changes, "suite": {**SUITE, **suite}})
    return parse_spec(yaml.safe_dump(data), base_dir=Path("/"))


@pytest.mark.parametrize("seeds", [(1, 2**32 + 1), (0, 2**32), (7, 2**63 - 2**32 + 7), (1, 2), (0, 2**31)])
def test_seeds_give_the_noise_that_torch_gives(seeds: tuple[int, int]) -> None:
    suite = SuiteSettings.model_validate({"prompts": ["a cat"], "sizes": [64], "seeds": [seeds[0]]})
    other_suite = suite.model_copy(update={"seeds": seeds[1:]})
    one, other = (
        BatchNoise(each.items(), each, each.sizes[0], 4, torch.device("cpu")) for each in (suite, other_suite)
    )
    same = noise_of(seeds[0]) == noise_of(seeds[1])
    assert torch.equal(one.first, other.first) == same
    later, later_too = (each.later("euler_ancestral", (2.0, 1.0, 0.0))(2.0, 1.0) for each in (one, other))
    assert torch.equal(later, later_too) == same


@pytest.mark.parametrize(
    ("suite", "named"),
    [
        ({"seeds": [1, 2**32 + 1]}, "seed 4294967297 gives the noise of seed 1"),
        ({"seeds": [9, 2**62 + 9]}, "gives the noise of seed 9"),
        ({"prompts": [{"prompt": "a lion", "seeds": [3]}, {"prompt": "a lion", "seeds": [2**40 + 3]}]}, "of seed 3"),
        ({"prompts": ["a lion", "A Lion"]}, "'a lion' and 'A Lion' are read as the same"),
        ({"prompts": ["a lion", " a\tlion\n"]}, "read as the same"),
        ({"prompts": ["salt & pepper", "salt &amp; pepper"]}, "read as the same"),
        ({"prompts": [f"{LONG} at dawn", f"{LONG} at dusk"]}, "what follows the 77th token"),
        ({"prompts": ["a lion", "a lion <end_of_text> at dusk"]}, "read as the same"),  # SD1.5 pads with that token
        (
            {"cfg": 1, "prompts": [{"prompt": "a lion", "negative": "dark"}, "a lion"]},
            "the negative prompts 'dark' and '' are not read at cfg 1",
        ),
        ({"prompts": [{"prompt": "a lion", "negative": "Dark"}, {"prompt": "a lion", "negative": "dark"}]}, "'Dark'"),
    ],
)
def test_a_suite_that_renders_an_image_twice_is_refused_but_a_begun_study_opens(
    suite: dict[str, Any], named: str
) -> None:
    spec = spec_with(suite)
    with pytest.raises(SpecError, match=r"suite: .* both render the same image: remove one") as raised:
        make_plan(spec)
    assert named in str(raised.value)
    assert any(named in note for note in make_plan(spec, begun=True).notes)


@pytest.mark.parametrize(
    "suite",
    [
        {"seeds": [1, 2**32 + 2]},
        {"prompts": ["a lion", "a lion!"]},
        {"cfg": 7, "prompts": [{"prompt": "a lion", "negative": "dark"}, "a lion"]},
        {"sizes": [64, [64, 128]]},
    ],
)
def test_different_images_stay(suite: dict[str, Any]) -> None:
    assert not list(repeated_renders(spec_with(suite), Architecture.SD15))


def twice(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {"prompts": [{"prompt": "a lion"} | one, {"prompt": "a lion"} | other]}


@pytest.mark.parametrize(
    ("suite", "same"),
    [
        ({"syntax": "a1111", "prompts": ["(a lion:1.0)", "a lion"]}, True),
        ({"syntax": "a1111", "prompts": ["(a lion)", "(a lion:1.1)"]}, True),
        ({"syntax": "a1111", "prompts": ["a lion", "(a lion)"]}, False),
        ({"syntax": "a1111", "emphasis": "ignore", "prompts": ["a lion", "[a lion]"]}, True),
        ({"syntax": "a1111", "prompts": ["a lion", "[a panda:a lion:0]"]}, True),
        ({"syntax": "a1111", "prompts": ["a lion # at dusk", "a lion"]}, True),
        ({"syntax": "a1111", "prompts": ["a lion BREAK", "a lion"]}, True),
        ({"syntax": "comfyui", "prompts": ["a lion BREAK", "a lion"]}, False),
        ({"syntax": "comfyui", "prompts": ["(a (lion:1.2):3)", "(a :3)(lion:1.2)"]}, True),
        ({"syntax": "a1111", "prompts": [f"{LONG} at dawn", f"{LONG} at dusk"]}, False),
        ({"syntax": "a1111", "prompts": ["a lion", {"prompt": "a lion", "clip_skip": 2}]}, False),
        (twice({"hires": {"denoise": 0.5, "steps": 10}}, {"hires": {"denoise": 0.49, "steps": 10}}), True),
        (twice({"hires": {"denoise": 0.5, "steps": 10}}, {"hires": {"denoise": 0.47, "steps": 10}}), False),
        (twice({"hires": 2}, {"hires": 2.001}), True),
        (twice({"hires": 2}, {"hires": {"upscaler": "lanczos"}}), False),
        (twice({"hires": 1}, {"hires": {"scale": 1, "upscaler": "latent_bicubic"}}), True),
        (twice({"hires": 1}, {"hires": False}), False),
        (twice({"pag": 3}, {"pag": {"scale": 3, "layers": ["mid_block"]}}), True),
        ({"syntax": "a1111", "hires": {"steps": 10}, "prompts": ["a [lion:fox:1.5]", "a [lion:fox:1.6]"]}, False),
        (
            {
                "syntax": "a1111",
                "steps": 20,
                "hires": {"steps": 10},
                "prompts": ["a [lion:fox:1.5]", "a [lion:fox:25]"],
            },
            True,
        ),
    ],
)
def test_what_reaches_the_model_decides_whether_prompts_are_the_same(suite: dict[str, Any], same: bool) -> None:
    spec = spec_with(suite)
    assert bool(list(repeated_renders(spec, Architecture.SD15))) == same
    assert (first_of_each(spec.suite, Architecture.SD15) is not None) == same


def test_a_plain_prompt_is_the_same_in_another_syntax_unless_its_signs_mean_something() -> None:
    for prompts, same in ((["a lion", "a panda"], True), (["(a lion)", "a panda"], False)):
        plain, written = (
            SuiteSettings.model_validate({**SUITE, "prompts": prompts, "syntax": name}) for name in ("plain", "a1111")
        )
        assert same_renders(plain, written, Architecture.SD15) == same
        assert not same_renders(plain, written, Architecture.SDXL)  # an empty negative prompt is zeros in one


def test_what_follows_the_end_token_reaches_the_second_encoder_of_sdxl_only() -> None:
    spec = spec_with({"prompts": ["a lion", "a lion <end_of_text> at dusk"]})
    assert list(repeated_renders(spec, Architecture.SD15))
    assert not list(repeated_renders(spec, Architecture.SDXL))


class TestFinal:
    @pytest.mark.parametrize("seeds", [[2**33 + 1], [5, 2**32 + 2]])
    def test_noise_of_the_search_is_not_held_out(self, seeds: list[int]) -> None:
        with pytest.raises(SpecError, match="gives the noise of the suite's seed"):
            make_plan(spec_with({"seeds": [1, 2]}, final={"top": 1, "seeds": seeds}))

    @pytest.mark.parametrize(
        "final", [{"seeds": [5, 2**32 + 5]}, {"prompts": ["a fox", "a  FOX"]}, {"prompts": [LONG, f"{LONG} x"]}]
    )
    def test_an_image_is_held_out_once(self, final: dict[str, Any]) -> None:
        with pytest.raises(SpecError, match=r"final: .* both render the same image"):
            make_plan(spec_with({}, final={"top": 1, **final}))

    def test_derived_seeds_avoid_the_noise_of_the_search(self) -> None:
        seed = 2**32 + 1_000_003 + 1  # its noise is that of the seed which is tried first for seed 1
        spec = spec_with({"seeds": [1, seed]}, final={"top": 1})
        noises = {noise_of(item.seed) for item in spec.held_out.items()}
        assert len(noises) == 2
        assert not noises & {noise_of(1), noise_of(seed)}

    def test_a_begun_study_is_not_held_over_the_noise_of_its_search(self, tmp_path: Path) -> None:
        begun: ShortStudy = begin(tmp_path, {**SMALL, "suite": SUITE, "final": {"top": 1, "seeds": [5]}})
        spec = begun.runtime.spec
        changed = spec.model_copy(update={"final": spec.final.model_copy(update={"seeds": (2**33 + 1,)})})
        plan = begun.runtime.plan
        object.__setattr__(plan, "spec", changed)  # as a study that an earlier version stored

        def ignore(*_given: object) -> None:
            pass

        progress = FinalProgress(started=ignore, rendered=ignore)
        with pytest.raises(FinalError, match="gives the noise of the suite's seed 1"):
            hold_final(begun.runtime, [], list, progress, ignore)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"prompts": ["a lion"]}, {"prompts": ["A  Lion"]}, True),
        ({"prompts": [LONG]}, {"prompts": [f"{LONG} at dusk"]}, True),
        ({"seeds": [4]}, {"seeds": [2**32 + 4]}, True),
        ({"cfg": 1, "negative": "dark"}, {"cfg": 0, "negative": "blurred"}, True),  # neither is read
        ({"cfg": 0.5, "negative": "dark"}, {"cfg": 0.5, "negative": "blurred"}, False),
        ({"cfg": 2, "negative": "dark"}, {"cfg": 2, "negative": "blurred"}, False),
        ({"seeds": [1, 2]}, {"seeds": [2, 1]}, False),
        ({"cfg": 1, "negative": "dark"}, {"cfg": 1, "negative": "a lion"}, False),  # fewer texts in a batch
        ({"steps": 1}, {"steps": 2}, False),
    ],
)
def test_suites_of_two_studies_are_compared_by_their_renders(
    one: dict[str, Any], other: dict[str, Any], *, same: bool
) -> None:
    suites = [SuiteSettings.model_validate({**SUITE, **changes}) for changes in (one, other)]
    assert same_renders(suites[0], suites[1], Architecture.SD15) == same


def test_racing_that_divides_equal_suites_otherwise_renders_other_bits() -> None:
    prompts = [f"an emoji of a {name}" for name in ("lion", "panda", "fox", "pizza", "banana", "carrot", "bee", "ant")]
    suites = [
        SuiteSettings.model_validate({**SUITE, "prompts": each}) for each in (prompts, [p.upper() for p in prompts])
    ]
    assert same_renders(suites[0], suites[1], Architecture.SD15)
    assert same_stages(suites[0], suites[1], None)
    assert not same_stages(suites[0], suites[1], 4)


@pytest.mark.parametrize(("sampler", "same"), [("euler", True), ("dpmpp_2m_sde", False), ("dpmpp_sde", False)])
def test_a_brownian_path_depends_on_the_whole_seed(sampler: str, same: bool) -> None:
    suite = SuiteSettings.model_validate(SUITE | {"prompts": ["a lion"], "seeds": [1, 2**32 + 1], "sampler": sampler})
    one, other = model_inputs(suite, Architecture.SD15)
    assert (one == other) == same
