"""Tone: colours in CIELAB against known values, distances against scipy."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import torch
from PIL import Image
from scipy.stats import wasserstein_distance
from scorer_helpers import picture

from scorers import registry
from scorers.distances.colours import BIN_WIDTH, ColourDistributions, lab
from scorers.errors import ReferenceImagesError, SuiteImagesError
from scorers.protocol import SetScorer, SuiteImages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from scorers.protocol import BuildContext


def flat(red: int, green: int, blue: int) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8).view(3, 1, 1).repeat(1, 8, 8)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_colours_in_cielab_are_the_published_ones(
    colour: tuple[int, int, int], expected: tuple[float, float, float]
) -> None:
    assert lab(flat(*colour))[:, 0, 0].tolist() == pytest.approx(expected, abs=0.03)


def scorer_of(folder: Path, context: BuildContext) -> SetScorer:
    settings = registry.parse_settings("tone", {"reference": folder.name}, folder.parent)
    return cast("SetScorer", registry.build("tone", settings, context))


def score(scorer: SetScorer, images: Sequence[torch.Tensor]) -> float:
    return scorer.score(scorer.features(SuiteImages(images=tuple(images), prompts=("",) * len(images))))


def test_tone_is_the_earth_movers_distance_on_each_axis(
    make_folder: Callable[..., Path], context: BuildContext
) -> None:
    scorer = scorer_of(make_folder("ref", range(100, 105)), context)
    images = [picture(seed) for seed in range(4)]
    ours, theirs = (
        torch.cat([lab(image).flatten(1) for image in each], dim=1)
        for each in (images, [picture(seed) for seed in range(100, 105)])
    )
    expected = sum(wasserstein_distance(one, other) for one, other in zip(ours, theirs, strict=True))
    assert score(scorer, images) == pytest.approx(expected, abs=3 * BIN_WIDTH / 2)
    assert expected > 10 * BIN_WIDTH


def test_a_shift_of_lightness_is_its_own_distance(tmp_path: Path, context: BuildContext) -> None:
    (tmp_path / "ref").mkdir()
    Image.new("RGB", (8, 8), (119, 119, 119)).save(tmp_path / "ref" / "grey.png")
    scorer = scorer_of(tmp_path / "ref", context)
    assert score(scorer, [flat(119, 119, 119)]) == 0
    darker = float(lab(flat(80, 80, 80))[0, 0, 0])
    assert score(scorer, [flat(80, 80, 80)]) == pytest.approx(50.03 - darker, abs=BIN_WIDTH)


def test_images_count_together_whatever_each_shows(tmp_path: Path, context: BuildContext) -> None:
    (tmp_path / "ref").mkdir()
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "ref" / f"{name}.png")
    scorer = scorer_of(tmp_path / "ref", context)
    red, blue = flat(200, 30, 30), flat(30, 30, 200)
    assert score(scorer, [red, blue]) == pytest.approx(0, abs=1e-5)
    assert score(scorer, [red, red]) > 20


def test_a_colder_copy_is_further_away(make_folder: Callable[..., Path], context: BuildContext) -> None:
    scorer = scorer_of(make_folder("ref", range(8)), context)
    same = [picture(seed) for seed in range(8)]
    colder = [torch.stack([image[0] // 2, image[1], image[2] // 2 + 127]) for image in same]
    assert score(scorer, same) == pytest.approx(0, abs=1e-5)
    assert score(scorer, colder) > 10


def test_the_score_of_rows_in_any_order_is_the_same(make_folder: Callable[..., Path], context: BuildContext) -> None:
    scorer = scorer_of(make_folder("ref", range(8)), context)
    features = ColourDistributions().embed([picture(seed) for seed in range(5)])
    assert scorer.score(features.flip(0)) == pytest.approx(scorer.score(features), rel=1e-12)
    assert scorer.info.report_name(5) == "tone@5"
    assert scorer.info.notes(5)


def test_an_empty_folder_and_no_images_are_told(
    tmp_path: Path, context: BuildContext, make_folder: Callable[..., Path]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReferenceImagesError, match="expected at least 1 reference image"):
        scorer_of(tmp_path / "empty", context)
    with pytest.raises(SuiteImagesError, match="at least 1 images, got 0"):
        scorer_of(make_folder("ref", range(1)), context).score(torch.zeros(0, 1080))
