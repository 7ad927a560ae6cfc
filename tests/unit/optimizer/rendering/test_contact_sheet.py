"""Pictures for people: as they were rendered, and as small as a sheet shows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from optimizer.rendering.contact_sheet import comparison_sheet, contact_sheet, thumbnail, to_picture


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
    sheet = comparison_sheet("a study", columns, [f"a prompt\nseed {item}" for item in range(4)], blocks=2)
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
