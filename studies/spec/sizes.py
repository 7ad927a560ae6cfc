"""Limits of the sizes of images, in pixels of a side."""

from __future__ import annotations

from typing import Final

SIZE_STEP: Final = 64  # a suite's sizes are multiples of it, and at least it: every model takes those
MOST_PIXELS: Final = 4096
