"""What stands below the cells of a plot, and which of them is best or farthest."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optimizer.plot.distances import PictureDistance
from optimizer.plot.results import (
    CellResult,
    PlotTable,
    failures_of,
    joined,
    lines_below,
    notes_of,
)
from optimizer.plot.tables import Cell, Table
from scorers.protocol import ScorerInfo
from search_spaces.blocks import Architecture
from studies.recipe.recipe import Parent, Recipe
from studies.spec.suite import SuiteSettings


def info(name: str, scope: Any = "image", direction: Any = "maximize") -> ScorerInfo:
    return ScorerInfo(
        name=name, label=name.upper(), summary="", direction=direction, unit=1.0, range=(0.0, 1.0), scope=scope
    )


INFOS = {"clip": info("clip"), "fid": info("fid", "set", "minimize")}


def cell(name: str, caption: str = "", prompts: Any = ("a lion", "a fox")) -> Cell:
    suite = SuiteSettings.model_validate({"prompts": prompts, "seeds": [1, 2], "sizes": [64]})
    parents = (Parent(letter="A", name=name, sha256=name * 64),)
    return Cell(
        label=name, caption=caption, recipe=Recipe(architecture=Architecture.SD15.value, parents=parents), suite=suite
    )


def table(results: dict[str, CellResult]) -> PlotTable:
    cells = tuple(map(cell, results))
    return PlotTable(
        table=Table(title="t", columns=(), rows=(), cells=(cells,), base=cells[0]),
        results={each.identity: result for each, result in zip(cells, results.values(), strict=True)},
    )


def test_lines_are_the_caption_the_distance_and_the_scores_with_their_scorers() -> None:
    distance = PictureDistance(levels=12.34, cosine=0.0567)
    result = CellResult(key="k", scores={"clip": 0.25, "fid": None}, distance=distance)
    lines = lines_below(cell("a", "M00"), result, INFOS)
    assert [(line.text, line.scorer) for line in lines] == [
        ("M00", None),
        ("12.3 levels", None),
        ("cosine 0.057", None),
        ("clip 0.2500", "clip"),
        ("FID@4 –", "fid"),
    ]
    unscored = lines_below(cell("a"), CellResult(key="k", unscored="why"), INFOS)
    assert [line.text for line in unscored] == ["not scored"]


def test_a_score_of_a_set_has_the_number_of_images_that_it_looks_at() -> None:
    prompts = ["a lion", {"prompt": "a fox", "without": ["fid"]}]
    (line,) = lines_below(cell("a", prompts=prompts), CellResult(key="k", scores={"fid": 3.0}), INFOS)
    assert line.text == "FID@2 3.000"


def test_cells_whose_images_count_otherwise_are_two() -> None:
    plain, weighted = cell("a"), cell("a", prompts=["a lion", {"prompt": "a fox", "weight": 2}])
    assert plain.suite.digest == weighted.suite.digest
    assert plain.identity != weighted.identity


def test_the_best_is_the_largest_or_the_smallest_of_several() -> None:
    drawn = table({name: CellResult(key=name, scores={"clip": value, "fid": value}) for name, value in
                   (("a", 1.0), ("b", 3.0), ("c", None))})  # fmt: skip
    assert drawn.best("clip", INFOS["clip"]) == 3.0
    assert drawn.best("fid", INFOS["fid"]) == 1.0
    assert table({"a": CellResult(key="a", scores={"clip": 1.0})}).best("clip", INFOS["clip"]) is None


def test_a_sorted_strip_has_its_base_first_then_the_farthest_and_last_what_failed() -> None:
    def far(levels: float) -> CellResult:
        return CellResult(key="", distance=PictureDistance(levels=levels, cosine=None))

    drawn = table({"a": CellResult(key=""), "b": far(1), "c": CellResult(key="", failure="x"), "d": far(9)})
    assert [each.label for each in drawn.by_distance().table.every] == ["a", "d", "b", "c"]
    assert drawn.farthest == 9


def test_failures_are_told_once_for_each_reason_with_their_cells() -> None:
    results = {name: CellResult(key="", failure="out of memory") for name in "ab"} | {
        "c": CellResult(key="", unscored="no scorer")
    }
    told = failures_of([table(results)])
    assert told == ("2 cells failed: out of memory (a (and 1 more))", "1 cell not scored: no scorer (c)")
    assert CellResult(key="", failure="flat").why_no_picture == "failed: flat"
    assert CellResult(key="").why_no_picture == "failed: its images are gone"


def test_notes_say_what_the_numbers_are_where_there_are_any() -> None:
    assert notes_of([table({"a": CellResult(key="")})]) == ()
    distance = PictureDistance(levels=1.0, cosine=None)
    (note,) = notes_of([table({"a": CellResult(key="", distance=distance)})])
    assert note.startswith("levels: ")


@pytest.mark.parametrize(("count", "shape"), [(1, (3, 4, 6)), (2, (3, 4, 12)), (3, (3, 8, 12)), (5, (3, 8, 18))])
def test_images_are_joined_in_about_as_many_rows_as_columns(count: int, shape: tuple[int, ...]) -> None:
    images = [torch.full((3, 4, 6), index, dtype=torch.uint8) for index in range(count)]
    sheet = joined(images)
    assert sheet.shape == shape
    assert set(sheet.flatten().tolist()) - {255} == set(range(count))
