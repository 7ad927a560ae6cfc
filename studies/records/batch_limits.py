"""The largest batches that a device has memory for, as found when a larger one did not fit, and their form as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Batched = Literal["unet", "vae"]
"""A component through which a suite's images go in batches."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class BatchLimit:
    """The most images of one size that may go through a component at once."""

    component: Batched
    size: Size
    images: int

    def __str__(self) -> str:
        """Give the limit for people: `512x512 4`, `vae 1024x1024 1`. The U-Net is not named."""
        width, height = self.size
        return f"{'' if self.component == 'unet' else f'{self.component} '}{width}x{height} {self.images}"


def limits_to_json(limits: Iterable[BatchLimit]) -> list[list[str | int]]:
    """Return limits as a column of the database holds them."""
    return [[limit.component, *limit.size, limit.images] for limit in limits]


def limits_from_json(stored: Iterable[Any] | None) -> tuple[BatchLimit, ...]:
    """Read what `limits_to_json` gave; None is of a trial without limits."""
    return tuple(
        BatchLimit(component=component, size=(width, height), images=images)
        for component, width, height, images in stored or ()
    )
