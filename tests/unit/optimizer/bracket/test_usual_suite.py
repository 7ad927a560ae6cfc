"""What checkpoints render where no spec is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Call

from optimizer.bracket.tree import rounds_of
from optimizer.bracket.usual_suite import PROMPTS, usual_bracket
from search_spaces.blocks import Architecture


@pytest.mark.parametrize(("architecture", "side"), [(Architecture.SD15, 512), (Architecture.SDXL, 1024)])
def test_the_usual_suite_has_the_size_of_the_family(architecture: Architecture, side: int) -> None:
    bracket = usual_bracket(architecture, [Path("/a"), Path("/b")])
    assert {item.image_size for item in bracket.spec.suite.items()} == {(side, side)}
    assert len(bracket.suites(5)) == 5


def test_rounds_of_a_bracket_of_sixteen_have_other_subjects_and_as_many_images() -> None:
    bracket = usual_bracket(Architecture.SD15, [Path("/a"), Path("/b")])
    suites = bracket.suites(rounds_of(16))
    subjects = [{item.prompt for item in suite.items()} for suite in suites]
    assert len(set.union(*subjects)) == sum(map(len, subjects)) == 16
    assert {len(suite.items()) for suite in suites} == {16}


def test_the_help_says_how_many_prompts_there_are(call: Call) -> None:
    assert len(PROMPTS) == 16
    assert "a suite of sixteen prompts" in " ".join(call("bracket", "--help", code=0).out.replace("│", " ").split())


def test_every_family_has_a_size() -> None:
    for architecture in Architecture:
        usual_bracket(architecture, [Path("/a"), Path("/b")])
