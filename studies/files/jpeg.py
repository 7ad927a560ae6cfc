"""Pictures as JPEG: small ones for pages, and contact sheets."""

from __future__ import annotations

import io

from PIL import Image


def encode_jpeg(picture: Image.Image, quality: int, *, full_colour: bool = False) -> bytes:
    """Encode an RGB picture as JPEG.

    Args:
        quality: 1 to 95, as Pillow counts.
        full_colour: whether colours keep the resolution of brightness, which text in colour needs.
    """
    with io.BytesIO() as buffer:
        picture.save(buffer, format="JPEG", quality=quality, optimize=True, subsampling=0 if full_colour else 2)
        return buffer.getvalue()
