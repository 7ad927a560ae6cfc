"""A prompt's weight and the scorers that it is left out of, in a spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.errors import SpecError
from studies.spec.study import StudySpec, parse_spec


def spec(prompts: str, more: str = "") -> StudySpec:
    text = (
        "study: s\nparents: [a.safetensors, b.safetensors]\nscorers: {sharpness: , clipping: }\n"
        f"suite: {{prompts: {prompts}, seeds: [1, 2]}}\n{more}"
    )
    return parse_spec(text, base_dir=Path("/"))


def test_items_have_the_weight_and_the_exceptions_of_their_prompt() -> None:
    found = spec("[a, {prompt: b, weight: 2.5, without: [clipping]}]")
    assert [(item.weight, item.without) for item in found.suite.items()] == [
        (1.0, ()), (1.0, ()), (2.5, ("clipping",)), (2.5, ("clipping",)),
    ]  # fmt: skip
    assert [item.index for item in found.suite.looked_at_by("clipping")] == [0, 1]
    assert [item.weight for item in found.held_out.items()] == [1.0, 1.0, 2.5, 2.5]
    assert StudySpec.from_json(found.to_json()) == found


def test_neither_changes_what_is_rendered() -> None:
    plain, weighted = spec("[a, b]"), spec("[a, {prompt: b, weight: 2, without: [clipping]}]")
    assert plain.suite.digest == weighted.suite.digest
    assert plain.suite.counts_alike
    assert not weighted.suite.counts_alike


@pytest.mark.parametrize(
    ("prompts", "more", "said"),
    [
        ("[a, {prompt: b, without: [cliping]}]", "", "did you mean 'clipping'"),
        ("[a, {prompt: b, without: [clipping, sharpness]}]", "", "names every scorer"),
        ("[{prompt: a, without: [clipping]}]", "", "left out of every prompt"),
        ("[{prompt: a, weight: 0}]", "", "greater than 0"),
        ("[{prompt: a, weight: .inf}]", "", "finite"),
        ("[a]", "final: {prompts: [{prompt: c, without: [sharpnes]}]}", "final: prompts.0.without"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(prompts: str, more: str, said: str) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        spec(prompts, more)
    assert "\n" not in str(refused.value)
