"""How the check tells which text of a changing prompt is drawn when."""

from __future__ import annotations

from typing import Any

import pytest

from optimizer.cli.views.prompts import prompt_lines
from optimizer.errors import PromptError
from optimizer.rendering.prediction import EPSILON
from optimizer.rendering.prompts.check import SuitePrompts, read_suites
from search_spaces.blocks import Architecture
from studies.spec.suite import SuiteSettings


def read(prompt: str, **settings: Any) -> SuitePrompts:
    suite = SuiteSettings.model_validate({"prompts": [prompt], **settings})
    return read_suites((suite,), Architecture.SD15, {}, EPSILON)


def lines(prompt: str, **settings: Any) -> list[str]:
    """Return the lines that say what is drawn when."""
    found = prompt_lines(read(prompt, **settings).positive[0])
    return [line for line in found if line.startswith(("step", "call"))]


@pytest.mark.parametrize(
    ("prompt", "steps", "expected"),
    [
        ("a [lion:panda:0.5]", 4, ['steps 1 to 3: "a lion"', 'step 4: "a panda"']),
        ("a [lion:panda:3]", 10, ['steps 1 to 4: "a lion"', 'steps 5 to 10: "a panda"']),
        ("a [lion:panda:40]", 4, []),  # panda is never drawn
        ("a [lion:panda:3]", 4, []),
        ("a [red|blue] car", 30, ['steps 1 to 30 in turns: "a red car", "a blue car"']),
        ("[a|b|c]", 20, ['steps 1 to 20 in turns: "a", "b", "c"']),
        ("[[a|b]:c:0.5]", 20, ['steps 1 to 11 in turns: "a", "b"', 'steps 12 to 20: "c"']),
    ],
)
def test_texts_are_told_by_steps_that_are_taken(prompt: str, steps: int, expected: list[str]) -> None:
    assert lines(prompt, steps=steps, sampler="euler") == expected


def test_samplers_that_call_the_unet_twice_are_told_by_calls() -> None:
    assert lines("[red|blue]", steps=30, sampler="DPM++ SDE") == [
        'calls 1 to 59 of 59 (two in a step) in turns: "red", "blue"'
    ]
    assert lines("[a:b:2]", steps=2, sampler="heun") == []


def test_a_text_that_is_never_drawn_is_not_explained() -> None:
    found = "\n".join(prompt_lines(read("a [lion:panda:40]", steps=4).positive[0]))
    assert "panda" not in found


@pytest.mark.parametrize(
    ("prompt", "steps", "edit"),
    [
        ("[from:to:40]", 4, "[from:to:40]"),
        ("a lion [in snow:9], old", 9, "[in snow:9]"),
        ("a [(big:1.2) cat::1.0]", 5, "[(big:1.2) cat::1.0]"),
    ],
)
def test_an_edit_that_is_never_reached_is_noted(prompt: str, steps: int, edit: str) -> None:
    (note,) = read(prompt, steps=steps).notes
    assert f"has {edit!r}, which never changes in {steps} steps" in note


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a lion", [[]]),  # the second pass is told where it differs
        ("a [lion:panda:1.5]", [[], ['steps 1 to 5: "a lion"', 'steps 6 to 8: "a panda"']]),
        ("a [lion:panda:0.5]", [['steps 1 to 3: "a lion"', 'step 4: "a panda"'], []]),
    ],
)
def test_a_second_pass_is_told_by_its_own_steps(prompt: str, shown: list[list[str]]) -> None:
    found = read(prompt, steps=4, sampler="euler", hires={"steps": 8}).positive
    assert [each.is_second for each in found] == [False, True][: len(shown)]
    assert [[line for line in prompt_lines(each) if line.startswith("step")] for each in found] == shown


def test_a_prompt_that_is_read_alike_in_several_ways_of_sampling_is_told_once() -> None:
    rows = [{"prompt": "a lion", "hires": hires} for hires in (False, 1.5, {"denoise": 0.3})]
    suite = SuiteSettings.model_validate({"prompts": rows})
    found = read_suites((suite,), Architecture.SD15, {}, EPSILON)
    assert [len(found.positive), len(found.negative)] == [1, 1]


def test_an_edit_of_the_second_pass_is_not_noted_unless_it_is_reached_in_neither() -> None:
    assert read("[from:to:6]", steps=4, hires={"steps": 8}).notes == ()
    (note,) = read("[from:to:40]", steps=4, hires={"steps": 8}).notes
    assert "which never changes in 12 steps" in note


@pytest.mark.parametrize("prompt", ["[from:to:2]", "[from:to:0]", "[a|b]", "[a:b:0.5]"])
def test_an_edit_that_is_reached_is_not_noted(prompt: str) -> None:
    assert read(prompt, steps=4).notes == ()


def test_every_embedding_in_the_other_syntax_is_named() -> None:
    (note,) = read("embedding:one, embedding:two a lion").notes
    assert "embedding:one" in note
    assert "embedding:two" in note


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [("(a lion:1.2", "is not closed"), ("(a AND b", "is not closed"), ("[a <lora:x:1>", "is not closed")],
)
def test_a_bracket_that_does_not_close_is_told_before_what_it_makes_of_the_rest(prompt: str, problem: str) -> None:
    with pytest.raises(PromptError, match=problem):
        read(prompt)
