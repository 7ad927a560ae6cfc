"""Image files as tensors, and the preprocessing that scoring networks expect. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from scorers.errors import ReferenceImagesError
from scorers.weights.needs import require_reference_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

Interpolation = Literal["bicubic", "bilinear"]

#: Pixels of the largest image that is read: enough for a camera of 64 megapixels; from 89 million on Pillow warns.
MAX_PIXELS = 80_000_000

#: Suffixes of image files, in lower case.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The preprocessing of a network's input: resize, crop or pad, scale to 0..1, normalise."""

    size: tuple[int, int]  # height, width in pixels
    mean: tuple[float, float, float]  # of R, G, B in 0..1
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    # shortest: fill the frame and crop the rest; longest: fit inside and pad; squash: ignore the aspect ratio
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill: int = 0  # grey level of padding, 0..255


def prepare(image: Tensor, preprocess: Preprocess) -> Tensor:
    """Turn an image, uint8 [3, h, w], into network input, float32 [3, *preprocess.size], on the same device.

    It agrees with open_clip's transform within one grey level; see `resize` about Pillow 13.
    """
    size = resized_size((image.shape[-2], image.shape[-1]), preprocess)
    levels = resize(image.unsqueeze(0).float(), size, preprocess.interpolation)
    levels = centre(levels, preprocess.size, float(preprocess.fill))
    mean = torch.tensor(preprocess.mean, device=image.device).view(3, 1, 1)
    std = torch.tensor(preprocess.std, device=image.device).view(3, 1, 1)
    return (levels[0] / 255 - mean) / std


def prepare_batch(images: Sequence[Tensor], preprocess: Preprocess, device: str) -> Tensor:
    """Turn images, uint8 [3, h, w] of any sizes, into network input on `device`, float32 [b, 3, *preprocess.size]."""
    return torch.stack([prepare(image.to(device), preprocess) for image in images])


def resize(levels: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Resize [b, c, h, w], whole grey levels 0..255, to `size` (height, width), antialiased.

    Networks were trained on images resized by Pillow up to 12. This does the same: first along the rows, then along the
    columns, rounding and clipping after each pass. At hard edges, a single pass in both directions differs from that by
    up to 16 levels, and so does Pillow 13, which begins with the columns if that is faster
    (https://github.com/python-pillow/Pillow/pull/9549). Scores must not depend on Pillow's version.
    """
    for step in ((levels.shape[-2], size[1]), size):
        if step != tuple(levels.shape[-2:]):
            levels = F.interpolate(levels, step, mode=interpolation, align_corners=False, antialias=True)
            levels = (levels + 0.5).floor().clamp(0, 255)  # Pillow rounds halves up; round() rounds them to even
    return levels


def resized_size(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Return height and width after resizing, before cropping or padding.

    Rounding follows the transforms that open_clip trains with. A square frame is filled by torchvision's Resize, which
    truncates the longer edge. For any other frame, both edges are rounded.
    """
    height, width = size
    target_height, target_width = preprocess.size
    if preprocess.resize_mode == "squash":
        return preprocess.size
    if preprocess.resize_mode == "shortest" and target_height == target_width:
        shorter = min(height, width)
        return int(target_height * height / shorter), int(target_height * width / shorter)
    fit = max if preprocess.resize_mode == "longest" else min
    ratio = fit(height / target_height, width / target_width)
    return round(height / ratio), round(width / ratio)


def centre(image: Tensor, size: tuple[int, int], fill: float) -> Tensor:
    """Crop or pad [..., h, w] to the central window of `size` (height, width); padding has the value `fill`."""
    missing_y = max(size[0] - image.shape[-2], 0)
    missing_x = max(size[1] - image.shape[-1], 0)
    if missing_y or missing_x:
        border = (missing_x // 2, missing_x - missing_x // 2, missing_y // 2, missing_y - missing_y // 2)
        image = F.pad(image, border, value=fill)
    top = round((image.shape[-2] - size[0]) / 2)
    left = round((image.shape[-1] - size[1]) / 2)
    return image[..., top : top + size[0], left : left + size[1]]


def list_images(folder: Path) -> tuple[Path, ...]:
    """List all image files below `folder`, in the same order on every machine; other files are ignored.

    Raises:
        ReferenceImagesError: there is no such folder.
    """
    require_reference_folder(folder)
    images = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return tuple(sorted(images, key=lambda path: path.relative_to(folder).as_posix()))


def read_rgb(path: Path) -> Tensor:
    """Read an image file as uint8 [3, h, w]: rotated as its EXIF says, transparency on white, 16 bits scaled to 8.

    Raises:
        ReferenceImagesError: the file cannot be read as an image. It is not skipped, because a reference set without it
            would be another reference set.
    """
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:  # known from the header, before anything is unpacked
                raise ValueError(f"it has {opened.width} x {opened.height} pixels, more than {MAX_PIXELS:,}")
            image = to_rgb(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        # SyntaxError: broken chunks of a PNG
        raise ReferenceImagesError(f"{path} cannot be read as an image ({error}): repair or remove it") from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any Pillow mode to RGB, with a white background behind transparent pixels."""
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255, which turns such images white.
        levels = np.asarray(image, dtype=np.float64) / 257
        return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, picture).convert("RGB")
    return image.convert("RGB")
