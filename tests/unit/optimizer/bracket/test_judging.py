"""Who goes on: by scorers as gains are compared, by eye under no name, and where there is nothing to judge."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from bracket_sides import match_side
from PIL import Image
from scipy import stats
from torch import Tensor

from optimizer.bracket.by_eye import EyeJudge, Vote, is_swapped
from optimizer.bracket.by_scorers import ScorerJudge
from optimizer.bracket.identity import counting, scorers_judge
from optimizer.bracket.judging import Judgement, ShownMatch, decide
from optimizer.bracket.tree import BracketMatch
from optimizer.errors import BracketError
from studies.spec.study import StudySpec, parse_spec
from studies.spec.suite import SuiteSettings

ITEMS = 6
SUITE = {"prompts": ["a lion"], "seeds": list(range(ITEMS)), "sizes": [64]}


def spec_of(**changes: Any) -> StudySpec:
    spec = {
        "study": "x",
        "parents": ["a.safetensors", "b.safetensors"],
        "suite": SUITE,
        "scorers": {"sharpness": None},
    }
    return parse_spec(yaml.safe_dump(spec | changes), base_dir=Path("/"))


def noisy(strengths: list[float]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    grain = torch.randn((3, 64, 64), generator=generator)
    return tuple((128 + strength * grain).clamp(0, 255).to(torch.uint8) for strength in strengths)


def shown(
    upper: tuple[Tensor, ...], lower: tuple[Tensor, ...], failures: tuple[str | None, str | None] = (None, None)
) -> ShownMatch:
    sides = [match_side(5, upper, failures[0]), match_side(2, lower, failures[1])]
    match = BracketMatch(round=2, upper=5, lower=2)
    return ShownMatch(match=match, suite=spec_of().suite, upper=sides[0], lower=sides[1])


def scorers(spec: StudySpec, tmp_path: Path) -> ScorerJudge:
    return ScorerJudge.load(spec, torch.device("cpu"), tmp_path)


@dataclass
class Known:
    """A judge who always says the same."""

    judgement: Judgement
    asked: list[ShownMatch] = field(default_factory=list)

    def judge(self, shown: ShownMatch) -> Judgement:
        self.asked.append(shown)
        return self.judgement


SOFT, SHARP = [10.0, 12, 11, 10, 13, 12], [20.0, 21, 24, 20, 25, 22]


# ---------------------------------------------------------------------------------------- decisions


@pytest.mark.parametrize(("ahead", "winner"), [("upper", 5), ("lower", 2), (None, 2)])
def test_who_is_ahead_goes_on_and_of_even_ones_the_lower_number(ahead: Any, winner: int) -> None:
    assert decide(shown(noisy(SOFT), noisy(SOFT)), Known(Judgement(ahead=ahead))).winner == winner


@pytest.mark.parametrize(("failures", "winner"), [(("black", None), 2), ((None, "black"), 5), (("black", "flat"), 2)])
def test_one_that_failed_loses_and_nobody_is_asked(failures: tuple[str | None, str | None], winner: int) -> None:
    judge = Known(Judgement(ahead="upper"))
    result = decide(shown(noisy(SOFT), noisy(SOFT), failures), judge)
    assert result.winner == winner
    assert judge.asked == []
    assert all(failure in str(result.judgement.reason) for failure in failures if failure is not None)


# ---------------------------------------------------------------------------------------- scorers


def test_the_lead_is_the_paired_difference_with_students_interval(tmp_path: Path) -> None:
    judge = scorers(spec_of(objective={"sharpness": {"unit": 2.0}}), tmp_path)
    judgement = judge.judge(shown(noisy(SHARP), noisy(SOFT)))
    from scorers.protocol import SuiteImages

    one, other = (
        np.asarray(judge.scorers["sharpness"].score(SuiteImages(images=noisy(each), prompts=("",) * ITEMS)))  # type: ignore[arg-type]
        for each in (SHARP, SOFT)
    )
    differences = (one - other) / 2.0
    low, high = stats.t.interval(0.95, ITEMS - 1, differences.mean(), stats.sem(differences))
    assert judgement.ahead == "upper"
    assert [judgement.lead, judgement.low, judgement.high] == pytest.approx([differences.mean(), low, high])
    assert judgement.scores["sharpness"] == pytest.approx((one.mean(), other.mean()))


def test_the_sharper_one_wins_from_either_side_and_equal_pictures_are_even(tmp_path: Path) -> None:
    judge = scorers(spec_of(), tmp_path)
    assert judge.judge(shown(noisy(SOFT), noisy(SHARP))).ahead == "lower"
    assert judge.judge(shown(noisy(SHARP), noisy(SHARP))).ahead is None


def test_a_lead_whose_interval_reaches_zero_may_be_luck(tmp_path: Path) -> None:
    judge = scorers(spec_of(), tmp_path)
    assert decide(shown(noisy([10, 30, 10, 30, 10, 31]), noisy([30, 10, 30, 10, 30, 10])), judge).is_unsure
    assert not decide(shown(noisy(SHARP), noisy(SOFT)), judge).is_unsure


class _FailingOn:
    """Sharpness that fails on grainy pictures."""

    def __init__(self, scorer: Any) -> None:
        self.scorer, self.info = scorer, scorer.info

    def score(self, suite: Any) -> Any:
        if suite.images[0].float().std() > 15:
            raise OSError("the server is away")
        return self.scorer.score(suite)


@pytest.mark.parametrize("pair", [(SHARP, SOFT), (SOFT, SHARP)])
def test_a_scorer_that_fails_decides_no_match(tmp_path: Path, pair: tuple[list[float], list[float]]) -> None:
    judge = scorers(spec_of(), tmp_path)
    broken = replace(judge, scorers={"sharpness": _FailingOn(judge.scorers["sharpness"])})
    with pytest.raises(
        BracketError, match=r"model-\d cannot be scored: .*the server is away.*the same command goes on"
    ):
        decide(shown(noisy(pair[0]), noisy(pair[1])), broken)
    assert decide(shown(noisy(SOFT), noisy(SOFT)), broken).winner == 2


def test_a_changed_objective_or_scorer_is_another_judge() -> None:
    same = {scorers_judge(spec_of()), scorers_judge(spec_of(study="y", budget={"trials": 99}))}
    assert len(same) == 1
    assert scorers_judge(spec_of(objective={"sharpness": {"weight": 2}})) not in same
    assert scorers_judge(spec_of(scorers={"sharpness": None, "contrast": None})) not in same


@pytest.mark.parametrize("changed", [{"weight": 3}, {"without": ["sharpness"]}, {"group": "lions"}])
def test_what_an_image_counts_decides_matches_by_scorers_and_not_by_eye(changed: dict[str, Any]) -> None:
    prompts = [["a lion"], [{"prompt": "a lion", **changed}]]
    suites = [SuiteSettings.model_validate(SUITE | {"prompts": each}) for each in prompts]
    assert suites[0].digest == suites[1].digest
    assert len({counting(suite, 0, scored=True) for suite in suites}) == 2
    assert len({counting(suite, 0, scored=False) for suite in suites}) == 1
    assert len({counting(suites[0], limit, scored=False) for limit in (0, 1)}) == 2


# ---------------------------------------------------------------------------------------- by eye


@pytest.mark.parametrize("vote", ["left", "right", "equal"])
def test_the_side_that_a_person_names_is_the_one_on_the_sheet(tmp_path: Path, vote: Vote) -> None:
    black, white = (
        tuple(torch.full((3, 64, 64), value, dtype=torch.uint8) for _ in range(ITEMS)) for value in (0, 255)
    )
    sheets: list[Path] = []

    def ask(sheet: Path, _: ShownMatch) -> Vote:
        sheets.append(sheet)
        return vote

    match = shown(black, white)
    judgement = EyeJudge(folder=tmp_path / "sheets", ask=ask).judge(match)
    with Image.open(sheets[0]) as picture:
        pixels = np.asarray(picture.convert("L"))[-100:-20]  # in the last row of pictures
    columns = np.flatnonzero((pixels == 0).all(axis=0))
    middle_of_black = "left" if columns.mean() < pixels.shape[1] * 0.6 else "right"
    assert middle_of_black == ("right" if is_swapped(match) else "left")
    chosen = {"equal": None, middle_of_black: "upper"}.get(vote, "lower")
    assert judgement.ahead == chosen


def test_sides_are_swapped_by_chance_and_always_the_same() -> None:
    swapped = []
    for number in range(64):
        match = shown((), ())
        other = ShownMatch(
            match=BracketMatch(round=number, upper=5, lower=2), suite=match.suite, upper=match.upper, lower=match.lower
        )
        assert is_swapped(other) == is_swapped(other)
        swapped.append(is_swapped(other))
    assert 16 < sum(swapped) < 48
