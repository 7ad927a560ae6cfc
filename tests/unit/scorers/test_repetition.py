"""Repetition: a subject that is drawn twice in a wide or tall image."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scorer_helpers import picture

from scorers import registry
from scorers.pixels.kinds import PixelSettings
from scorers.pixels.repetition import repetition
from scorers.protocol import SuiteImages

if TYPE_CHECKING:
    from scorers.protocol import BuildContext, ImageScorer


def subject(seed: int, size: int = 64) -> torch.Tensor:
    """A picture in a round frame, on white."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    inside = torch.from_numpy(x**2 + y**2 < 0.8)
    return torch.where(inside, picture(seed, size, size), torch.full((3, size, size), 255, dtype=torch.uint8))


def once(seed: int) -> torch.Tensor:
    margin = torch.full((3, 64, 32), 255, dtype=torch.uint8)
    return torch.cat([margin, subject(seed), margin], dim=2)


def twice(seed: int) -> torch.Tensor:
    """The subject and, beside it, the same with a little of another."""
    again = (0.8 * subject(seed).float() + 0.2 * subject(seed + 1000).float()).byte()
    return torch.cat([subject(seed), again], dim=2)


def correlation_by_numpy(image: torch.Tensor) -> float:
    """The definition for an image of 32 x l pixels."""
    levels = image.double().numpy()
    length, found = levels.shape[2], []
    for shift in range(int(0.25 * length), int(0.7 * length)):
        parts = levels[:, :, shift:], levels[:, :, : length - shift]
        one, other = ((part - part.mean(axis=2, keepdims=True)).ravel() for part in parts)
        found.append(one @ other / np.sqrt((one @ one) * (other @ other)))
    return float(max(found))


@given(seed=st.integers(0, 1000))
def test_repetition_is_the_largest_correlation_of_shifted_parts(seed: int) -> None:
    image = picture(seed, 32, 70)
    assert repetition(image) == pytest.approx(correlation_by_numpy(image), abs=1e-9)


def test_two_equal_halves_are_a_whole_repetition() -> None:
    assert repetition(torch.cat([picture(1, 32, 32)] * 2, dim=2)) == pytest.approx(1)
    assert repetition(torch.cat([picture(1, 64, 64)] * 3, dim=1)) == pytest.approx(1, abs=1e-3)


def test_subjects_drawn_twice_are_told_from_single_ones() -> None:
    single, double = [repetition(once(seed)) for seed in range(20)], [repetition(twice(seed)) for seed in range(20)]
    assert max(single) < 0.5 < 0.9 < min(double)


@given(seed=st.integers(0, 1000))
def test_a_tall_image_is_a_wide_one_on_its_side(seed: int) -> None:
    image = picture(seed, 48, 96)
    assert repetition(image.transpose(1, 2)) == pytest.approx(repetition(image), abs=1e-9)


def test_sky_above_ground_is_no_repetition() -> None:
    column = picture(3, 64, 1)
    assert repetition(column.expand(3, 64, 160)) == 0
    assert repetition(torch.zeros(3, 64, 160, dtype=torch.uint8)) == 0


def test_a_scorer_scores_each_image(context: BuildContext) -> None:
    suite = SuiteImages(images=(once(1), twice(1)), prompts=("", ""))
    scorer = cast("ImageScorer", registry.build("duplicate_subject", PixelSettings(), context))
    assert scorer.score(suite).tolist() == [repetition(once(1)), repetition(twice(1))]
