"""Constraints as they are written in a spec, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from studies.errors import SpecError
from studies.spec.study import StudySpec, parse_spec

SPEC = """
    study: s
    parents: [a.safetensors, b.safetensors]
    suite: {{prompts: [a cat]}}
    scorers: {{sharpness: , contrast: }}
    objective: {{sharpness: }}
    constraints: {constraints}
"""


def read(constraints: str) -> StudySpec:
    return parse_spec(SPEC.format(constraints=constraints), base_dir=Path("/models"))


@pytest.mark.parametrize(
    ("constraints", "words"),
    [
        ("{contrast: {min: 0.1}}", "at least 0.1"),
        ("{contrast: {max: 0.3}}", "at most 0.3"),
        ("{contrast: {min: 0.1, max: 0.3}}", "0.1 to 0.3"),
    ],
)
def test_a_scorer_outside_the_objective_may_have_bounds_that_are_stored_with_the_study(
    constraints: str, words: str
) -> None:
    spec = read(constraints)
    assert spec.constraints["contrast"].in_words() == words
    assert StudySpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("constraints", "told"),
    [
        ("{fidelity: {min: 0.8}}", "no scorer 'fidelity' under `scorers`"),
        ("{contrst: {min: 0.8}}", "contrast"),
        ("{contrast: {min: 0.3, max: 0.1}}", r"min 0\.3 is above max 0\.1"),
        ("{contrast: {}}", "expected `min`, `max` or both"),
        ("{contrast: {min: 0.7}}", r"min 0\.7 is outside of what RMS contrast can give, 0 to 0\.5"),
        ("{sharpness: {max: -1}}", "max -1 is outside of what sharpness can give, 0 or more"),
        ("{contrast: {least: 0.1}}", "least"),
        ("{contrast: {min: much}}", "number"),
        ("{contrast: {min: .inf}}", "finite"),
        ("{contrast: {min: true}}", "expected a number, got true"),
        ("{contrast: {max: no}}", "expected a number, got false"),
        ("[contrast]", "constraints"),
    ],
)
def test_what_no_study_could_mean_is_refused_in_one_line(constraints: str, told: str) -> None:
    with pytest.raises(SpecError, match=told) as caught:
        read(constraints)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scorer", "bound"),
    [
        ("cmmd: {reference: photos}", "{max: 15}"),
        ("imagereward:", "{min: -4}"),
        ("aesthetic:", "{min: 0.5}"),
        ("aesthetic_v25:", "{max: 10.5}"),
        ("kid: {reference: photos}", "{max: -0.001}"),
        ("fid: {reference: photos}", "{max: 600}"),
        ("kernel: {reference: photos, network: test_vit, weights: w.pth}", "{max: -0.1}"),
        ("sharpness:", "{max: 120}"),
        ("duplicate_subject:", "{min: -0.5}"),
    ],
)
def test_a_bound_outside_of_the_nominal_range_is_taken_where_scores_may_lie_there(scorer: str, bound: str) -> None:
    text = SPEC.format(constraints=f"{{judge: {bound}}}")
    kind, _, options = scorer.partition(":")
    entry = "{" + ", ".join(filter(None, [f"kind: {kind}", options.strip(" {}")])) + "}"
    spec = parse_spec(text.replace("contrast: }", f"judge: {entry}}}"), base_dir=Path("/models"))
    assert spec.constraints["judge"].in_words() in {f"at most {bound[6:-1]}", f"at least {bound[6:-1]}"}


def test_a_stored_study_opens_when_the_range_of_its_scorer_has_changed() -> None:
    stored: dict[str, Any] = read("{contrast: {min: 0.1}}").model_dump(mode="json")
    stored["constraints"]["contrast"]["min"] = 0.9
    assert StudySpec.model_validate(stored).constraints["contrast"].min == 0.9
