"""The pictures of a plot's page fit into it, whatever their number and size."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image

from optimizer.plot.kept import KeptCells
from optimizer.plot.pictures import STEPS, ShownPicture, shown_pictures
from optimizer.plot.results import CellResult
from optimizer.plot.tables import Identity

CELLS = 6
SIDE = 160


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> KeptCells:
    cells = KeptCells(tmp_path_factory.mktemp("plot") / "plot.cells")
    generator = torch.Generator().manual_seed(0)
    for index in range(CELLS):
        cells.keep(str(index), [torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator)])
    return cells


def results() -> dict[Identity, CellResult]:
    return {(str(index), "", ""): CellResult(key=str(index)) for index in range(CELLS)}


def content_of(shown: ShownPicture) -> bytes:
    return base64.b64decode(shown.url.partition(",")[2])


def test_pictures_that_fit_are_png(kept: KeptCells) -> None:
    shown, note = shown_pictures(results(), kept)
    assert note == ()
    assert all(each.url.startswith("data:image/png") for each in shown.values())


@pytest.mark.parametrize(
    ("room", "side", "said"), [(200_000, SIDE, "JPEG, quality 90"), (25_000, 96, "at most 96 pixels")]
)
def test_pictures_that_do_not_fit_are_made_smaller_until_they_do(
    kept: KeptCells, room: int, side: int, said: str
) -> None:
    shown, (note,) = shown_pictures(results(), kept, room)
    assert len(shown) == CELLS
    assert said in note
    contents = [content_of(each) for each in shown.values()]
    assert sum(map(len, contents)) <= room
    for content, each in zip(contents, shown.values(), strict=True):
        with Image.open(io.BytesIO(content)) as picture:
            assert (picture.format, max(picture.size)) == ("JPEG", side)
        assert (each.width, each.height) == (SIDE, SIDE)


def test_the_smallest_pictures_are_those_of_the_last_step_however_little_room_there_is(kept: KeptCells) -> None:
    shown, (note,) = shown_pictures(results(), kept, 100)
    assert len(shown) == CELLS
    assert f"at most {STEPS[-1][0]} pixels" in note
