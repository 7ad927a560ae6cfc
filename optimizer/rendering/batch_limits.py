"""How many images a device can denoise and decode at once: learned when it runs out of memory, and kept.

A render's last bits depend on what shares its batch. So a trial in which a limit was lowered is rendered from its
beginning, unless no image that the limit is for was made yet: its renders follow from the recipe and the limits alone,
and the limits are recorded with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from studies.records.batch_limits import Batched, BatchLimit, Size


class BatchReduced(Exception):  # noqa: N818 - asks for another attempt
    """A limit was lowered: render again, from the trial's beginning."""


@dataclass(slots=True)
class BatchLimits:
    """Images of a size that may go through the U-Net or the VAE at once; what is not named has no limit.

    Attributes:
        on_lowered: told the new limit, and why.
    """

    most: dict[tuple[Batched, Size], int] = field(default_factory=dict)
    on_lowered: Callable[[BatchLimit, str], None] = lambda _limit, _reason: None

    def of(self, component: Batched) -> Mapping[Size, int]:
        """The limits of one component."""
        return {size: most for (name, size), most in self.most.items() if name == component}

    def lower(self, component: Batched, size: Size, failed: int, reason: str) -> None:
        """Half of what failed."""
        limit = BatchLimit(component=component, size=size, images=-(-failed // 2))
        self.most[component, size] = limit.images
        self.on_lowered(limit, reason)

    def adopt(self, known: Iterable[BatchLimit]) -> None:
        """Take over limits that others have found; the lower one holds."""
        for limit in known:
            key = (limit.component, limit.size)
            self.most[key] = min(limit.images, self.most.get(key, limit.images))

    @property
    def known(self) -> tuple[BatchLimit, ...]:
        """All limits, in order."""
        found = (BatchLimit(component=name, size=size, images=images) for (name, size), images in self.most.items())
        return tuple(sorted(found))
