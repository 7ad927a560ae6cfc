"""The interval of a share, such as that of the votes for one side."""

from __future__ import annotations

import math
from typing import Final

Z95: Final = 1.959963984540054  # of a normal distribution


def wilson_interval(part: int, whole: int) -> tuple[float, float]:
    """Return the 95 % interval of a share.

    Wilson 1927, Probable inference, the law of succession, and statistical inference.

    Args:
        part, whole: counts; `whole` is at least 1.
    """
    share, square = part / whole, Z95**2
    centre = (share + square / (2 * whole)) / (1 + square / whole)
    half = Z95 * math.sqrt(share * (1 - share) / whole + square / (4 * whole**2)) / (1 + square / whole)
    return max(centre - half, 0.0), min(centre + half, 1.0)
