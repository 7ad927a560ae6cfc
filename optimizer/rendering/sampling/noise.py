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
from typing import Final

import torch
import torchsde
from torch import Tensor

from optimizer.rendering.suite import LATENT_FACTOR
from studies.spec.samplers import SamplerName
from studies.spec.suite import SuiteItem, SuiteSettings

BROWNIAN: Final[frozenset[SamplerName]] = frozenset({"dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"})
TIME_DIGITS: Final = 6  # of torchsde's default tolerance
SEEDS: Final = 2**64  # torch's generators and numpy's entropy take seeds below

Noise = Callable[[float, float], Tensor]  # of unit variance, for the step from a level to a lower one


class BatchNoise:
    """First and later noise of items of one size.

    Args:
        device: of the result; noise is drawn on the CPU.
    """

    def __init__(self, items: Sequence[SuiteItem], suite: SuiteSettings, channels: int, device: torch.device) -> None:
        self._items, self._device = items, device
        width, height = items[0].width, items[0].height
        self._shape = (channels, height // LATENT_FACTOR, width // LATENT_FACTOR)
        generators = [torch.Generator("cpu").manual_seed(item.seed) for item in items]
        self.first = self._drawn(generators)  # [n, channels, h / 8, w / 8] float32
        if suite.ensd or suite.noise == "comfyui":
            generators = [torch.Generator("cpu").manual_seed((item.seed + suite.ensd) % SEEDS) for item in items]
        self._generators = generators

    def later(self, sampler: SamplerName, sigmas: Sequence[float]) -> Noise:
        """Return the noise of a sampler's later steps.

        Args:
            sigmas: all levels that the sampler passes through.
        """
        if sampler not in BROWNIAN:
            return lambda _from, _to: self._drawn(self._generators)
        present = [sigma for sigma in sigmas if sigma > 0]
        paths = [brownian_path(item.seed, self._shape, min(present), max(present)) for item in self._items]
        return lambda high, low: self._sent([increment(path, high, low) for path in paths])

    def _drawn(self, generators: Sequence[torch.Generator]) -> Tensor:
        return self._sent([torch.randn(self._shape, generator=generator) for generator in generators])

    def _sent(self, noises: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(noises)).to(self._device)


def brownian_path(seed: int, shape: Sequence[int], low: float, high: float) -> torchsde.BrownianTree:
    """Return the Brownian path of a seed between two noise levels, which are its times."""
    start, end = torch.tensor(low), torch.tensor(high)
    if low == high:  # a single step takes no increment; torchsde wants an interval
        end = start + 1
    return torchsde.BrownianTree(start, torch.zeros(*shape), end, entropy=seed)


def increment(path: torchsde.BrownianTree, high: float, low: float) -> Tensor:
    """Return a path's increment from a level down to another, scaled to unit variance.

    The path runs upwards, so the increment downwards is the negative one.
    """
    start, end = torch.tensor(low), torch.tensor(high)
    # The tree rounds its ends to its tolerance, and would warn of a time beyond them that is not rounded.
    upwards: Tensor = path(round(low, TIME_DIGITS), round(high, TIME_DIGITS))
    return -upwards / (end - start).sqrt()
