"""A trial's origin and the text it is stored as stand for each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.records.origins import Kind, Origin

STORED: dict[str, tuple[Kind, str]] = {
    "parent A": ("parent", "A"),
    "uniform 0.5": ("uniform", "0.5"),
    "uniform 0.9 within the space": ("uniform", "0.9 within the space"),
    "recipe mine": ("recipe", "mine"),
    "preset GRAD_V": ("preset", "GRAD_V"),
    "from short trial 12": ("warm start", "short trial 12"),
    "profile smooth 1": ("profile", "smooth 1"),
    "gp": ("sampler", "gp"),
}


@pytest.mark.parametrize("text", STORED)
def test_every_stored_form_has_its_kind(text: str) -> None:
    kind, name = STORED[text]
    assert Origin.parse(text) == Origin(kind, name)
    assert str(Origin(kind, name)) == text


def test_only_a_parents_own_trial_has_a_letter() -> None:
    assert {text: Origin.parse(text).parent for text in STORED} == dict.fromkeys(STORED) | {"parent A": "A"}


@given(text=st.text() | st.builds("{} {}".format, st.sampled_from(["parent", "from", "profile"]), st.text()))
def test_any_stored_text_is_read_and_given_back(text: str) -> None:
    assert str(Origin.parse(text)) == text
