"""Which brackets of a prompt of A1111 belong together."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.spec.brackets import CLOSING, DEEPEST, Pairing, paired

WORDS = st.text(alphabet=r"a :|1", max_size=3)
NESTED = st.recursive(
    WORDS,
    lambda inner: st.tuples(st.sampled_from([*CLOSING]), st.lists(inner, max_size=3).map("".join)).map(
        lambda each: f"{each[0]}{each[1]}{CLOSING[each[0]]}"
    ),
    max_leaves=12,
)


def matched(prompt: str) -> dict[int, int]:
    """Return the pairs of a prompt whose brackets fit together, by taking away what is innermost."""
    found: dict[int, int] = {}
    left = list(enumerate(prompt))
    while True:
        brackets = [(place, sign) for place, sign in left if sign in "()[]"]
        inner = next((two for two in pairwise(brackets) if two[0][1] + two[1][1] in {"()", "[]"}), None)
        if inner is None:
            return found
        found[inner[0][0]] = inner[1][0]
        left = [each for each in brackets if each not in inner]


@given(st.lists(NESTED, max_size=4).map("".join))
def test_brackets_that_fit_together_are_paired_from_the_inside(prompt: str) -> None:
    assert paired(prompt) == Pairing(closings=matched(prompt))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (r"\(a) :)", Pairing(closings={})),  # a closing bracket that closes nothing is text
        ("(a] b)", Pairing(closings={0: 5})),
        ("a \\\\(b)", Pairing(closings={4: 6})),  # the backslash hides the other one
        ("(a [b", Pairing(closings={}, unclosed=(0, 3))),
        ("((a)", Pairing(closings={1: 3}, unclosed=(0,))),
        ("(a [b) c]", Pairing(closings={}, crossing=(3, 5))),
        ("a\\", Pairing(closings={})),
    ],
)
def test_brackets_that_do_not_fit_are_told(prompt: str, expected: Pairing) -> None:
    assert paired(prompt) == expected


def test_brackets_in_too_many_others_are_told() -> None:
    assert paired("(" * DEEPEST + ")" * DEEPEST).too_deep is None
    assert paired("(" * (DEEPEST + 1) + ")" * (DEEPEST + 1)).too_deep == DEEPEST
