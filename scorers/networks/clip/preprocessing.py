"""How images are prepared for a CLIP: its size and the colours that it was trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import open_clip

from scorers.images import Preprocess

if TYPE_CHECKING:
    from collections.abc import Mapping


def preprocess_of(size: int | tuple[int, int], normalisation: Mapping[str, Any]) -> Preprocess:
    """Return open_clip's preprocessing for an image size and a tag's entry; OpenAI's if that is empty."""
    height, width = (size, size) if isinstance(size, int) else size
    return Preprocess(
        size=(height, width),
        mean=tuple(normalisation.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(normalisation.get("std", open_clip.OPENAI_DATASET_STD)),
        interpolation="bilinear" if normalisation.get("interpolation") == "bilinear" else "bicubic",
        resize_mode=normalisation.get("resize_mode") or "shortest",
        fill=normalisation.get("fill_color", 0),
    )
