"""The text of a first spec is YAML that says what was found, whatever signs the names have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optimizer.drafting.draft import Draft
from optimizer.drafting.findings import FilesFound
from optimizer.drafting.sizing import Sizing
from optimizer.drafting.spec_text import quoted, spec_text
from optimizer.merging.files.distance import Distance
from optimizer.rendering.prediction import Prediction
from search_spaces.blocks import Architecture
from studies.spec.study import StudySpec, parse_spec

PARTS = ("text_encoder", "text_encoder_2", "IN", "MID", "OUT", "vae")


def distances(*equal: str) -> dict[str, Distance]:
    """Return the distance of each part: 0 of those that are equal, else a tenth."""
    return {
        part: Distance(
            tensors=1,
            size=1,
            identical=int(part in equal),
            squared_difference=0.0 if part in equal else 0.01,
            squared_norm=1.0,
            inner=0.0,
        )
        for part in PARTS
    }


def draft(*equal: str, **changes: Any) -> Draft:
    found = FilesFound(
        architecture=Architecture.SDXL, prediction=Prediction(), side=1024, distances=(distances(*equal),), notes=()
    )
    settings: dict[str, Any] = {
        "study": "first",
        "folder": Path("/models"),
        "parents": (Path("/models/a.safetensors"), Path("/models/b.safetensors")),
        "loras": (),
        "refs": None,
        "own_prompts": (),
        "kinds": frozenset({"sharpness"}),
        "found": found,
        "hours": 8.0,
        "sizing": Sizing(seeds=2, trials=100, seconds=None),
    }
    return Draft(**settings | changes)


def read(text: str) -> StudySpec:
    return parse_spec(text, base_dir=Path("/models"))


@pytest.mark.parametrize(
    ("equal", "said"),
    [
        (("text_encoder",), "is the same in all parents"),
        (("text_encoder", "text_encoder_2"), "are the same in all parents"),
    ],
)
def test_text_encoders_that_are_the_same_are_frozen(equal: tuple[str, ...], said: str) -> None:
    text = spec_text(draft(*equal))
    assert said in text
    assert read(text).space.frozen == dict.fromkeys(equal, 0)


def test_where_all_differ_none_is_frozen_and_the_vae_may_be_searched() -> None:
    text = spec_text(draft())
    assert read(text).space.frozen == {}
    assert "# merge_vae: true" in text
    assert "merge_vae" not in spec_text(draft("vae"))


def test_the_first_lines_say_how_to_go_on() -> None:
    assert "# Check it with `mergetune study check`, run it with `mergetune study start`." in spec_text(draft())


@pytest.mark.parametrize("sign", ["\x7f", "\x85", "\u2028", "\ufeff", "\U000e0001", '"', "\\", "#", "é", "\U0001f981"])
def test_any_sign_in_a_prompt_comes_back(sign: str) -> None:
    prompt = f"a lion{sign} in the sun"
    assert yaml.safe_load(spec_text(draft(own_prompts=(prompt,))))["suite"]["prompts"] == [prompt]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_quoted_text_is_one_line_of_yaml_that_is_read_back(text: str) -> None:
    written = quoted(text)
    assert written.isprintable()
    assert yaml.safe_load(written) == text
