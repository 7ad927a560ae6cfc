"""A model's noise levels, and what its output at one of them says about the image.

Notation as in prediction.py: x = x0 + sigma * n with clean latents x0 and unit noise n; of a model that follows a flow
x = (1 - sigma) * x0 + sigma * n. A model has a table of 1000 levels, and reads a level as a time. The tables and
formulas are those of ComfyUI (comfy/model_sampling.py) and, without zero terminal SNR, EDM and flows, of k-diffusion
(external.py), which A1111 uses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from optimizer.families.stable_diffusion import NOISE_SCHEDULE
from optimizer.rendering.prediction import EdmRange, Prediction

LEVELS = 1000
LCM_STRIDE = 20  # latent consistency models were distilled at every twentieth level
# What is left of the signal at the last level with zero terminal SNR, where none at all would be a level without end.
LAST_ALPHA_BAR = 4.8973451890853435e-08


class Levels(Protocol):
    """The noise levels of a model. Levels are Python numbers with the values of float32."""

    @property
    def sigmas(self) -> Tensor:
        """The table [1000] float32, ascending; shorter if it was thinned."""

    def time(self, sigma: float, *, nearest: bool = False) -> float:
        """Return the time that the model reads for a level.

        Args:
            nearest: take the nearest level of the table, as ComfyUI does; A1111 interpolates.
        """

    def sigma(self, time: Tensor) -> Tensor:
        """Return the levels [n] float32 of times [n]."""

    def scaled(self, x: Tensor, sigma: float) -> Tensor:
        """Return noisy latents as the model reads them."""

    def denoised(self, x: Tensor, output: Tensor, sigma: float) -> Tensor:
        """Return x0 by the model's output for latents x."""

    def thinned(self, stride: int) -> Levels:
        """Return the same with every `stride`-th level of the table, the last one among them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Discrete:
    """The levels of Stable Diffusion, whose model predicts noise or v. Implements `Levels`."""

    sigmas: Tensor
    log_sigmas: Tensor  # [1000] float32, as `sigmas`
    predicts_v: bool
    stride: int = 1  # times from a level of the table to the next; the last level has time 999

    def time(self, sigma: float, *, nearest: bool = False) -> float:
        """Return the time from 0 to 999, interpolated linearly in log sigma unless the nearest is asked for."""
        distances = torch.tensor(sigma, dtype=torch.float32).log() - self.log_sigmas
        if nearest:
            return self._time(float(distances.abs().argmin()))
        low = min(max(int((distances >= 0).sum()) - 1, 0), len(self.sigmas) - 2)
        within = distances[low] / (self.log_sigmas[low + 1] - self.log_sigmas[low])
        return self._time(low + float(within.clamp(0, 1)))

    def sigma(self, time: Tensor) -> Tensor:
        """Return the levels of times, interpolated linearly in log sigma."""
        place = ((time.float() - (self.stride - 1)) / self.stride).clamp(0, len(self.sigmas) - 1)
        low, high, within = place.floor().long(), place.ceil().long(), place.frac()
        return ((1 - within) * self.log_sigmas[low] + within * self.log_sigmas[high]).exp()

    def scaled(self, x: Tensor, sigma: float) -> Tensor:
        """Return latents of variance 1."""
        return x / math.sqrt(sigma**2 + 1)

    def denoised(self, x: Tensor, output: Tensor, sigma: float) -> Tensor:
        """Return x0 by predicted noise or v."""
        if not self.predicts_v:
            return x - output * sigma
        return x / (sigma**2 + 1) - output * (sigma / math.sqrt(sigma**2 + 1))

    def thinned(self, stride: int) -> Discrete:
        """Return the same with every `stride`-th level, whose times stay as they are."""
        sigmas, log_sigmas = self.sigmas[stride - 1 :: stride], self.log_sigmas[stride - 1 :: stride]
        return replace(self, sigmas=sigmas, log_sigmas=log_sigmas, stride=stride * self.stride)

    def _time(self, place: float) -> float:
        return place * self.stride + (self.stride - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Edm:
    """The levels of an EDM model, which reads log(sigma) / 4. Implements `Levels`."""

    sigmas: Tensor
    sigma_data: float
    predicts_v: bool

    def time(self, sigma: float, *, nearest: bool = False) -> float:  # noqa: ARG002 - the time is no place in the table
        """Return log(sigma) / 4."""
        return 0.25 * math.log(sigma)

    def sigma(self, time: Tensor) -> Tensor:
        """Return the levels of times."""
        return (time / 0.25).exp()

    def scaled(self, x: Tensor, sigma: float) -> Tensor:
        """Return c_in * x (Karras et al., table 1)."""
        return x / math.sqrt(sigma**2 + self.sigma_data**2)

    def denoised(self, x: Tensor, output: Tensor, sigma: float) -> Tensor:
        """Return c_skip * x + c_out * output, with c_out negated where the output is v."""
        data = self.sigma_data
        c_skip = data**2 / (sigma**2 + data**2)
        c_out = sigma * data / math.sqrt(sigma**2 + data**2)
        return c_skip * x + (-c_out if self.predicts_v else c_out) * output

    def thinned(self, stride: int) -> Edm:
        """Return the same with every `stride`-th level."""
        return replace(self, sigmas=self.sigmas[stride - 1 :: stride])


@dataclass(frozen=True, kw_only=True, eq=False)
class Flow:
    """The levels of a model that follows a flow, from pure noise at level 1. Implements `Levels`.

    Attributes:
        shift: bends the levels towards noise (Esser et al., arXiv:2403.03206, eq. 23). It moves the levels through
            which a sampler passes; the time that the model reads for a level stays.
    """

    sigmas: Tensor
    shift: float

    def time(self, sigma: float, *, nearest: bool = False) -> float:  # noqa: ARG002 - the time is no place in the table
        """Return 1000 times the level."""
        return float(torch.tensor(sigma, dtype=torch.float32) * LEVELS)

    def sigma(self, time: Tensor) -> Tensor:
        """Return the levels of a schedule's times: shifted, so this inverts `time` only where the shift is 1."""
        share = time.float() / LEVELS
        return share if self.shift == 1 else self.shift * share / (1 + (self.shift - 1) * share)

    def scaled(self, x: Tensor, sigma: float) -> Tensor:  # noqa: ARG002 - as other levels
        """Return the latents as they are."""
        return x

    def denoised(self, x: Tensor, output: Tensor, sigma: float) -> Tensor:
        """Return x0 by the output n - x0."""
        return x - output * sigma

    def thinned(self, stride: int) -> Flow:
        """Return the same with every `stride`-th level."""
        return replace(self, sigmas=self.sigmas[stride - 1 :: stride])


@cache
def levels_of(prediction: Prediction) -> Levels:
    """Return the noise levels of a model by what it predicts."""
    if prediction.shift is not None:
        return flow_levels(prediction.shift)
    predicts_v = prediction.kind == "v"
    if prediction.edm is not None:
        return Edm(sigmas=_edm_sigmas(prediction.edm), sigma_data=prediction.edm.sigma_data, predicts_v=predicts_v)
    sigmas = _trained_sigmas()
    if prediction.zero_snr:
        sigmas = _with_zero_snr(sigmas)
    return Discrete(sigmas=sigmas.float(), log_sigmas=sigmas.log().float(), predicts_v=predicts_v)


def flow_levels(shift: float) -> Flow:
    """Return the levels of a flow with this shift; its table leaves out level 0."""
    bare = Flow(sigmas=torch.empty(0), shift=shift)
    return replace(bare, sigmas=bare.sigma(torch.arange(1, LEVELS + 1)))


def _trained_sigmas() -> Tensor:
    """Return the table [1000] float64 with which Stable Diffusion was trained: its betas are linear in their root."""
    start, end = (float(NOISE_SCHEDULE[name]) ** 0.5 for name in ("beta_start", "beta_end"))
    alpha_bar: Tensor = (1 - torch.linspace(start, end, LEVELS, dtype=torch.float64) ** 2).cumprod(0)
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def _with_zero_snr(sigmas: Tensor) -> Tensor:
    """Return a table [1000] float64 rescaled to end in pure noise: Lin et al., arXiv:2305.08891, algorithm 1."""
    root = (1 / (sigmas**2 + 1)).sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    alpha_bar = root**2
    alpha_bar[-1] = LAST_ALPHA_BAR
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def _edm_sigmas(edm: EdmRange) -> Tensor:
    """Return a table [1000] float32 that is even in log sigma."""
    return torch.linspace(math.log(edm.sigma_min), math.log(edm.sigma_max), LEVELS).exp()
