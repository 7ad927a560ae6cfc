"""Whether a study fits into the memory that is free, and what of it would fit where it does not.

What is advised is computed by the estimate that refuses the study: the largest batch, or the largest images, that the
same estimate accepts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from basics.messages import counted
from optimizer.errors import NoMemoryError
from optimizer.merging.engine.placement import device_free
from optimizer.runtime.memory import MemoryEstimate
from optimizer.system.host_memory import available_host_bytes
from studies.records.batch_limits import Size
from studies.spec.hires import NO_HIRES
from studies.spec.rendering import RenderSettings
from studies.spec.suite import SuiteSettings

SIDE_STEP = 64  # pixels: the sides of a suite's images are multiples of it

Estimate = Callable[[SuiteSettings, RenderSettings], MemoryEstimate]
"""How much memory a study would take with another suite, or rendered in another way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeMemory:
    """Bytes that are free."""

    host: int
    device: int | None  # None: unknown, or the device uses the host's

    @classmethod
    def on(cls, device: torch.device) -> FreeMemory:
        """Ask the system and the device."""
        return cls(host=available_host_bytes(), device=None if device.type == "cpu" else device_free(device))

    def holds(self, need: MemoryEstimate) -> bool:
        """Return whether the least that is needed fits."""
        return need.host_bytes <= self.host and (self.device is None or need.device_bytes <= self.device)


def require_memory(
    estimate: Estimate,
    suite: SuiteSettings,
    settings: RenderSettings,
    device: torch.device,
    free: FreeMemory | None = None,
) -> MemoryEstimate:
    """Refuse to load what cannot fit into memory; return how much it takes.

    Args:
        free: None asks the system.

    Raises:
        NoMemoryError: it cannot fit; the message says how much is needed, how much is free, and what would fit.
    """
    free, need = free or FreeMemory.on(device), estimate(suite, settings)
    if free.holds(need):
        return need
    advice = ", or ".join(ways_to_fit(estimate, suite, settings, free)) or "no smaller batch or image would fit"
    if need.host_bytes > free.host:
        what = f" for the model and {counted(need.batch_size, 'image')} at once" if need.on_host else ""
        raise NoMemoryError(
            f"not enough memory: about {_gb(need.host_bytes)} needed{what}, {_gb(free.host)} free; {advice}; "
            "or render fewer images, close other programs, or use a machine with more memory"
        )
    raise NoMemoryError(
        f"not enough memory on {device}: about {_gb(need.device_bytes)} needed for the model and one image, "
        f"{_gb(free.device or 0)} free; {advice}; or stop other programs that use it, or name another device with "
        "`device` under `render`"
    )


def ways_to_fit(estimate: Estimate, suite: SuiteSettings, settings: RenderSettings, free: FreeMemory) -> Iterator[str]:
    """Yield what to write so that it fits, the way that changes least first; nothing where no way suffices."""
    need = estimate(suite, settings)
    batch = need.fitting_batch(free.host) if need.on_host else 0
    if batch:
        yield f"write `batch_size: {batch}` under `render`"
        return
    one_by_one = settings.model_copy(update={"batch_size": 1}) if need.on_host else settings
    fewer = "write `batch_size: 1` under `render` and " if need.batch_size > 1 and need.on_host else ""
    tiled = one_by_one.model_copy(update={"vae_tiling": True})
    if free.holds(estimate(suite, tiled)):
        yield f"{fewer}write `vae_tiling: true` under `render`, which gives slightly other pictures"
    has_second_pass = any(item.sampling.hires.is_on for item in suite.items())
    if has_second_pass and free.holds(estimate(without_second_pass(suite), one_by_one)):
        yield f"{fewer}render without a second pass (`hires: false`)"
    smaller = largest_sizes(lambda sizes: free.holds(estimate(with_sizes(suite, sizes), one_by_one)), suite)
    if smaller:
        changed = ", ".join(f"{_size(size)} instead of {_size(was)}" for was, size in smaller.items() if size != was)
        yield f"{fewer}render {changed} (`sizes` under `suite`)"


def largest_sizes(fits: Callable[[dict[Size, Size]], bool], suite: SuiteSettings) -> dict[Size, Size] | None:
    """Reduce all images of a suite to one area, the largest with which it fits.

    Args:
        fits: whether a suite fits whose sizes are replaced so; once it does, it does with less area, too.

    Returns:
        The size in place of each; None if not even the smallest fits.
    """
    originals = {(item.width, item.height) for item in suite.items()}
    smaller = {size: [size, *smaller_sizes(size)] for size in originals}
    areas = sorted({_area(size) for sizes in smaller.values() for size in sizes})

    def within(area: int) -> dict[Size, Size]:
        return {was: next((size for size in sizes if _area(size) <= area), sizes[-1]) for was, sizes in smaller.items()}

    fitting = bisect_right(areas, 0, key=lambda area: 0 if fits(within(area)) else 1)
    return within(areas[fitting - 1]) if fitting else None


def smaller_sizes(size: Size) -> Iterator[Size]:
    """Yield the sizes below one, largest first: multiples of 64 pixels, of its aspect or as near to it as they come."""
    longest, shortest = max(size), min(size)
    for side in range(longest - SIDE_STEP, 0, -SIDE_STEP):
        other = max(SIDE_STEP, round(side * shortest / longest / SIDE_STEP) * SIDE_STEP)
        yield (side, other) if size[0] == longest else (other, side)


def with_sizes(suite: SuiteSettings, sizes: dict[Size, Size]) -> SuiteSettings:
    """Return a suite with other sizes in place of its own; those that become equal are rendered once."""

    def replaced(own: Iterable[Size]) -> tuple[Size, ...]:
        return tuple(dict.fromkeys(sizes.get(size, size) for size in own))

    prompts = tuple(
        prompt if prompt.sizes is None else prompt.model_copy(update={"sizes": replaced(prompt.sizes)})
        for prompt in suite.prompts
    )
    return suite.model_copy(update={"sizes": replaced(suite.sizes), "prompts": prompts})


def without_second_pass(suite: SuiteSettings) -> SuiteSettings:
    """Return a suite whose images are made in one pass, whatever `hires` they had."""
    prompts = tuple(prompt.model_copy(update={"hires": None}) for prompt in suite.prompts)
    return suite.model_copy(update={"hires": NO_HIRES, "prompts": prompts})


def _area(size: Size) -> int:
    return size[0] * size[1]


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
