"""Pictures for people: as they were rendered, and as small as a sheet shows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from optimizer.rendering.contact_sheet import (
    SheetCell,
    SheetTable,
    comparison_sheet,
    contact_sheet,
    table_sheet,
    thumbnail,
    to_picture,
)


def smooth(height: int, width: int) -> Tensor:
    rows, columns = torch.linspace(0, 6, height)[:, None], torch.linspace(0, 9, width)
    waves = torch.stack([rows.sin() * columns.cos(), (rows + columns).sin(), (rows * columns / 9).cos()])
    return (127.5 * (1 + waves)).byte()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_picture_has_the_pixels_of_the_render(memory_format: torch.memory_format) -> None:
    image = smooth(24, 40)[None].contiguous(memory_format=memory_format)[0]
    assert np.array_equal(np.asarray(to_picture(image)), image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("size", "shown"), [((1024, 1024), (256, 256)), ((1216, 832), (256, 175)), ((64, 96), (85, 128))]
)
def test_a_sheet_shows_what_a_filter_over_all_pixels_would(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = smooth(*size)
    whole = to_picture(image).resize(shown[::-1], Image.Resampling.LANCZOS)
    difference = thumbnail(image, 100).int() - torch.from_numpy(np.array(whole)).permute(2, 0, 1).int()
    assert difference.abs().max() <= 2, "grey levels"


@pytest.mark.parametrize("pictures", [3, 16, 64])
@pytest.mark.parametrize("side", [512, 768, 1024, 1536])
def test_renders_of_512_pixels_and_more_have_cells_of_256_to_384(side: int, pictures: int) -> None:
    longer = max(thumbnail(smooth(side, side - 64), pictures).shape)
    assert 256 <= longer <= 384


def cell(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and lower edge of all pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def flat(colour: tuple[int, int, int], height: int, width: int) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width)


def test_a_comparison_has_a_column_for_each_trial_and_a_row_for_each_item() -> None:
    colours = {(trial, item): (60 * trial + 20, 100 + item, 30) for trial in range(3) for item in range(4)}
    columns = [
        (f"A: a file with a long name\ntrial {trial}\n+1.23 (+0.98 to +1.48)",
         [flat(colours[trial, item], 640, 512) for item in range(4)])
        for trial in range(3)
    ]  # fmt: skip
    sheet = comparison_sheet("a study", columns, [f"a prompt\nseed {item}" for item in range(4)], tables=2)
    places = {key: cell(sheet, colour) for key, colour in colours.items()}
    for left, top, right, bottom in places.values():
        assert (right - left, bottom - top) == (256, 320)
    for item in range(4):
        assert len({places[trial, item][1] for trial in range(3)}) == 1  # one row
        assert places[0, item][0] < places[1, item][0] < places[2, item][0]
    assert places[0, 2][0] > places[2, 0][0]  # the second table, beside the first
    assert places[0, 2][1] == places[0, 0][1]


def test_a_seed_stays_below_a_prompt_that_is_too_long() -> None:
    image = flat((9, 9, 9), 512, 512)
    long = contact_sheet("a trial", [image], ["very " * 200 + "\nseed 77"])
    other = contact_sheet("a trial", [image], ["very " * 200 + "\nseed 88"])
    assert long.size == other.size
    assert long.tobytes() != other.tobytes()


def tinted(colour: tuple[int, int, int], height: int = 60, width: int = 130) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width).clone()


def boxes(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Return the box around all pixels of a colour: left, top, right, bottom."""
    found = (np.asarray(sheet) == colour).all(axis=-1)
    return Image.fromarray((255 * found).astype(np.uint8)).getbbox()


def test_a_table_shows_every_picture_whole_in_its_row_and_column_with_lines_below() -> None:
    colours = [(200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10)]
    cells = [SheetCell(image=tinted(colour), lines=("sharpness 1.00", "cosine 0.100")) for colour in colours]
    one = SheetTable(title="one", columns=("a", "b"), rows=("c", "d"), cells=((cells[0], cells[1]), (cells[2],)))
    strip = SheetTable(title="", columns=(), rows=(), cells=((cells[3],),))
    sheet = table_sheet("a plot with a title that is far longer than its tables are wide", [one, strip])
    found = [boxes(sheet, colour) for colour in colours]
    assert all(box is not None and (box[2] - box[0], box[3] - box[1]) == (130, 60) for box in found)
    lefts, tops = [box[0] for box in found if box], [box[1] for box in found if box]
    assert lefts[0] == lefts[2] < lefts[1]
    assert lefts[3] < lefts[0], "a strip has no headings beside it"
    assert tops[0] == tops[1] < tops[2] < tops[3]
    below = sheet.crop((lefts[0], tops[0] + 60, lefts[0] + 130, tops[2])).convert("L")
    assert np.asarray(below).min() < 128, "the lines below the first picture"


def test_a_cell_without_a_picture_says_why_in_its_place() -> None:
    failed = SheetCell(image=None, lines=("failed: out of memory",))
    drawn = SheetCell(image=tinted((10, 200, 10)), lines=())
    sheet = table_sheet("", [SheetTable(title="", columns=(), rows=(), cells=((drawn, failed),))])
    green = boxes(sheet, (10, 200, 10))
    assert green is not None
    beside = sheet.crop((green[2], green[1], sheet.width, green[3])).convert("L")
    assert np.asarray(beside).min() < 128
