"""How many images a device can render at once: learned when it runs out of memory, and kept.

A render's last bits depend on what shares its batch. So a trial in which a limit was lowered is rendered from its
beginning: its renders follow from the recipe and the limits alone, and the limits are recorded with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Size = tuple[int, int]  # width and height in pixels


class BatchReduced(Exception):  # noqa: N818 - asks for another attempt
    """A limit was lowered: render again, from the trial's beginning."""


@dataclass(slots=True)
class BatchLimits:
    """Images of each size that may be rendered at once; a size that is not named has no limit.

    Attributes:
        on_lowered: told the size, the new limit and why.
    """

    most: dict[Size, int] = field(default_factory=dict)
    on_lowered: Callable[[Size, int, str], None] = lambda _size, _most, _reason: None

    def lower(self, size: Size, failed: int, reason: str) -> None:
        """Half of what failed."""
        self.most[size] = -(-failed // 2)
        self.on_lowered(size, self.most[size], reason)

    def adopt(self, known: Mapping[Size, int]) -> None:
        """Limits that others have found; the lower one holds."""
        for size, most in known.items():
            self.most[size] = min(most, self.most.get(size, most))

    def __str__(self) -> str:
        """`512x512 4, 1024x1024 1`."""
        return ", ".join(f"{width}x{height} {most}" for (width, height), most in sorted(self.most.items()))

    @classmethod
    def parse(cls, text: str) -> BatchLimits:
        """What `str` gives."""
        rows = [row.split(" ") for row in text.split(", ") if row]
        sizes = [tuple(map(int, size.split("x"))) for size, _ in rows]
        return cls({(width, height): int(most) for (width, height), (_, most) in zip(sizes, rows, strict=True)})
