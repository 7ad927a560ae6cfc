"""Prompts as A1111 and ComfyUI read them: weights, changing texts, and what is refused."""

from __future__ import annotations

import re
from itertools import product

import pytest

from optimizer.errors import PromptError
from optimizer.rendering.prompts import attention, comfyui
from optimizer.rendering.prompts.composition import refuse_composition
from optimizer.rendering.prompts.editing import phases
from optimizer.rendering.prompts.networks import NamedLora, networks_taken_out
from studies.spec.spellings import without_comments

# Texts and weights, most of them from the documentation of A1111's parser.
A1111 = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    r"\(literal\]": [("(literal]", 1.0)],
    r"a back\slash \\": [("a backslash \\", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "(red:1.4)": [("red", 1.4)],
    "(red : 1.4 )": [("red ", 1.4)],
    "(dim:-.5)": [("dim", -0.5)],
    "[quiet]": [("quiet", 1 / 1.1)],
    "((a) b)": [("a", 1.1 * 1.1), (" b", 1.1)],
    "(a (b:2):3)": [("a ", 3.0), ("b", 6.0)],
    "([even])": [("even", 1 / 1.1 * 1.1)],
    "ratio 16:9": [("ratio 16:9", 1.0)],
    "a smile :) and ;]": [("a smile :) and ;]", 1.0)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).)": [
        ("a ", 1.0),
        ("house", 1.573),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641),
        (".", 1.1),
    ],
    "": [("", 1.0)],
}
COMFYUI = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(red:1.4)": [("red", 1.4)],
    "((red))": [("red", 1.1 * 1.1)],
    "(a (b:2):3)": [("a ", 3.0), ("b", 2.0)],  # a number is the weight itself, not a factor
    "((a:1.2))": [("a", 1.2)],
    "(a (b))": [("a ", 1.1), ("b", 1.1 * 1.1)],
    "(:1.2)": [(":1.2", 1.1)],
    "(a:b)": [("a:b", 1.1)],
    r"\(fate\) (a\):2)": [("(fate) ", 1.0), ("a)", 2.0)],
    r"[x] a BREAK b <lora:x:0.8> \]": [(r"[x] a BREAK b <lora:x:0.8> \]", 1.0)],
    "a smile :)": [("a smile :)", 1.0)],
    "": [],
}


@pytest.mark.parametrize("prompt", A1111)
def test_a1111_multiplies_the_weights_of_brackets_in_each_other(prompt: str) -> None:
    found = attention.weighted_pieces(prompt)
    assert [piece.text for piece in found] == [text for text, _ in A1111[prompt]]
    assert [piece.weight for piece in found] == pytest.approx([weight for _, weight in A1111[prompt]])


@pytest.mark.parametrize("prompt", COMFYUI)
def test_comfyui_knows_round_brackets_and_takes_numbers_as_they_are(prompt: str) -> None:
    found = comfyui.weighted_pieces(prompt)
    assert [piece.text for piece in found] == [text for text, _ in COMFYUI[prompt]]
    assert [piece.weight for piece in found] == pytest.approx([weight for _, weight in COMFYUI[prompt]])


def test_break_ends_a_chunk_in_a1111() -> None:
    found = attention.weighted_pieces("a red apple BREAK (a table:1.2)BREAK\nBREAKFAST")
    assert [(piece.text, piece.ends_chunk) for piece in found if piece.text or piece.ends_chunk] == [
        ("a red apple", False),
        ("", True),
        ("a table", False),
        ("", True),
        ("BREAKFAST", False),
    ]


# Ten calls of the denoiser; cases of the documentation of A1111's parser, and some more.
CHANGING = {
    "test": [(10, "test")],
    "a [b:3]": [(3, "a "), (10, "a b")],
    "a [b: 3]": [(3, "a "), (10, "a b")],
    "a [[[b]]:2]": [(2, "a "), (10, "a [[b]]")],
    "[(a:2):3]": [(3, ""), (10, "(a:2)")],
    "a [b : c : 1] d": [(1, "a b  d"), (10, "a  c  d")],
    "a[b:[c:d:2]:1]e": [(1, "abe"), (2, "ace"), (10, "ade")],
    "a [b:.5] c": [(5, "a  c"), (10, "a b c")],
    "a [b::0.3] c": [(3, "a b c"), (10, "a  c")],
    "a [b:c:1.0]": [(10, "a b")],  # a share, not the first step
    "a [b:c:0]": [(10, "a c")],
    "a [b:c:99]": [(10, "a b")],
    "[ratio 16:9]": [(9, ""), (10, "ratio 16")],
    "[a|(b:1.1)]": [(step, "a" if step % 2 else "(b:1.1)") for step in range(1, 11)],
    "[fe|]male": [(step, "female" if step % 2 else "male") for step in range(1, 11)],
    "[a|b|c]": [(step, "abc"[(step - 1) % 3]) for step in range(1, 11)],
    "[a|[b:c:5]]": [(step, "a" if step % 2 else "b" if step <= 5 else "c") for step in range(1, 11)],
    "(a:b:c [d:e:5])": [(5, "(a:b:c d)"), (10, "(a:b:c e)")],
    r"[a\:b:c:5]": [(5, r"a\:b"), (10, "c")],
    "a [quiet] b": [(10, "a [quiet] b")],
    "a | b": [(10, "a | b")],
    "[a:b]": [(10, "[a:b]")],
    "[a:b:c:5]": [(10, "[a:b:c:5]")],
}


@pytest.mark.parametrize("prompt", CHANGING)
def test_a_prompt_stands_for_other_texts_as_steps_go_by(prompt: str) -> None:
    assert list(phases(prompt, 10)) == CHANGING[prompt]


# Ten calls of a second pass after ten of the first; of the documentation of A1111's parser, and some more.
IN_SECOND_PASS = {
    "a [b:.5] c": [(10, "a b c")],
    "a [b:1.5] c": [(5, "a  c"), (10, "a b c")],
    "a [b:c:10]": [(10, "a c")],
    "a [b:c:13]": [(3, "a b"), (10, "a c")],
    "a [b:c:20]": [(10, "a b")],
    "a [b:c:2.0]": [(10, "a b")],
    "a [b::1.3]": [(3, "a b"), (10, "a ")],
    "[a|b]": [(step, "ab"[(step - 1) % 2]) for step in range(1, 11)],
}


@pytest.mark.parametrize("prompt", IN_SECOND_PASS)
def test_a_second_pass_goes_on_counting(prompt: str) -> None:
    assert list(phases(prompt, 10, before=10)) == IN_SECOND_PASS[prompt]


def test_the_example_of_a1111s_documentation() -> None:
    prompt = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
        "[ in background:0.25] [shoddy:masterful:0.5]"
    )
    assert phases(prompt, 100) == (
        (25, "fantasy landscape with a mountain and an oak in foreground shoddy"),
        (50, "fantasy landscape with a lake and an oak in foreground in background shoddy"),
        (60, "fantasy landscape with a lake and an oak in foreground in background masterful"),
        (75, "fantasy landscape with a lake and an oak in background masterful"),
        (100, "fantasy landscape with a lake and a christmas tree in background masterful"),
    )


def test_comments_of_a1111_are_no_words() -> None:
    assert without_comments("a lion # not a tiger\na panda#").split() == ["a", "lion", "a", "panda"]
    assert without_comments("a lion") == "a lion"


class TestRefused:
    @pytest.mark.parametrize(
        ("prompt", "place", "problem"),
        [
            ("a (lion", 3, r"'\(' is not closed"),
            ("a [lion", 3, r"'\[' is not closed"),
            ("((a:1.2)", 1, r"'\(' is not closed"),
            ("a ([lion)]", 4, "is not closed before"),
            ("(a BREAK b:1.2)", 3, "BREAK within brackets"),
            ("(a:1.2.3)", 3, "'1.2.3' is no number"),
            ("(" * 60 + "a" + ")" * 60, 51, "more than 50 brackets"),
        ],
    )
    def test_what_a1111_would_read_otherwise_than_meant(self, prompt: str, place: int, problem: str) -> None:
        with pytest.raises(PromptError, match=rf"cannot be read at character {place} .*{problem}") as raised:
            attention.weighted_pieces(prompt)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        ("prompt", "problem"),
        [
            ("a (lion", r"'\(' is not closed"),
            ("a) (lion)", "reads no brackets after it"),
            ("(a:nan)", "'nan' is no finite number"),
            ("(a:1e999)", "no finite number"),
            ("(" * 60 + "a" + ")" * 60, "more than 50 brackets"),
        ],
    )
    def test_brackets_of_comfyui_that_do_not_fit(self, prompt: str, problem: str) -> None:
        with pytest.raises(PromptError, match=problem):
            comfyui.weighted_pieces(prompt)

    @pytest.mark.parametrize(("changing", "bar"), list(product(["[a:b:5]", "[a|b]"], ["c | d", "(c|d)", "[c|d:e]"])))
    def test_a_bar_that_keeps_a1111_from_reading_square_brackets(self, changing: str, bar: str) -> None:
        with pytest.raises(PromptError, match="reads no square brackets"):
            phases(f"{bar} {changing}", 10)

    @pytest.mark.parametrize(
        ("prompt", "problem"),
        [
            ("a lion AND a panda", "AND joins several prompts"),
            ("a lion :1.2", "ends in a colon and a number"),
        ],
    )
    def test_prompts_that_are_composed_are_refused(self, prompt: str, problem: str) -> None:
        with pytest.raises(PromptError, match=re.escape(problem)):
            refuse_composition(prompt)

    def test_and_within_a_word_is_a_word(self) -> None:
        refuse_composition("a lion and SAND, a BAND, 2:1 of them")


class TestLoras:
    @pytest.mark.parametrize(
        ("prompt", "words", "name", "text", "unet"),
        [
            ("a lion <lora:style:0.8>", "a lion ", "style", 0.8, 0.8),
            ("<lora:style>a lion", "a lion", "style", 1.0, 1.0),
            ("a <lora:my style-v1.2:-0.5> lion", "a  lion", "my style-v1.2", -0.5, -0.5),
            ("(a lion<lora:style:0.8:0.3>:1.2)", "(a lion:1.2)", "style", 0.8, 0.3),
            ("<lora:style:0.8:unet=0.3>", "", "style", 0.8, 0.3),
            ("<lora:style:te=0:unet=1>", "", "style", 0.0, 1.0),
            ("<lora:style:0.8:0.3:te=0.1>", "", "style", 0.1, 0.3),
        ],
    )
    def test_arguments_are_those_of_a1111(self, prompt: str, words: str, name: str, text: float, unet: float) -> None:
        assert networks_taken_out(prompt, negative=False) == (words, (NamedLora(name=name, text=text, unet=unet),))

    @pytest.mark.parametrize(
        ("prompt", "problem"),
        [
            ("a <lyco:other:1> lion", "is a plain LoRA, write <lora:other:0.8>"),
            ("a <hypernet:net:1> lion", "a hypernet is not applied: take it out"),
            ("a <Lora:x:1> lion", "in small letters alone"),
            ("a <lora:x:strong> lion", "the strength 'strong' is no number"),
            ("a <lora:x:0,8> lion", "the strength '0,8' is no number"),
            ("a <lora:x:nan> lion", "the strength 'nan' is no number"),
            ("a <lora:x:1:inf> lion", "the strength 'inf' is no number"),
            ("a <lora:x:1:lbw=MIDD> lion", "has `lbw=`: weights of single blocks are an extension's"),
            ("a <lora:x:1:start=5> lion", "has `start=`: that is an extension's"),
            ("a <lora:x:1:1:8> lion", "a third number (`dyn`)"),
            ("a <lora::1> lion", "names no LoRA"),
            ("a <lora:x:1 lion", "'<lora:' is not closed"),
            ("<lora:x:1> <lora:x:0.5>", "'x' is named twice"),
        ],
    )
    def test_what_cannot_be_applied_is_refused_by_its_place(self, prompt: str, problem: str) -> None:
        with pytest.raises(PromptError, match=re.escape(problem)) as refused:
            networks_taken_out(prompt, negative=False)
        assert "cannot be read at character" in str(refused.value)

    def test_a1111_reads_none_in_a_negative_prompt(self) -> None:
        with pytest.raises(PromptError, match="not in the negative one"):
            networks_taken_out("ugly <lora:x:1>", negative=True)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("[happy :) face] dog", [("happy :) face", 1 / 1.1), (" dog", 1.0)]),
        ("(a ] b) c", [("a ] b", 1.1), (" c", 1.0)]),
    ],
)
def test_a_bracket_closes_only_one_of_its_kind(prompt: str, expected: list[tuple[str, float]]) -> None:
    found = [(piece.text, piece.weight) for piece in attention.weighted_pieces(prompt)]
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])
