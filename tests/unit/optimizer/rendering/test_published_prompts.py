"""Published prompts: what our reader would refuse is written as A1111 reads it, or left out with the reason."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.rendering.prompts.attention import weighted_pieces
from optimizer.rendering.published import left_out
from studies.spec.published.brackets import with_closed_brackets
from studies.spec.published.infotext import parse_infotext
from studies.spec.published.settings import PublishedSettings, checked
from studies.spec.published.suites import one_suite

LINE = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: {seed}, Size: 512x512, RNG: CPU"
PARTS = st.lists(st.sampled_from(["(", ")", "a", "b ", ", ", "\\(", "\\)", ":1.2)", "((", "# c\n"]), max_size=10)


def read(prompt: str, negative: str = "", seed: int = 1) -> PublishedSettings:
    return checked(parse_infotext(f"{prompt}\nNegative prompt: {negative}\n{LINE.format(seed=seed)}"))


def weights_of_a1111(prompt: str) -> list[tuple[str, float]]:
    """Return each character with its weight as A1111's `parse_prompt_attention` multiplies it: to the end, if open."""
    found: list[tuple[str, float]] = []
    opened: list[int] = []
    for part in re.finditer(r"\\[()]|:\s*([+-]?[.\d]+)\s*\)|[()]|.", prompt, re.DOTALL):
        if part[0] == "(":
            opened.append(len(found))
        elif opened and (part[0] == ")" or part[1]):
            start, factor = opened.pop(), float(part[1] or 1.1)
            found[start:] = [(text, weight * factor) for text, weight in found[start:]]
        else:
            found += [(each, 1.0) for each in part[0].removeprefix("\\")]
    for start in opened:
        found[start:] = [(text, weight * 1.1) for text, weight in found[start:]]
    return found


@given(PARTS.map("".join))
def test_brackets_that_are_closed_weigh_what_a1111_weighs(prompt: str) -> None:
    closed = with_closed_brackets(prompt)
    if closed == prompt:
        return
    ours = [(each, piece.weight) for piece in weighted_pieces(closed) for each in piece.text]
    theirs = weights_of_a1111(re.sub(r"#[^\n]*(?:\n|\Z)", "\n", prompt))
    assert "".join(text for text, _ in ours) == "".join(text for text, _ in theirs)
    assert [weight for _, weight in ours] == pytest.approx([weight for _, weight in theirs])


@pytest.mark.parametrize(
    ("prompt", "read_as"),
    [
        ("((a, b)", "((a, b))"),
        ("(a, (b:1.2), c", "(a, (b:1.2), c)"),
        ("((masterpiece, best quality", "((masterpiece, best quality))"),
        ("a [b:c:0.5], (d", "a [b:c:0.5], (d)"),
    ],
)
def test_a_bracket_that_nothing_closes_is_closed_with_a_note(prompt: str, read_as: str) -> None:
    for found, text in ((read(prompt), "prompt"), (read("a", prompt), "negative")):
        assert getattr(found, text) == read_as
        assert "is not closed" in found.notes[0]
    assert list(left_out({}, [("a", read(prompt)), ("b", read("x", prompt))])) == []


@pytest.mark.parametrize("prompt", ["(a", "a (b:c", "a \\) (b, c)"])
def test_brackets_of_a_picture_without_emphasis_are_text(prompt: str) -> None:
    text = f"{prompt}\n{LINE.format(seed=1)}, Emphasis: None"
    assert checked(parse_infotext(text)).prompt == prompt


@pytest.mark.parametrize("network", ["<foo:bar>", "<wlr:x:1:2>", "<lyco:a b:0.5>", "<hypernet:h:1>"])
def test_what_a1111_takes_out_is_taken_out_with_a_note(network: str) -> None:
    found = read(f"a lion {network}, big")
    assert found.prompt == "a lion , big"
    assert len(found.notes) == 1
    assert network in found.notes[0]


def test_loras_stay_in_a_prompt_with_a_note_and_are_taken_out_of_a_negative_one() -> None:
    found = read("a lion <lora:x:1>, big", "dark <lora:y:0.5>")
    assert (found.prompt, found.negative) == ("a lion <lora:x:1>, big", "dark")
    assert any("LoRAs: x" in note and "`lora_folder`" in note for note in found.notes)
    assert any("<lora:y:0.5>" in note for note in found.notes)
    assert list(left_out({}, [("a", found)])) == []


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("a AND b", "AND joins"),
        ("a lion: 1.2", "ends in a colon and a number"),
        ("[a, b", r"'\[' is not closed"),
        ("(a [b) c", "not closed before"),
        ("(a:1.2", "is not closed"),
        ("(a BREAK b)", "BREAK within brackets"),
        ("[a:b:0.5] x | y", "outside of"),
        ("a " * 4000, "more than 50"),
    ],
)
def test_a_picture_whose_prompt_cannot_be_read_is_left_out_with_the_reason(prompt: str, why: str) -> None:
    pictures = [("good", read("a lion")), ("bad", read(prompt, seed=2)), ("other", read("a lion", "dark"))]
    chosen = one_suite(pictures)
    ((name, reason),) = left_out(chosen.settings, chosen.pictures)
    assert name == "bad"
    assert re.search(why, reason)


def test_a_picture_that_repeats_another_however_it_is_written_is_left_out() -> None:
    pictures = [
        ("one", read("a lion")),
        ("capitals", read("A  Lion")),
        ("seed", read("a lion", seed=1 + 2**32)),
        ("other", read("a lion", seed=2)),
    ]
    assert list(left_out({}, pictures)) == [
        ("capitals", "the same render as one"),
        ("seed", "the same render as one"),
    ]
