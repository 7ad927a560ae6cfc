"""Limits on how many images a device denoises and decodes at once, found when it runs out of memory.

A render's last bits depend on the other images of its batch. If a limit is lowered during a trial, the trial is
therefore rendered again from the beginning, unless no image that the limit concerns was rendered yet. So the renders
depend on the recipe and the limits alone, and the limits are recorded with the trial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from studies.records.batch_limits import Batched, Size


class BatchReduced(Exception):  # noqa: N818 - a request to try again, not an error
    """A signal that a limit was lowered, and the trial must be rendered again from the beginning."""


@dataclass(slots=True)
class BatchLimits:
    """How many images of a size may go through the U-Net or the VAE at once.

    Attributes:
        most: (component, size) -> images; without an entry there is no limit.
        on_lowered: called with the component, the size, the new limit and the reason.
    """

    most: dict[tuple[Batched, Size], int] = field(default_factory=dict)
    on_lowered: Callable[[Batched, Size, int, str], None] = lambda _component, _size, _most, _reason: None

    def of(self, component: Batched) -> Mapping[Size, int]:
        """Return the limits of one component, by size."""
        return {size: most for (name, size), most in self.most.items() if name == component}

    def lower(self, component: Batched, size: Size, failed: int, reason: str) -> None:
        """Set a limit to half of the number of images that failed, rounded up.

        Args:
            failed: images that did not fit into the memory.
            reason: error message, for `on_lowered`.
        """
        self.most[component, size] = -(-failed // 2)
        self.on_lowered(component, size, self.most[component, size], reason)

    def adopt(self, others: Mapping[tuple[Batched, Size], int]) -> None:
        """Apply limits that other workers have found; of two limits, the lower one holds."""
        for key, most in others.items():
            self.most[key] = min(most, self.most.get(key, most))

    def __str__(self) -> str:
        """Format as in `512x512 4, 1024x1024 2, vae 1024x1024 1`, the U-Net's limits without a component."""
        return ", ".join(
            f"{'' if component == 'unet' else f'{component} '}{width}x{height} {most}"
            for (component, (width, height)), most in sorted(self.most.items())
        )

    @classmethod
    def parse(cls, text: str) -> BatchLimits:
        """Parse the format of `str`."""
        limits = cls()
        for entry in text.split(", ") if text else ():
            *names, size, most = entry.split(" ")
            width, height = map(int, size.split("x"))
            component = cast("Batched", names[0]) if names else "unet"
            limits.most[component, (width, height)] = int(most)
        return limits
