"""Variants and wildcards of prompts: what they expand to, and that each spec expands once and for all."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from studies.errors import SpecError
from studies.spec.dynamic_prompts import Wildcards, expand
from studies.spec.study import StudySpec, parse_spec


def outcomes(text: str, wildcards: Wildcards | None = None, draws: int = 400) -> Counter[str]:
    return Counter(expand(text, random.Random(str(number)), wildcards) for number in range(draws))


@pytest.fixture
def wildcards(tmp_path: Path) -> Wildcards:
    folder = tmp_path / "wild"
    (folder / "colours").mkdir(parents=True)
    (folder / "animal.txt").write_text("# animals\ncat\n\n3::{big|small} dog\n")
    (folder / "colours" / "warm.txt").write_text("red\n")
    (folder / "colours" / "cold.txt").write_text("blue\r\ngreen\r\n")
    (folder / "circle.txt").write_text("__circle__\n")
    (folder / "pair.txt").write_text("__animal__ and __colours/warm__\n")
    return Wildcards(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a {cat|dog}", {"a cat", "a dog"}),
        ("{2$$a|b|c}", {"a, b", "b, a", "a, c", "c, a", "b, c", "c, b"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{1-2$$a|b}", {"a", "b", "a, b", "b, a"}),
        ("{-1$$a|b}", {"a", "b"}),
        ("{5$$a|b}", {"a, b", "b, a"}),
        ("{a|{b|c} d}", {"a", "b d", "c d"}),
        (r"\{a\} {b\|c}", {"{a} b|c"}),
        ("{|a} x", {" x", "a x"}),
        ("(masterpiece:1.3) [a|b] [a:b:0.5] <lora:x:0.5>", {"(masterpiece:1.3) [a|b] [a:b:0.5] <lora:x:0.5>"}),
        ("{0::a|b}", {"b"}),
    ],
)
def test_variants_expand_to(text: str, expected: set[str]) -> None:
    assert set(outcomes(text)) == expected


def test_weights_are_relative() -> None:
    assert outcomes("{3::a|b}", draws=4000)["a"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_wildcards_are_lines_of_files_and_may_hold_more(wildcards: Wildcards) -> None:
    assert set(outcomes("a __animal__", wildcards)) == {"a cat", "a big dog", "a small dog"}
    assert outcomes("__animal__", wildcards, 4000)["cat"] / 4000 == pytest.approx(0.25, abs=0.03)
    assert set(outcomes("__colours/*__", wildcards)) == {"red", "blue", "green"}
    assert set(outcomes("{2$$__colours/cold__}", wildcards)) == {"blue, green", "green, blue"}
    assert "big dog and red" in outcomes("__pair__", wildcards)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("__anmal__", "did you mean __animal__?"),
        ("__circle__", "contain themselves"),
        ("{a|b", "is not closed"),
        ("a}", "closes nothing"),
        ("${x=!{a|b}} ${x}", "variables"),
        ("__animal(x=1)__", "parameters"),
    ],
)
def test_what_cannot_be_expanded_is_refused(wildcards: Wildcards, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        expand(text, random.Random(0), wildcards)


def spec(tmp_path: Path, suite: str) -> StudySpec:
    text = f"study: s\nparents: [a.safetensors, b.safetensors]\nscorers: {{sharpness: }}\nsuite: {suite}\n"
    return parse_spec(text, base_dir=tmp_path)


def prompts(found: StudySpec) -> list[str]:
    return [prompt.prompt for prompt in found.suite.prompts]


def test_a_spec_is_stored_expanded_and_the_same_each_time(tmp_path: Path, wildcards: Wildcards) -> None:
    suite = (
        '{wildcards: wild, dynamic: {seed: 4, count: 3}, prompts: ["a __animal__ {x|y}", "plain"], negative: "{u|v}"}'
    )
    first, again = spec(tmp_path, suite), spec(tmp_path, suite)
    assert first == again
    assert len(first.suite.prompts) > 3
    assert not any(sign in text for text in prompts(first) for sign in "{_")
    assert {prompt.negative for prompt in first.suite.prompts} <= {"u", "v"}
    stored = StudySpec.from_json(first.to_json())
    assert stored == first
    (tmp_path / "wild" / "animal.txt").write_text("elk\n")
    assert StudySpec.from_json(first.to_json()) == first
    other = spec(tmp_path, suite.replace("seed: 4", "seed: 5"))
    assert prompts(other) != prompts(first)


def test_braces_are_literal_unless_the_suite_says_otherwise(tmp_path: Path) -> None:
    for suite in ('{prompts: ["a {b|c} __d__"]}', '{prompts: ["a {b|c} __d__"], dynamic: false}'):
        assert prompts(spec(tmp_path, suite)) == ["a {b|c} __d__"]


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ('{prompts: ["__a__"], dynamic: true}', "`suite.wildcards`"),
        ('{prompts: ["a"], wildcards: nowhere}', "is no folder"),
        ('{prompts: ["a"], dynamic: {cuont: 2}}', "did you mean `count`"),
        ('{prompts: ["{a"], dynamic: true}', "is not closed"),
    ],
)
def test_a_spec_that_cannot_be_expanded_is_refused_in_one_line(tmp_path: Path, suite: str, said: str) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        spec(tmp_path, suite)
    assert "\n" not in str(refused.value)


def test_the_finals_prompts_are_expanded_too(tmp_path: Path) -> None:
    text = (
        "study: s\nparents: [a.safetensors, b.safetensors]\nscorers: {sharpness: }\n"
        'suite: {prompts: [a], dynamic: true}\nfinal: {prompts: ["{c|d} e"]}\n'
    )
    final: Any = parse_spec(text, base_dir=tmp_path).final
    assert final.prompts[0].prompt in {"c e", "d e"}


def test_every_text_that_is_a_prompt_is_expanded(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a {kept}\nSteps: 2, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64")
    text = (
        "study: s\nparents: [a.safetensors, b.safetensors]\nscorers: {sharpness: }\n"
        "suite: {dynamic: true, negative: '{a|b} c', prompts: ['{d|e}', {prompt: '{f|g}', negative: '{h|i}'}, "
        "{image: a.txt, negative: '{j|k}'}, {image: a.txt, prompt: '{l|m}', seeds: [2]}]}\n"
        "final: {prompts: [{prompt: n, negative: '{o|p}'}, '{q|r}']}\n"
    )
    found = parse_spec(text, base_dir=tmp_path)
    texts = [
        text
        for suite in (found.suite, found.held_out)
        for item in suite.items()
        for text in (item.prompt, item.negative)
    ]
    assert texts.pop(texts.index("a {kept}"))
    assert len(texts) == 11
    assert not any(sign in text for text in [*texts, found.suite.negative] for sign in "{|}")


@pytest.mark.parametrize("prompt", ['masterpiece: "{a|b}"', 'prompt: {masterpiece: "{a|b}"}', 'negative: {x: "{a|b}"}'])
def test_a_text_that_yaml_reads_as_a_mapping_is_refused_and_not_left_as_it_is(tmp_path: Path, prompt: str) -> None:
    with pytest.raises(SpecError, match="as a mapping") as refused:
        spec(
            tmp_path,
            f"{{dynamic: true, prompts: [{{prompt: x, {prompt}}}]}}"
            if prompt.startswith("neg")
            else f"{{dynamic: true, prompts: [{prompt}]}}",
        )
    assert "in quotes" in str(refused.value)


def test_an_empty_negative_prompt_takes_the_suites_which_is_expanded(tmp_path: Path) -> None:
    suite = "{dynamic: true, negative: '{x|y}', prompts: [{prompt: a lion, negative: null}]}"
    (item,) = spec(tmp_path, suite).suite.items()
    assert item.negative in {"x", "y"}
