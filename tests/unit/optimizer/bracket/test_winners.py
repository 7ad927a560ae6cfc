"""The spec of the search among the winners is the bracket's, and what a person has changed of it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_files import small_parents

from optimizer.bracket.contestants import Contestant
from optimizer.bracket.winners import is_edited, winners_spec, write_winners
from optimizer.merging.files.change_guard import OpenedFiles
from studies.errors import SpecError
from studies.spec.rounds import BracketSpec, bracket_of
from studies.spec.study import StudySpec, parse_spec

SUITE: dict[str, Any] = {"prompts": ["a lion: at noon", "a fox # not a comment"], "seeds": [1, 2], "sizes": [64]}


def contestants(*names: str) -> list[Contestant]:
    return [
        Contestant(
            number=number,
            name=name,
            checkpoint=small_parents("sd15")[number % 2],
            sha256=name,
            opened=OpenedFiles.now({}),
        )
        for number, name in enumerate(names, start=1)
    ]


def bracket(**settings: Any) -> BracketSpec:
    return bracket_of({"suite": SUITE, "scorers": {"sharpness": None}, **settings}, [Path("/a"), Path("/b")])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"suite": {**SUITE, "negative": "bad: x # y", "sampler": "Euler a", "program": "comfyui"}},
        {"space": {"frozen": {"IN*": 0.5}}, "budget": {"minutes": 30}, "objective": {"sharpness": {"weight": 2}}},
        {"suite": {**SUITE, "seeds": [1, 2, 3, 4]}, "final": {"prompts": ["q"], "top": 2}, "racing": True},
    ],
)
def test_the_spec_is_read_back_with_the_winners_as_parents(settings: dict[str, Any]) -> None:
    given, ranked = bracket(**settings), contestants("one", "two")
    read = parse_spec(winners_spec(given, ranked), base_dir=Path("/"))
    assert read.parents == tuple(each.checkpoint.path for each in ranked)
    assert read.study == "bracket-winners"
    before = given.among([each.checkpoint.path for each in ranked])
    assert all(getattr(read, name) == getattr(before, name) for name in StudySpec.model_fields)


def test_a_name_of_a_checkpoint_is_a_comment_of_one_line() -> None:
    text = winners_spec(bracket(), contestants("one\nstudy: other", "two"))
    assert parse_spec(text, base_dir=Path("/")).study == "bracket-winners"


def test_steps_of_another_number_of_parents_are_refused_with_the_option() -> None:
    steps = [{"method": "add_difference", "inputs": ["A", "B", "C"]}]
    paths = [Path("/a"), Path("/b"), Path("/c")]
    given = bracket_of({"suite": SUITE, "scorers": {"sharpness": None}, "steps": steps}, paths)
    with pytest.raises(SpecError, match="give another number with --winners"):
        winners_spec(given, contestants("one", "two"))


def test_a_spec_that_a_person_has_changed_is_known(tmp_path: Path) -> None:
    file = tmp_path / "winners.yaml"
    assert not is_edited(file, "one")
    write_winners(file, "one")
    assert not is_edited(file, "two")
    file.write_text("mine")
    assert is_edited(file, "two")
    assert not is_edited(file, "mine")
    write_winners(file, "two")
    assert not is_edited(file, "three")


def test_one_that_was_not_written_by_us_is_a_persons(tmp_path: Path) -> None:
    (tmp_path / "winners.yaml").write_text("mine")
    assert is_edited(tmp_path / "winners.yaml", "one")
