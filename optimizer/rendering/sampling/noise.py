"""The noise of a batch: each item's own, by its seed, whatever the device and the other items.

An item's first noise comes from a CPU generator with its seed. Noise of later steps is that of a program:

- a1111: the generator goes on or, with ENSD, another one begins at seed + ENSD (modules/rng.py, class ImageRNG).
- comfyui: another generator begins at seed + ENSD (comfy/k_diffusion/sampling.py, default_noise_sampler, on a CPU).
  With ENSD 0 it repeats the first noise, as ComfyUI 0.3.64 does on a CPU; later versions add 1 there.

Samplers of stochastic differential equations take the increments of a Brownian path in both programs: that of
torchsde's tree with the item's seed (BrownianTreeNoiseSampler of k-diffusion).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
import torchsde
from torch import Tensor

from optimizer.rendering.latents import LATENT_FACTOR
from studies.records.batch_limits import Size
from studies.spec.samplers import SAMPLER_INFOS, SamplerName, Sampling
from studies.spec.suite import SuiteItem, SuiteSettings

TIME_DIGITS: Final = 6  # of torchsde's default tolerance
INCREMENTS_BYTES: Final = 512 << 20  # 64 images of 1024 x 1024 with 30 steps
SEEDS: Final = 2**64  # torch's generators and numpy's entropy take seeds below

Noise = Callable[[float, float], Tensor]  # of unit variance, for the step from a level to a lower one


class BatchNoise:
    """First and later noise of a pass for items of one size.

    Args:
        size: width and height in pixels of the pass that it is for.
        device: of the result; noise is drawn on the CPU.
    """

    def __init__(
        self, items: Sequence[SuiteItem], suite: SuiteSettings, size: Size, channels: int, device: torch.device
    ) -> None:
        self._items, self._device = items, device
        width, height = size
        self._shape = (channels, height // LATENT_FACTOR, width // LATENT_FACTOR)
        generators = [torch.Generator("cpu").manual_seed(item.seed) for item in items]
        self.first = self._drawn(generators)  # [n, channels, h / 8, w / 8] float32
        if suite.ensd or suite.program == "comfyui":
            generators = [torch.Generator("cpu").manual_seed((item.seed + suite.ensd) % SEEDS) for item in items]
        self._generators = generators

    def later(self, sampler: SamplerName, sigmas: Sequence[float], increments: Increments | None = None) -> Noise:
        """Return the noise of a sampler's later steps.

        Args:
            sigmas: all levels that the sampler passes through.
            increments: those of Brownian paths that are known already; new ones are added. None computes all.
        """
        if not SAMPLER_INFOS[sampler].is_brownian:
            return lambda _from, _to: self._drawn(self._generators)
        present = [sigma for sigma in sigmas if sigma > 0]
        paths = [
            BrownianPath(seed=item.seed, shape=self._shape, low=min(present), high=max(present)) for item in self._items
        ]
        known = Increments() if increments is None else increments
        return lambda high, low: self._sent([known.of(path, high, low) for path in paths])

    def _drawn(self, generators: Sequence[torch.Generator]) -> Tensor:
        return self._sent([torch.randn(self._shape, generator=generator) for generator in generators])

    def _sent(self, noises: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(noises)).to(self._device)


@dataclass(frozen=True, kw_only=True)
class BrownianPath:
    """The Brownian path of a seed between two noise levels, which are its times."""

    seed: int
    shape: tuple[int, ...]
    low: float
    high: float

    def increment(self, high: float, low: float) -> Tensor:
        """Return the increment from a level down to another, scaled to unit variance.

        The path runs upwards, so the increment downwards is the negative one.
        """
        start, end = torch.tensor(low), torch.tensor(high)
        # The tree rounds its ends to its tolerance, and would warn of a time beyond them that is not rounded.
        upwards: Tensor = self._tree(round(low, TIME_DIGITS), round(high, TIME_DIGITS))
        return -upwards / (end - start).sqrt()

    @cached_property
    def _tree(self) -> torchsde.BrownianTree:
        start, end = torch.tensor(self.low), torch.tensor(self.high)
        if self.low == self.high:  # a single step takes no increment; torchsde wants an interval
            end = start + 1
        return torchsde.BrownianTree(start, torch.zeros(*self.shape), end, entropy=self.seed)


class Increments:
    """The increments of Brownian paths, computed once: every trial of a study takes the same.

    One takes 15 ms for an image of 512 x 512 and 60 ms for one of 1024 x 1024 on a CPU core. In that time a GPU takes a
    step.

    Args:
        limit: bytes of host memory. Increments beyond it are computed each time. None is dropped for another, because
            trials take all of them in turn: the one dropped would be the next one needed.
    """

    def __init__(self, limit: int = INCREMENTS_BYTES) -> None:
        self._limit, self.nbytes = limit, 0  # bytes
        self._known: dict[tuple[object, ...], Tensor] = {}

    def of(self, path: BrownianPath, high: float, low: float) -> Tensor:
        """Return `path.increment(high, low)`."""
        key = (path.seed, path.shape, path.low, path.high, high, low)  # not the path, which keeps its tree
        known = self._known.get(key)
        if known is not None:
            return known
        found = path.increment(high, low)
        if self.nbytes + found.nbytes <= self._limit:
            self.nbytes += found.nbytes
            self._known[key] = found
        return found


def increments_bytes(suite: SuiteSettings, channels: int) -> int:
    """Return how much host memory `Increments` takes for a suite.

    Args:
        channels: of the latents.
    """
    wanted = 0
    for item in suite.items():
        wanted += _increment_cells(item.sampling, (item.width, item.height))
        if item.sampling.second is not None:
            wanted += _increment_cells(item.sampling.second, item.image_size)
    return min(wanted * channels * torch.float32.itemsize, INCREMENTS_BYTES)


def _increment_cells(sampling: Sampling, size: Size) -> int:
    """Return the cells of all increments that a pass takes for an image, in one channel."""
    sampler, (width, height) = SAMPLER_INFOS[sampling.sampler], size
    if not sampler.is_brownian:
        return 0
    return sampling.steps * sampler.calls * (width // LATENT_FACTOR) * (height // LATENT_FACTOR)
