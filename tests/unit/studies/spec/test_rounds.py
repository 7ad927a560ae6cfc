"""What each round of a bracket renders: other subjects and other noise, unless the spec names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.errors import SpecError
from studies.spec.rounds import BracketSpec, read_bracket
from studies.spec.study import parse_spec
from studies.spec.suite import noise_of

SAMPLERS = ["euler_ancestral", "euler_ancestral", "heun", "euler_ancestral"]
PROMPTS = ["a lion", "a fox", "a pear", "a plum", "a boat", "a hut", "a cup", "a key"]


def read(folder: Path, text: str, count: int = 2) -> BracketSpec:
    file = folder / "bracket.yaml"
    file.write_text(text)
    return read_bracket(file, [folder / f"{number}.safetensors" for number in range(count)])


def spec_of(folder: Path, **changes: Any) -> BracketSpec:
    suite = {"prompts": PROMPTS, "seeds": [1, 2], "sizes": [64], "steps": 4}
    return read(folder, yaml.safe_dump({"suite": suite, "scorers": {"sharpness": None}} | changes))


def test_a_part_of_the_prompts_is_dealt_to_each_round_with_as_many_images(tmp_path: Path) -> None:
    suites = spec_of(tmp_path).suites(2)
    texts = [[prompt.prompt for prompt in suite.prompts] for suite in suites]
    assert texts == [PROMPTS[0::2], PROMPTS[1::2]]
    assert [len(suite.items()) for suite in suites] == [16, 16]


def test_where_a_round_would_have_too_few_prompts_it_has_them_all(tmp_path: Path) -> None:
    for suite in spec_of(tmp_path).suites(3):
        assert [prompt.prompt for prompt in suite.prompts] == PROMPTS
        assert len(suite.items()) == 16


def test_prompts_that_do_not_count_alike_are_not_dealt(tmp_path: Path) -> None:
    prompts = [{"prompt": "a lion", "weight": 2}, *PROMPTS[1:]]
    for suite in spec_of(tmp_path, suite={"prompts": prompts, "sizes": [64]}).suites(2):
        assert len(suite.prompts) == len(PROMPTS)


def test_what_a_round_names_holds_for_prompts_with_settings_of_their_own(tmp_path: Path) -> None:
    own = {"prompt": "a lion", "steps": 9, "cfg": 3, "sampler": "Euler a", "seeds": [5]}
    suite = {"prompts": [own, "a fox"], "sizes": [64], "steps": 4, "cfg": 7, "sampler": "DPM++ 2M"}
    rounds = [{}, {"steps": 6}, {"sampler": "Heun", "seeds": [8]}, {"schedule": "exponential"}]
    lions = [
        next(item for item in suite.items() if item.prompt == "a lion")
        for suite in spec_of(tmp_path, suite=suite, rounds=rounds).suites(4)
    ]
    sampled = [(item.sampling.steps, item.sampling.cfg, item.sampling.sampler) for item in lions]
    assert sampled == [(steps, 3, sampler) for steps, sampler in zip((9, 6, 9, 9), SAMPLERS, strict=True)]
    assert [item.sampling.schedule for item in lions] == ["normal", "normal", "normal", "exponential"]
    assert lions[2].seed == 8


def test_prompts_that_a_round_names_keep_their_own_settings(tmp_path: Path) -> None:
    named = {"prompts": [{"prompt": "a boat", "steps": 9}, "a hut"], "steps": 6}
    (suite,) = spec_of(tmp_path, rounds=[named]).suites(1)
    assert {item.prompt: item.sampling.steps for item in suite.items()} == {"a boat": 9, "a hut": 6}


def test_prompts_that_would_be_the_same_in_a_round_are_refused(tmp_path: Path) -> None:
    suite = {"prompts": ["a lion", {"prompt": "a lion", "steps": 9}], "sizes": [64], "steps": 4}
    with pytest.raises(SpecError, match=r"round 1: .*the same render twice"):
        spec_of(tmp_path, suite=suite, rounds=[{"steps": 6}])


def test_several_objectives_are_refused_where_one_number_decides(tmp_path: Path) -> None:
    spec_of(tmp_path).require_one_number()
    scorers = {"sharpness": None, "contrast": None}
    with pytest.raises(SpecError, match="--by eye"):
        spec_of(tmp_path, scorers=scorers, objectives=["sharpness", "contrast"]).require_one_number()


def test_constraints_are_refused_where_scorers_judge(tmp_path: Path) -> None:
    bounded = spec_of(tmp_path, constraints={"sharpness": {"max": 40}})
    with pytest.raises(SpecError, match="a bracket keeps no `constraints`"):
        bounded.require_one_number()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_no_two_rounds_share_a_noise_with_each_other_or_with_the_search_among_the_winners(
    tmp_path: Path, count: int
) -> None:
    bracket = spec_of(tmp_path)
    suites = [*bracket.suites(count), bracket.spec.suite, bracket.spec.held_out]
    noises = [{noise_of(item.seed) for item in suite.items()} for suite in suites]
    assert len(set.union(*noises)) == sum(map(len, noises))


def test_seeds_of_single_prompts_are_replaced_as_well(tmp_path: Path) -> None:
    suite = {"prompts": [{"prompt": "a lion", "seeds": [7]}, "a fox"], "seeds": [1], "sizes": [64]}
    seen: set[int] = set()
    for each in spec_of(tmp_path, suite=suite).suites(3):
        seeds = {item.seed for item in each.items()}
        assert len(seeds) == 2
        assert not seeds & (seen | {1, 7})
        seen |= seeds


def test_a_round_has_what_the_spec_names_for_it(tmp_path: Path) -> None:
    rounds = [{"steps": 9}, {"prompts": ["a whale"], "cfg": 3}, {"prompts": [{"prompt": "a bee", "seeds": [5]}]}]
    first, second, third, fourth = spec_of(tmp_path, rounds=rounds).suites(4)
    assert [suite.steps for suite in (first, second, third, fourth)] == [9, 4, 4, 4]
    assert [prompt.prompt for prompt in second.prompts] == ["a whale"]
    assert (second.cfg, first.cfg) == (3, 7)
    assert [item.seed for item in third.items()] == [5]


def test_named_seeds_stay(tmp_path: Path) -> None:
    (suite,) = spec_of(tmp_path, rounds=[{"seeds": [11, 12]}]).suites(1)
    assert suite.seeds == (11, 12)


def test_rounds_that_would_render_the_same_are_refused(tmp_path: Path) -> None:
    same = {"prompts": ["a whale"], "seeds": [1]}
    with pytest.raises(SpecError, match="round 3 would render the same as round 1"):
        spec_of(tmp_path, rounds=[same, {}, same]).suites(3)


def test_wildcards_and_names_of_other_programs_are_read_in_rounds_as_in_a_suite(tmp_path: Path) -> None:
    rounds = [{"dynamic": True, "prompts": ["a {red|red} hat"], "sampler": "Euler a"}]
    (suite,) = spec_of(tmp_path, rounds=rounds).suites(1)
    assert suite.prompts[0].prompt == "a red hat"
    assert suite.sampler == "euler_ancestral"


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ("3", "`rounds`: expected a list"),
        ("[4]", "`rounds`: expected a list"),
        ("{steps: 3}", "`rounds`: expected a list"),
        ("[{}, {stepz: 3}]", r"round 2: unknown key `suite.stepz`: did you mean `steps`"),
        ("[{steps: 0}]", "round 1: `suite.steps`"),
        ("[{prompts: []}]", "round 1"),
        ("[{sampler: warp}]", "round 1"),
    ],
)
def test_a_round_that_cannot_be_read_is_named(tmp_path: Path, rounds: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        read(tmp_path, f"suite: {{prompts: [a lion]}}\nscorers: {{sharpness: }}\nrounds: {rounds}\n")


def test_a_spec_without_a_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="`suite` is missing"):
        read(tmp_path, "scorers: {sharpness: }\n")


def test_a_study_spec_with_rounds_says_who_reads_them(tmp_path: Path) -> None:
    text = "study: x\nparents: [a, b]\nsuite: {prompts: [a lion]}\nscorers: {sharpness: }\nrounds: []\n"
    with pytest.raises(SpecError, match="mergetune bracket"):
        parse_spec(text, base_dir=tmp_path)


def test_a_spec_need_name_neither_study_nor_scorers(tmp_path: Path) -> None:
    spec = read(tmp_path, "suite: {prompts: [a lion]}\n").spec
    assert set(spec.scorers) == {"aesthetic", "clip_score"}


def test_the_search_among_the_winners_has_the_spec_of_the_bracket(tmp_path: Path) -> None:
    bracket = spec_of(tmp_path, study="big", space={"granularity": "sections"}, rounds=[{"steps": 30}])
    parents = [tmp_path / f"{name}.safetensors" for name in "xyz"]
    search = bracket.among(parents)
    assert (search.study, search.parents) == ("big-winners", tuple(parents))
    assert (search.suite, search.space) == (bracket.spec.suite, bracket.spec.space)


def test_steps_of_two_parents_are_refused_for_three_winners(tmp_path: Path) -> None:
    bracket = spec_of(tmp_path, steps=[{"method": "slerp", "inputs": ["A", "B"]}])
    with pytest.raises(SpecError, match=r"with 3 winners as parents.*--winners"):
        bracket.among([tmp_path / f"{name}.safetensors" for name in "xyz"])
