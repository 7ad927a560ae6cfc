"""Scorers of LoRAs in a spec: they look at the prompts that have a LoRA on top, and at no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.errors import SpecError
from studies.spec.study import StudySpec, parse_spec

INK, STYLE = "<lora:ink:0.8>", "<lora:style:1>"
PROMPTS = f'["a {INK}", b, "c {STYLE}", "d # {INK}"]'


def spec(prompts: str = PROMPTS, lora: str = "", suite: str = "", more: str = "") -> StudySpec:
    text = (
        "study: s\nparents: [a.safetensors, b.safetensors]\n"
        f"scorers: {{lora_compatibility: {lora}, clipping: }}\n"
        f"suite: {{prompts: {prompts}, seeds: [1, 2]{suite}}}\n{more}"
    )
    return parse_spec(text, base_dir=Path("/"))


def looked_at(found: StudySpec) -> list[int]:
    return [item.index for item in found.suite.looked_at_by("lora_compatibility")]


def test_it_looks_at_the_items_with_a_lora_and_other_scorers_at_all() -> None:
    found = spec()
    assert looked_at(found) == [0, 1, 4, 5]
    assert len(found.suite.looked_at_by("clipping")) == 8
    assert [item.index for item in found.held_out.looked_at_by("lora_compatibility")] == [0, 1, 4, 5]


def test_it_may_look_at_the_items_of_one_lora() -> None:
    assert looked_at(spec(lora="{lora: style}")) == [4, 5]


def test_a_lora_on_top_of_the_whole_suite_is_on_top_of_every_item() -> None:
    assert looked_at(spec("[a, b]", suite=", loras: [files/lcm.safetensors]")) == [0, 1, 2, 3]
    assert looked_at(spec("[a, b]", "{lora: lcm}", ", loras: [files/lcm.safetensors]")) == [0, 1, 2, 3]


def test_the_final_has_prompts_of_its_own() -> None:
    found = spec(more=f'final: {{prompts: [d, "e {INK}"]}}')
    assert [item.without for item in found.held_out.items()] == [("lora_compatibility",)] * 2 + [()] * 2


def test_a_stored_spec_is_the_one_that_was_read() -> None:
    found = spec(lora="{lora: ink}")
    assert StudySpec.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("prompts", "lora", "more", "said"),
    [
        (
            "[a, b]",
            "",
            "",
            "lora_compatibility looks at items with a LoRA on top, and the suite has none: write <lora:",
        ),
        (
            PROMPTS,
            "{lora: stile}",
            "",
            "lora_compatibility.lora: no item of the suite has a LoRA 'stile': did you mean",
        ),
        (PROMPTS, "", "final: {prompts: [d]}", "final: scorer 'lora_compatibility' looks at no prompt"),
        (PROMPTS, "{lora: ''}", "", "lora"),
    ],
)
def test_a_suite_without_its_lora_is_refused_in_one_line(prompts: str, lora: str, more: str, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec(prompts, lora, more=more)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_prompt_at_which_no_scorer_looks_is_refused() -> None:
    text = (
        "study: s\nparents: [a.safetensors, b.safetensors]\nscorers: {lora_compatibility: }\n"
        f'suite: {{prompts: ["a {INK}", b]}}\n'
    )
    with pytest.raises(SpecError, match=r"prompts\.1: no scorer looks at it, by its `group`, its LoRAs"):
        parse_spec(text, base_dir=Path("/"))
