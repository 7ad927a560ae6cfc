"""Prompts, names and paths that YAML does not read as texts: each gets one line that says to put it in quotes."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.errors import RecipeError, SpecError
from studies.recipe.file import parse_recipe_file
from studies.spec.study import parse_spec
from studies.system.texts import cut_texts

SPEC = """study: portraits
parents: [a.safetensors, b.safetensors]
scorers: {sharpness: }
suite:
  prompts:
    - a cat
    %s
"""


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as raised:
        parse_spec(text, base_dir=Path("/"), origin="spec.yaml")
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("item", "kind", "quoted"),
    [
        ("- 2024", "a number", '"2024"'),
        ("- 1_000", "a number", '"1_000"'),
        ("- 1:30", "a number", '"1:30"'),
        ("- .5", "a number", '".5"'),
        ("- 2024-01-01", "a date", '"2024-01-01"'),
        ("- yes", "true or false", '"yes"'),
        ("- Off", "true or false", '"Off"'),
        ("- null", "nothing", '"null"'),
        ("- ~", "nothing", '"~"'),
        ("- [a lion]", "a list", '"[a lion]"'),
        ("- - lion", "a list", '"- lion"'),
        ("- masterpiece: a lion", "a mapping", '"masterpiece: a lion"'),
        ("- {a lion}", "a mapping", '"{a lion}"'),
        ('- portrait: the "king"', "a mapping", "'portrait: the \"king\"'"),
        ("- {prompt: 7}", "a number", '"7"'),
    ],
)
def test_a_prompt_that_yaml_reads_as_something_else_is_shown_as_written_and_in_quotes(
    item: str, kind: str, quoted: str
) -> None:
    message = refusal(SPEC % item)
    assert f"in line 7 as {kind}" in message
    assert message.endswith(f"put the prompt in quotes: {quoted}")
    parse_spec(SPEC % f"- {quoted}", base_dir=Path("/"))  # the advice helps


@pytest.mark.parametrize("item", ["-", "- #1 lion", "- {prompt: }"])
def test_an_empty_item_is_said_to_be_empty(item: str) -> None:
    assert "no prompt in line 7: write it, in quotes if it begins with #, or remove the line" in refusal(SPEC % item)


@pytest.mark.parametrize(
    ("item", "advice"),
    [
        ("- prompt: masterpiece: a lion", "contains a colon and a space"),
        ("- best: quality: lion", "contains a colon and a space"),
        ("- @lion", "begins with @"),
        ("- *lion", "begins with @"),
        ("- !lion", "begins with @"),
        ("- | lion", "begins with @"),
        ('- "a lion" in snow', "begins with @"),
        ("- {prompt: a lion, seeds: [1 #2]}", "contains a comma, a bracket or a #"),
        ("- 2024-13-01", "looks like a date"),
    ],
)
def test_a_text_that_is_no_yaml_gets_the_same_advice(item: str, advice: str) -> None:
    message = refusal(SPEC % item)
    assert "in quotes" in message
    assert advice in message


@pytest.mark.parametrize(
    ("old", "new", "where", "noun"),
    [
        ("study: portraits", "study: 2024", "study", "name"),
        ("study: portraits", "study: on", "study", "name"),
        ("a.safetensors", "1.5", "parents.0", "path"),
        ("scorers: {", "scorers: {5: {kind: contrast}, ", "scorers", "name"),
        ("suite:", "vae: no\nsuite:", "vae", "path"),
        ("suite:", "suite:\n  negative: 3", "suite.negative", "negative prompt"),
        ("suite:", "probes: {recipes: [12]}\nsuite:", "probes.recipes.0", "path"),
        ("suite:", "warm_start: 2023\nsuite:", "warm_start", "name"),
        ("suite:", "final: {prompts: [true]}\nsuite:", "final.prompts.0", "prompt"),
    ],
)
def test_so_do_names_paths_and_negative_prompts(old: str, new: str, where: str, noun: str) -> None:
    message = refusal((SPEC % "- a dog").replace(old, new, 1))
    assert f"`{where}`: YAML reads" in message
    assert f"put the {noun} in quotes" in message


def test_a_recipe_s_paths_do_too() -> None:
    with pytest.raises(
        RecipeError, match=r"`parents.A`: YAML reads `2024` in line 1 as a number: put the path in quotes"
    ):
        parse_recipe_file("parents: [2024, b.safetensors]\nratio: 0.5", base_dir=Path("/"))


@pytest.mark.parametrize("key", ["promt", "negativ", "seed"])
def test_a_slip_of_a_setting_is_no_text(key: str) -> None:
    assert "did you mean" in refusal(SPEC % f"- {{{key}: a lion}}")


@pytest.mark.parametrize("text", ["seed: a lion", "Sizes: big lion", "Seeds: 7 of a flower", "seeds: of a flower"])
@pytest.mark.parametrize("place", ["suite", "final"])
def test_a_slip_of_a_setting_with_a_text_may_be_a_prompt_as_well(text: str, place: str) -> None:
    spec = SPEC if place == "suite" else f"{SPEC % '- a dog'}final:\n  prompts:\n    - a fox\n    %s\n"
    assert refusal(spec % f"- {text}").endswith(f'; if `{text}` is a prompt, put it in quotes: "{text}"')
    parse_spec(spec % f'- "{text}"', base_dir=Path("/"))  # the advice helps


@pytest.mark.parametrize("item", ["- seed: 7", "- seed: [1, 2]", "- {promt: a lion, seeds: [1]}", "- seed: '7'"])
def test_a_slip_without_a_text_is_a_slip_only(item: str) -> None:
    assert "in quotes" not in refusal(SPEC % item)


class TestComments:
    @pytest.mark.parametrize("item", ["- lion #1", "- {prompt: lion #1\n      }", "- cat\n    - lion  #best, red"])
    def test_a_text_that_ends_before_a_sign_without_a_space_is_noted(self, item: str) -> None:
        (note,) = cut_texts(SPEC % item)
        assert "for a comment, so the text is `lion`; if it belongs to the text, put all of it in quotes" in note

    @pytest.mark.parametrize("item", ["- lion#1", "- 'lion #1'", '- "lion" #1', "- lion # my favourite", "# - lion #1"])
    def test_quotes_usual_comments_and_signs_within_words_are_not(self, item: str) -> None:
        assert cut_texts(SPEC % item) == []

    @pytest.mark.parametrize("item", ["- &cat lion", "- {prompt: &1 lion}", "- &a,b lion"])
    def test_an_anchor_that_nothing_refers_to_may_be_text(self, item: str) -> None:
        notes = cut_texts(SPEC % item)
        assert len(notes) == ("," not in item)
        assert all("for an anchor, so the text is `lion`; if it belongs to the text" in note for note in notes)
        assert cut_texts(SPEC % f"{item}\n    - *cat\n    - *1") == []

    def test_paths_are_noted_and_other_settings_are_not(self) -> None:
        text = SPEC.replace("[a.safetensors, b.safetensors]", "\n  - model #2.safetensors\n  - b.safetensors")
        (note,) = cut_texts(text % "- a dog" + "  sampler: euler #fast\n")
        assert note.startswith("line 3: YAML takes `#2.safetensors` for a comment, so the text is `model`")

    def test_what_is_no_yaml_is_left_to_who_reads_it(self) -> None:
        assert cut_texts("prompts: [a") == []


@pytest.mark.parametrize(
    "line", ['space: {bounds: {"*": [0, 1], 5: [0, 1]}}', 'space: {bounds: {"a: b: c": [0, 1], 5: [0, 1]}}']
)
def test_quoted_keys_beside_a_number_as_a_key_are_texts(line: str) -> None:
    """A quoted key may be no YAML by itself."""
    message = refusal(SPEC.replace("    %s\n", "") + line + "\n")
    assert '"5"' in message
