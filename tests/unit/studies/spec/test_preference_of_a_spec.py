"""What a spec says whose objective has people's votes in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.errors import SpecError
from studies.spec.study import StudySpec, parse_spec

ASKING: dict[str, Any] = {
    "study": "asking",
    "parents": ["a.safetensors", "b.safetensors"],
    "suite": {"prompts": ["a cat", "a dog", "a fox"], "seeds": [1, 2]},
    "scorers": {"preference": None},
    "render": {"keep": "all"},
    "final": {"top": 0},
}


def parsed(**changes: Any) -> StudySpec:
    return parse_spec(yaml.safe_dump(ASKING | changes), base_dir=Path("/models"))


def test_votes_stand_alone_or_beside_other_scorers() -> None:
    assert parsed().voted == "preference"
    assert parsed(scorers={"people": {"kind": "preference"}, "sharpness": None}).voted == "people"
    both = {"preference": None, "sharpness": None}
    assert parsed(scorers=both, objectives=["preference", "sharpness"]).voted == "preference"
    assert parsed(scorers={"sharpness": None}, final={"top": 2}).voted is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"render": {"keep": "best"}}, r"preference needs the renders of every trial.*`render: \{keep: all\}`"),
        ({"racing": {"batch": 4}}, "`racing` cannot stop a trial by votes that come later"),
        ({"budget": {"patience": 4}}, "patience compares values that later votes change"),
        ({"sampler": {"name": "cmaes"}}, "sampler cmaes keeps what trials were worth when they ended.*use depth"),
        ({"constraints": {"preference": {"min": 0}}}, "depends on votes that come later.*remove the constraint"),
        ({"scorers": {"one": {"kind": "preference"}, "two": {"kind": "preference"}}}, "named twice"),
        ({"warm_start": "other"}, "`warm_start` does not take votes over"),
        ({"scorers": {"preference": {"weight": 2}}}, "weight"),
    ],
)
def test_what_does_not_go_with_votes_is_refused_in_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told) as refused:
        parsed(**changes)
    assert "\n" not in str(refused.value)
