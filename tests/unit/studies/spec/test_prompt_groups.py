"""Groups of prompts, and scorers that look at some of them only, in a spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.trial.image_counts import check_image_counts
from scorers.errors import SuiteImagesError
from studies.errors import SpecError, StudyChangedError
from studies.spec.fingerprints import refuse_changed_spec
from studies.spec.study import StudySpec, parse_spec

PROMPTS = "[{prompt: a, group: people}, {prompt: b, group: text}, c]"
OF_PEOPLE = "{sharpness: {groups: [people]}, clipping: }"
OF_X = "{sharpness: {groups: [x]}, clipping: }"


def spec(prompts: str = PROMPTS, scorers: str = OF_PEOPLE, more: str = "") -> StudySpec:
    text = (
        "study: s\nparents: [a.safetensors, b.safetensors]\n"
        f"scorers: {scorers}\nsuite: {{prompts: {prompts}, seeds: [1, 2]}}\n{more}"
    )
    return parse_spec(text, base_dir=Path("/"))


def looked_at(found: StudySpec, scorer: str) -> list[int]:
    return [item.index for item in found.suite.looked_at_by(scorer)]


def test_a_scorer_of_groups_looks_at_their_prompts_alone() -> None:
    found = spec()
    assert looked_at(found, "sharpness") == [0, 1]
    assert looked_at(found, "clipping") == [0, 1, 2, 3, 4, 5]
    assert [item.group for item in found.suite.items()] == ["people", "people", "text", "text", None, None]
    assert [len(found.held_out.looked_at_by(name)) for name in found.scorers] == [2, 6]
    two = spec(
        "[{prompt: a, group: people}, {prompt: b, group: text}, c]", "{sharpness: {groups: [people, text]}, clipping: }"
    )
    assert looked_at(two, "sharpness") == [0, 1, 2, 3]


def test_a_prompt_may_still_be_left_out_by_name_and_the_final_has_prompts_of_its_own() -> None:
    found = spec(
        "[{prompt: a, group: x}, {prompt: b, group: x, without: [sharpness]}]",
        "{sharpness: {groups: x}, clipping: }",
        "final: {prompts: [{prompt: d, group: x}, e]}",
    )
    assert looked_at(found, "sharpness") == [0, 1]
    assert [item.without for item in found.held_out.items()] == [(), (), ("sharpness",), ("sharpness",)]


def test_a_stored_spec_is_the_one_that_was_read() -> None:
    found = spec("[{prompt: a, group: people}, {prompt: b, group: text}]")
    assert StudySpec.from_json(found.to_json()) == found
    assert found.scorers["sharpness"].groups == ("people",)
    refuse_changed_spec(StudySpec.from_json(found.to_json()), found)


def test_groups_change_no_image_but_the_scorers() -> None:
    prompts = "[{prompt: a, group: people}, {prompt: b, group: text}]"
    plain, grouped = spec("[a, b]", "{sharpness: , clipping: }"), spec(prompts)
    assert plain.suite.digest == grouped.suite.digest
    assert plain.suite.counts_alike
    assert not grouped.suite.counts_alike
    with pytest.raises(StudyChangedError, match="scorers"):
        refuse_changed_spec(grouped, spec(prompts, "{sharpness: {groups: [text]}, clipping: }"))


@pytest.mark.parametrize(
    ("prompts", "scorers", "more", "said"),
    [
        (PROMPTS, "{sharpness: {groups: [peple]}, clipping: }", "", "'peple' of prompts: did you mean 'people'"),
        ("[a]", "{sharpness: {groups: [people]}}", "", "no prompt has a `group`"),
        (PROMPTS, "{sharpness: {groups: []}, clipping: }", "", "`groups` is empty"),
        (PROMPTS, "{sharpness: {groups: {a: b}}, clipping: }", "", "scorers.sharpness.groups"),
        ("[a, {prompt: b, group: x}]", "{sharpness: {groups: [x]}}", "", "prompts.0: no scorer looks at it"),
        ("[{prompt: b, group: x, without: [sharpness]}, c]", OF_X, "", "looks at no prompt"),
        ("[{prompt: b, group: x}]", OF_X, "final: {prompts: [d]}", "final: scorer 'sharpness' looks at no prompt"),
        ("[{prompt: b, group: ' '}]", "{clipping: }", "", "needs a name"),
        ("[{prompt: b, group: \"a\\u200bb\"}]", "{clipping: }", "", "cannot be seen"),
        ("[{prompt: b, groups: x}]", "{clipping: }", "", "did you mean `group`"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(prompts: str, scorers: str, more: str, said: str) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        spec(prompts, scorers, more)
    assert "\n" not in str(refused.value)


def test_a_set_scorer_of_a_group_with_too_few_images_is_refused_before_anything_is_loaded() -> None:
    prompts = "[{prompt: a, group: x}, {prompt: b, group: x}, c, d, e, f]"
    few = spec(prompts, "{fid: {reference: /r, groups: [x]}, clipping: }")
    with pytest.raises(SuiteImagesError, match="at least 8 images, got 4"):
        check_image_counts(few, few.infos)
