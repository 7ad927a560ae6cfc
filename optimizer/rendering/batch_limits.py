"""How many images a device can denoise and decode at once: learned when it runs out of memory, and kept.

A render's last bits depend on what shares its batch. So a trial in which a limit was lowered is rendered from its
beginning, unless no image that the limit is for was made yet: its renders follow from the recipe and the limits alone,
and the limits are recorded with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from studies.batch_limits import Batched, Size


class BatchReduced(Exception):  # noqa: N818 - asks for another attempt
    """A limit was lowered: render again, from the trial's beginning."""


@dataclass(slots=True)
class BatchLimits:
    """Images of a size that may go through the U-Net or the VAE at once; what is not named has no limit.

    Attributes:
        on_lowered: told the component, the size, the new limit and why.
    """

    most: dict[tuple[Batched, Size], int] = field(default_factory=dict)
    on_lowered: Callable[[Batched, Size, int, str], None] = lambda _component, _size, _most, _reason: None

    def of(self, component: Batched) -> Mapping[Size, int]:
        """The limits of one component."""
        return {size: most for (name, size), most in self.most.items() if name == component}

    def lower(self, component: Batched, size: Size, failed: int, reason: str) -> None:
        """Half of what failed."""
        self.most[component, size] = -(-failed // 2)
        self.on_lowered(component, size, self.most[component, size], reason)

    def adopt(self, known: Mapping[tuple[Batched, Size], int]) -> None:
        """Limits that others have found; the lower one holds."""
        for key, most in known.items():
            self.most[key] = min(most, self.most.get(key, most))

    def __str__(self) -> str:
        """`512x512 4, 1024x1024 2, vae 1024x1024 1`: the U-Net's have no name."""
        rows = sorted(self.most.items())
        return ", ".join(
            f"{'' if component == 'unet' else f'{component} '}{width}x{height} {most}"
            for (component, (width, height)), most in rows
        )

    @classmethod
    def parse(cls, text: str) -> BatchLimits:
        """What `str` gives."""
        found = cls()
        for row in text.split(", ") if text else ():
            *named, size, most = row.split(" ")
            width, height = map(int, size.split("x"))
            component = cast("Batched", named[0]) if named else "unet"
            found.most[component, (width, height)] = int(most)
        return found
