"""PNG files as others read them."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from studies.files.png import encode_png

images = array_shapes(min_dims=2, max_dims=2, max_side=40).flatmap(lambda shape: arrays(np.uint8, (3, *shape)))


def read(content: bytes) -> NDArray[np.uint8]:
    """[3, h, w] by Pillow, which checks the sums of all chunks."""
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        return np.asarray(picture).transpose(2, 0, 1)


@given(images)
def test_pillow_reads_back_every_pixel(pixels: NDArray[np.uint8]) -> None:
    assert np.array_equal(read(encode_png(pixels)), pixels)


@given(st.integers(0, 2**32 - 1))
def test_images_whose_channels_lie_beside_each_other_are_read_back_too(seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (19, 23, 3), dtype=np.uint8).transpose(2, 0, 1)
    assert np.array_equal(read(encode_png(pixels)), pixels)


def test_the_same_pixels_give_the_same_file() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 64, 48), dtype=np.uint8)
    assert encode_png(pixels) == encode_png(pixels.copy())


def test_a_smooth_image_takes_a_fraction_of_its_pixels() -> None:
    pixels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (3, 256, 256))
    assert len(encode_png(pixels)) < pixels.size / 50
