"""What checkpoints render where no spec is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.bracket.usual_suite import usual_bracket
from search_spaces.blocks import Architecture


@pytest.mark.parametrize(("architecture", "side"), [(Architecture.SD15, 512), (Architecture.SDXL, 1024)])
def test_the_usual_suite_has_the_size_of_the_family(architecture: Architecture, side: int) -> None:
    bracket = usual_bracket(architecture, [Path("/a"), Path("/b")])
    assert {item.image_size for item in bracket.spec.suite.items()} == {(side, side)}
    assert len(bracket.suites(5)) == 5


def test_every_family_has_a_size() -> None:
    for architecture in Architecture:
        usual_bracket(architecture, [Path("/a"), Path("/b")])
