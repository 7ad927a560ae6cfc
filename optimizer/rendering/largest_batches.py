"""Limits on how many images a device denoises and decodes at once, found when it runs out of memory.

A render's last bits depend on the other images of its batch. If a limit is lowered during a trial, the trial is
therefore rendered again from the beginning, unless no image that the limit concerns was rendered yet. So the renders
depend on the recipe and the limits alone, and the limits are recorded with the trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from studies.records.batch_limits import Batched, BatchLimit, Size


class BatchTooLarge(Exception):  # noqa: N818 - a request to try again, not an error
    """A signal that a limit was lowered, and the trial must be rendered again from the beginning."""


@dataclass(slots=True)
class LargestBatches:
    """The most images of each size that may go through the U-Net or the VAE at once, as far as a limit is known.

    Attributes:
        most: (component, size) -> images; without an entry there is no limit.
        on_lowered: called with the new limit and the reason.
    """

    most: dict[tuple[Batched, Size], int] = field(default_factory=dict)
    on_lowered: Callable[[BatchLimit, str], None] = lambda _limit, _reason: None

    def of(self, component: Batched) -> Mapping[Size, int]:
        """Return the limits of one component, by size."""
        return {size: most for (name, size), most in self.most.items() if name == component}

    def lower(self, component: Batched, size: Size, failed: int, reason: str) -> None:
        """Set a limit to half of the number of images that failed, rounded up.

        Args:
            failed: images that did not fit into the memory.
            reason: error message, for `on_lowered`.
        """
        limit = BatchLimit(component=component, size=size, images=-(-failed // 2))
        self.most[component, size] = limit.images
        self.on_lowered(limit, reason)

    def adopt(self, others: Iterable[BatchLimit]) -> None:
        """Apply limits that other workers have found; of two limits, the lower one holds."""
        for limit in others:
            key = (limit.component, limit.size)
            self.most[key] = min(limit.images, self.most.get(key, limit.images))

    @property
    def known(self) -> tuple[BatchLimit, ...]:
        """All limits, sorted."""
        limits = (BatchLimit(component=name, size=size, images=images) for (name, size), images in self.most.items())
        return tuple(sorted(limits))
