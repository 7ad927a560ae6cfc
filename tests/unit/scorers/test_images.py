"""Reading and resizing pictures, compared with Pillow and with open_clip's own transform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from scorer_helpers import picture

from scorers.errors import ReferenceImagesError
from scorers.images import Preprocess, list_images, prepare, read_rgb, resize

if TYPE_CHECKING:
    from pathlib import Path

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.25, 0.27)


def noisy_picture(height: int, width: int) -> torch.Tensor:
    """Smooth areas, hard edges and noise: what resizing can get wrong."""
    random = np.random.default_rng(height * width)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([(x * 5 + y) % 256, 255 * ((x // 7 + y // 5) % 2), random.integers(0, 256, (height, width))])
    return torch.from_numpy(pixels.astype(np.uint8))


@pytest.mark.parametrize(
    ("shape", "size", "mode"),
    [
        (shape, size, mode)
        for shape in [(64, 64), (97, 61), (50, 120), (20, 27), (32, 32)]
        for size in [(32, 32), (24, 40)]
        for mode in ("shortest", "longest", "squash")
        # Where the height shrinks more than the width, Pillow 13 begins with the columns: see `resize`.
        if mode != "squash" or shape[0] / size[0] <= shape[1] / size[1] or shape == (64, 64)
    ],
)
def test_prepare_agrees_with_open_clips_transform_within_a_grey_level(
    shape: tuple[int, int], size: tuple[int, int], mode: str
) -> None:
    image = picture(1, *shape)
    config = PreprocessCfg(size=size, mean=MEAN, std=STD, resize_mode=mode, fill_color=9)
    expected = image_transform_v2(config, is_train=False)(Image.fromarray(image.permute(1, 2, 0).numpy()))
    ours = prepare(
        image,
        Preprocess(size=size, mean=MEAN, std=STD, resize_mode=mode, fill=9),  # type: ignore[arg-type]
    )
    levels = (ours - expected).abs() * torch.tensor(STD).view(3, 1, 1) * 255
    assert ours.dtype == torch.float32
    assert ours.shape == expected.shape
    assert levels.max() < 1.01
    assert levels.mean() < 0.1  # one level off happens at rounding borders, and seldom


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (90, 70)])
@pytest.mark.parametrize("shape", [(64, 64), (97, 61), (50, 120), (20, 27)])
def test_resizing_agrees_with_pillow_rows_first(
    shape: tuple[int, int], size: tuple[int, int], interpolation: Literal["bicubic", "bilinear"]
) -> None:
    image = noisy_picture(*shape)
    how = Image.Resampling[interpolation.upper()]
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy())
    pillow = pillow.resize((size[1], shape[0]), how).resize((size[1], size[0]), how)
    difference = resize(image[None].float(), size, interpolation)[0] - torch.from_numpy(np.array(pillow)).permute(
        2, 0, 1
    )
    assert difference.abs().max() <= 2  # a level in the first pass, amplified by overshoot in the second
    assert difference.abs().mean() < 0.05


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_transparency_becomes_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 128))
    pixels = read_rgb(save(tmp_path / "a.png", clear))
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels[:, 0, 1].tolist() == [127, 127, 127]


def test_a_palette_with_transparency_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = read_rgb(save(tmp_path / "a.png", image, transparency=0))
    assert pixels[:, 0].T.tolist() == [[255, 255, 255], [40, 50, 60]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8), "white").convert(mode)
    suffix = ".jpg" if mode == "CMYK" else ".png"
    pixels = read_rgb(save(tmp_path / f"a{suffix}", picture))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 8, 8))
    assert pixels.min() >= 254


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 200 * 257, 65535]], dtype=np.uint16)
    pixels = read_rgb(save(tmp_path / "a.png", Image.fromarray(levels)))
    assert pixels[0, 0].tolist() == [0, 1, 200, 255]


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = save(tmp_path / "a.jpg", Image.new("RGB", (8, 4)), exif=exif)
    assert read_rgb(path).shape == (3, 8, 4)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n\0\0"])
def test_an_unreadable_image_is_told_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ReferenceImagesError, match=r"broken.png cannot be read as an image"):
        read_rgb(tmp_path / "broken.png")


def test_a_truncated_image_is_told_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "cut.png", Image.effect_noise((64, 64), 50))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ReferenceImagesError, match=r"cut\.png"):
        read_rgb(path)


def test_images_are_found_in_subfolders_in_one_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpg", "c.webp", "a/y.jpeg", "notes.txt", "a/.hidden", "d.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a/y.jpeg", "a/z.jpg", "b.PNG", "c.webp"]


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReferenceImagesError, match=r"no folder of reference images at .*nowhere"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "one.png").touch()
    with pytest.raises(ReferenceImagesError, match=r"one\.png, named by option 'reference', is a file: give a folder"):
        list_images(tmp_path / "one.png")
