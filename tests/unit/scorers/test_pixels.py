"""Pixel statistics against closed forms, and the guard against images that are no images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from fake_card import CARD, FakeCard
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import convolve
from scorer_helpers import picture

from scorers import registry
from scorers.degenerate import faults, measure
from scorers.errors import SuiteImagesError
from scorers.pixels import statistics as pixels
from scorers.pixels.kinds import PixelSettings

if TYPE_CHECKING:
    from scorers.protocol import BuildContext, ImageScorer, SuiteImages

NAMES = ("sharpness", "contrast", "colourfulness", "clipping")


def flat(red: int, green: int, blue: int, size: int = 16) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8).view(3, 1, 1).repeat(1, size, size)


def halves(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return torch.cat([left, right], dim=2)


def from_pillow(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def test_luma_is_that_of_rec_601() -> None:
    assert pixels.luma(flat(255, 0, 0))[0, 0] == pytest.approx(0.299 * 255)
    torch.testing.assert_close(pixels.luma(flat(9, 9, 9)), torch.full((16, 16), 9.0, dtype=torch.float64))


def test_sharpness_is_the_spread_of_the_laplacian() -> None:
    image = picture(3, 20, 31)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    laplacian = convolve(pixels.luma(image).numpy(), kernel)[1:-1, 1:-1]
    assert pixels.sharpness(image) == pytest.approx(laplacian.std())


def test_sharpness_of_a_checkerboard_is_known() -> None:
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 255
    # Every pixel differs from its four neighbours by 255: the Laplacian is +-1020.
    assert pixels.sharpness(board.byte().expand(3, -1, -1)) == pytest.approx(1020)


def test_blur_lowers_sharpness() -> None:
    sharp = Image.effect_noise((64, 64), 60)
    blurred = sharp.filter(ImageFilter.GaussianBlur(2))
    assert pixels.sharpness(from_pillow(blurred)) < 0.2 * pixels.sharpness(from_pillow(sharp))


def test_sharpness_needs_an_inner_pixel() -> None:
    with pytest.raises(SuiteImagesError, match=r"at least 3 x 3 pixels, got \[2, 9\]"):
        pixels.sharpness(torch.zeros(3, 2, 9, dtype=torch.uint8))


def test_contrast_of_black_and_white_halves_is_a_half() -> None:
    assert pixels.contrast(halves(flat(0, 0, 0), flat(255, 255, 255))) == pytest.approx(0.5)


def test_colourfulness_of_one_colour_is_its_distance_from_grey() -> None:
    # rg = 255, yb = 127.5, no spread
    assert pixels.colourfulness(flat(255, 0, 0)) == pytest.approx(0.3 * np.hypot(255, 127.5))


def test_colourfulness_of_red_and_green_halves() -> None:
    # rg = +-255: deviation 255, mean 0; yb = 127.5: deviation 0
    image = halves(flat(255, 0, 0), flat(0, 255, 0))
    assert pixels.colourfulness(image) == pytest.approx(255 + 0.3 * 127.5)


def test_clipping_counts_black_and_white_but_not_saturated_colours() -> None:
    image = torch.cat([flat(0, 0, 0, 4), flat(255, 255, 255, 4), flat(255, 0, 0, 4), flat(1, 0, 0, 4)], dim=2)
    assert pixels.clipping(image) == pytest.approx(0.5)


@given(grey=st.integers(0, 255))
def test_a_grey_field_has_no_detail_contrast_or_colour(grey: int) -> None:
    image = flat(grey, grey, grey)
    values = [pixels.sharpness(image), pixels.contrast(image), pixels.colourfulness(image)]
    assert values == pytest.approx([0, 0, 0], abs=1e-9)


@given(seed=st.integers(0, 1000))
def test_statistics_do_not_change_under_mirroring(seed: int) -> None:
    image = picture(seed, 17, 23)
    for name in NAMES:
        measure = getattr(pixels, name)
        assert measure(image.flip(2)) == pytest.approx(measure(image), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_pixel_scorer_scores_each_image(name: str, context: BuildContext, suite: SuiteImages) -> None:
    scorer: ImageScorer = registry.build(name, PixelSettings(), context)  # type: ignore[assignment]
    scores = scorer.score(suite)
    assert scores.dtype == torch.float64
    assert scores.tolist() == [getattr(pixels, name)(image) for image in suite.images]
    assert scorer.info.name == name


# Degenerate images


def noise(seed: int = 0, size: int = 64, scale: float = 1.0) -> torch.Tensor:
    values = torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed))
    return 0.5 + scale * (values - 0.5)


def both_types(image: torch.Tensor) -> list[torch.Tensor]:
    """A picture in 0..1 as it is, and as uint8."""
    return [image.float(), (image * 255).round().clamp(0, 255).byte()]


def any_fault(image: torch.Tensor) -> bool:
    return any(fault is not None for typed in both_types(image) for fault in faults(measure(typed[None])))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (torch.zeros(3, 32, 32), "black: the brightest value is 0.0 of 255"),
        (torch.full((3, 32, 32), 0.01), "black: "),
        (torch.full((3, 32, 32), 0.5), "flat: the standard deviation is 0.0 of 255"),
        (torch.ones(3, 32, 32), "flat: "),
        (0.5 + 0.01 * (noise() - 0.5), "flat: "),
        (noise(), "noise: "),
        (noise(1, 16), "noise: "),
        (noise(2)[:1].expand(3, -1, -1), "noise: "),
    ],
    ids=["black", "nearly black", "grey", "white", "faint noise", "noise", "small noise", "grey noise"],
)
def test_no_image_is_found_in_float_and_in_uint8(image: torch.Tensor, reason: str, device: torch.device) -> None:
    for typed in both_types(image):
        (found,) = faults(measure(typed[None].to(device)))
        assert found is not None
        assert found.startswith(reason)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
def test_a_single_broken_value_is_found(value: float, dtype: torch.dtype, device: torch.device) -> None:
    image = (picture(0, 32, 32) / 255).to(dtype)
    image[1, 5, 7] = value
    assert faults(measure(image[None].to(device))) == ["1 of 3072 values are NaN or infinite"]


def drawing(size: int, draw: str) -> torch.Tensor:
    canvas = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(canvas)
    random = np.random.default_rng(7)
    if draw == "emoji":
        pen.ellipse((size // 3, size // 3, size // 2, size // 2), fill=(250, 200, 40))
    elif draw == "lines":
        for _ in range(40):
            pen.line([tuple(point) for point in random.integers(0, size, (2, 2))], fill="black", width=1)
    elif draw == "stripes":
        for row in range(0, size, 2):
            pen.line([(0, row), (size, row)], fill="black", width=1)
    elif draw == "stars":
        canvas.paste("black", (0, 0, size, size))
        for point in random.integers(0, size, (60, 2)):
            pen.point(tuple(point), fill="white")
    elif draw == "text":
        pen.multiline_text((2, 2), "many small\nletters of\nblack on\nwhite", fill="black")
    return from_pillow(canvas).float() / 255


@pytest.mark.parametrize("what", ["emoji", "lines", "stripes", "stars", "text"])
@pytest.mark.parametrize("size", [64, 256])
def test_drawings_are_pictures(what: str, size: int) -> None:
    assert not any_fault(drawing(size, what))


def checkerboard(square: int, size: int = 64) -> torch.Tensor:
    index = torch.arange(size) // square
    return ((index[:, None] + index) % 2).float().expand(3, -1, -1)


def texture(seed: int) -> torch.Tensor:
    """Rough sand: noise blurred by less than a pixel."""
    grain = Image.fromarray((noise(seed, 128)[0].numpy() * 255).astype(np.uint8))
    return from_pillow(grain.filter(ImageFilter.GaussianBlur(0.6))).float() / 255


def grainy(image: torch.Tensor, strength: float) -> torch.Tensor:
    grain = torch.randn(image.shape, generator=torch.Generator().manual_seed(4)) * strength
    return (image + grain).clamp(0, 1)


@pytest.mark.parametrize(
    "image",
    [
        picture(5, 64, 64) / 255,
        grainy(picture(5, 64, 64) / 255, 0.1),
        grainy(torch.full((3, 64, 64), 0.5), 0.06),
        texture(1),
        texture(2),
        checkerboard(1),
        checkerboard(4),
        0.05 * (picture(6, 64, 64) / 255),
        0.9 + 0.1 * (picture(6, 64, 64) / 255),
        torch.linspace(0, 1, 64).expand(3, 64, 64),
        noise(3, 8),
    ],
    ids=[
        "picture",
        "heavy grain",
        "grain on a grey card",
        "sand",
        "other sand",
        "fine checkerboard",
        "checkerboard",
        "night",
        "fog",
        "gradient",
        "too small to tell",
    ],
)
def test_pictures_are_pictures(image: torch.Tensor) -> None:
    assert not any_fault(image)


@given(seed=st.integers(0, 100_000))
def test_noise_is_always_found_and_pictures_never(seed: int) -> None:
    found = faults(measure(torch.stack([noise(seed, 32), picture(seed, 32, 32) / 255])))
    assert [fault is not None for fault in found] == [True, False]


def reference_fault(image: np.ndarray) -> str | None:
    """Why an image, float [3, h, w] in 0..1, is none: one statistic after the other, by numpy in float64."""
    if broken := int((~np.isfinite(image)).sum()):
        return f"{broken} of {image.size} values are NaN or infinite"
    levels = image.astype(np.float64)
    if levels.max() <= 5 / 255:
        return f"black: the brightest value is {255 * levels.max():.1f} of 255"
    if (spread := max(channel.std() for channel in levels)) <= 0.01:
        return f"flat: the standard deviation is {255 * spread:.1f} of 255"
    grey = np.tensordot([0.299, 0.587, 0.114], levels, 1)
    if min(grey.shape) < 16 or grey.std() < 0.08:
        return None
    neighbours = [
        (grey[:, :-1], grey[:, 1:]),
        (grey[:-1], grey[1:]),
        (grey[:-1, :-1], grey[1:, 1:]),
        (grey[:-1, 1:], grey[1:, :-1]),
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        related = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in neighbours]
    tiles = [tile.std() for rows in np.array_split(grey, 4) for tile in np.array_split(rows, 4, axis=1)]
    if np.nanmax(np.abs(related)) > 0.15 or np.isnan(related).any() or min(tiles) < 0.6 * grey.std():
        return None
    return "noise: neighbouring pixels are unrelated over the whole frame"


def spoilt(image: torch.Tensor) -> torch.Tensor:
    spoilt = image.clone()
    spoilt[:, ::5, 0], spoilt[0, 0, 0] = torch.nan, torch.inf
    return spoilt


def mixed(seed: int, height: int, width: int) -> torch.Tensor:
    """Images of one size, some of which are degenerate and some nearly: float32 [n, 3, h, w] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    wild, calm = torch.rand(3, height, width, generator=generator), picture(seed, height, width) / 255
    share, edge = torch.rand((), generator=generator), torch.zeros(3, height, width)
    edge[:, :, 0] = 1  # all but a column of it is constant
    strength = 0.5 + 0.5 * share
    images = [
        wild,
        calm,
        torch.zeros(3, height, width),
        torch.full((3, height, width), float(share)),
        share * wild,
        0.04 * share * wild,
        0.5 + 0.07 * share * (wild - 0.5),
        strength * wild + (1 - strength) * calm,
        torch.cat([wild[:, : height // 2], calm[:, height // 2 :]], dim=1),
        edge,
        spoilt(calm),
        spoilt(wild),
    ]
    return torch.stack(images)


@given(seed=st.integers(0, 100_000), height=st.integers(1, 70), width=st.integers(1, 70))
def test_faults_of_a_batch_are_those_of_each_image_by_a_plain_reference(
    seed: int, height: int, width: int, device: torch.device
) -> None:
    images = mixed(seed, height, width)
    expected = [reference_fault(image.numpy()) for image in images]
    assert faults(measure(images.to(device))) == expected
    rounded = (images.nan_to_num(0) * 255).round().clamp(0, 255).byte()
    expected = [reference_fault(image.numpy() / 255) for image in rounded]
    assert faults(measure(rounded.to(device))) == expected


def test_batches_may_be_judged_together() -> None:
    first, second = measure(mixed(1, 20, 30)), measure(mixed(2, 64, 40))
    assert faults(torch.cat([first, second])) == faults(first) + faults(second)
    assert {(fault or "a picture").split(":")[0] for fault in faults(first)} >= {"a picture", "black", "flat", "noise"}


def test_measuring_reads_nothing_back_from_the_device() -> None:
    with FakeCard() as card:
        images = torch.zeros(2, 3, 32, 32, device=CARD)
        before = card.waits.copy()
        measured = measure(images)
        assert card.waits == before
    assert measured.shape == (2, 7)
