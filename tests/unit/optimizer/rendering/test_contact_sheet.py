"""Pictures for people: as they were rendered, and as small as a sheet shows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from optimizer.rendering.contact_sheet import thumbnail, to_picture


def smooth(height: int, width: int) -> Tensor:
    rows, columns = torch.linspace(0, 6, height)[:, None], torch.linspace(0, 9, width)
    waves = torch.stack([rows.sin() * columns.cos(), (rows + columns).sin(), (rows * columns / 9).cos()])
    return (127.5 * (1 + waves)).byte()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_picture_has_the_pixels_of_the_render(memory_format: torch.memory_format) -> None:
    image = smooth(24, 40)[None].contiguous(memory_format=memory_format)[0]
    assert np.array_equal(np.asarray(to_picture(image)), image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("size", "shown"), [((1024, 1024), (128, 128)), ((1216, 832), (128, 88)), ((64, 96), (85, 128))]
)
def test_a_sheet_shows_what_a_filter_over_all_pixels_would(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = smooth(*size)
    whole = to_picture(image).resize(shown[::-1], Image.Resampling.LANCZOS)
    difference = thumbnail(image).int() - torch.from_numpy(np.array(whole)).permute(2, 0, 1).int()
    assert difference.abs().max() <= 2, "grey levels"
