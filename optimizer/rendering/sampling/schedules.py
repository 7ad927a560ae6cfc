"""Schedules: which noise levels a sampler passes through.

Each function returns levels [steps + 1] float32 on the CPU, descending and ending in 0. Exceptions, which are the
programs' own: `ddim_uniform`, `ddim_of_a1111`, `time_uniform` and `beta` may return another number of levels; and
`ddim_of_a1111`, `time_uniform` and `kl_optimal_of_a1111` end above 0. Where the two programs differ, each has a
function of its own. Computed in float32 as they compute: a Brownian path is so rough that the last bits of a level
show in its noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from optimizer.rendering.sampling.levels import LEVELS, Levels
from search_spaces.blocks import Architecture
from studies.spec.samplers import ProgramName, ScheduleName

Schedule = Callable[[Levels, int], Tensor]
RHO = 7.0  # Karras et al., arXiv:2206.00364, eq. 5
ALPHA = BETA = 0.6  # Lee et al., arXiv:2407.12173

# Sabour et al., arXiv:2404.14507, for 10 steps: research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html. A1111
# has the rounded numbers.
AYS: Final[Mapping[tuple[Architecture, ProgramName], Sequence[float]]] = {
    (Architecture.SD15, "comfyui"): (
        *(14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092),
        *(0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
    ),
    (Architecture.SDXL, "comfyui"): (
        *(14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141),
        *(0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
    ),
    (Architecture.SD15, "a1111"): (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    (Architecture.SDXL, "a1111"): (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}


def normal(levels: Levels, steps: int) -> Tensor:
    """Even in the model's time, from its last to its first level. A1111 calls it Uniform."""
    return _ending(levels.sigma(torch.linspace(*_times(levels), steps)))


def sgm_uniform(levels: Levels, steps: int) -> Tensor:
    """Even in the model's time, as `normal` with one step more whose last level is left out."""
    return _ending(levels.sigma(torch.linspace(*_times(levels), steps + 1)[:-1]))


def simple(levels: Levels, steps: int) -> Tensor:
    """Levels of the table at even distances, from the last."""
    stride = len(levels.sigmas) / steps
    return _ending(levels.sigmas[[-(1 + int(step * stride)) for step in range(steps)]])


def ddim_uniform(levels: Levels, steps: int) -> Tensor:
    """Levels 1, 1 + k, 1 + 2 k ... of the table; k is a whole number, so there may be a step more than asked for."""
    return _ending(levels.sigmas[1 :: max(len(levels.sigmas) // steps, 1)].flip(0))


def ddim_of_a1111(levels: Levels, steps: int) -> Tensor:
    """Return the levels of `ddim_uniform` without 0; the last of the table stands for one beyond it."""
    return levels.sigmas[timesteps_of_a1111(levels, steps)]


def timesteps_of_a1111(levels: Levels, steps: int) -> list[int]:
    """Return the places in the table that A1111's DDIM and UniPC count by, descending.

    modules/sd_samplers_timesteps.py takes the times min(1 + i k, 999), so that one of 1000 becomes 999.
    """
    count = len(levels.sigmas)
    places = {min(place, count - 1) for place in range(1, count + 1, max(count // steps, 1))}
    return sorted(places, reverse=True)


def time_uniform(levels: Levels, steps: int) -> Tensor:
    """Even in the model's time from its last to its first level, which is the end: the times of A1111's UniPC.

    Between two times of the table the logarithm of alpha = 1 / sqrt(sigma**2 + 1) is interpolated (NoiseScheduleVP of
    modules/models/diffusion/uni_pc/uni_pc.py). There are as many steps as `ddim_uniform` has levels.
    """
    count = len(range(0, LEVELS, max(LEVELS // steps, 1)))
    return even_in_time(levels, len(levels.sigmas) - 1, count)


def even_in_time(levels: Levels, first: int, steps: int) -> Tensor:
    """Return `steps` + 1 levels, even in the model's time from a place in the table down to its first."""
    known = levels.sigmas.double().numpy()
    places = np.linspace(first, 0, steps + 1)
    log_alpha = np.interp(places, np.arange(len(known)), -0.5 * np.log1p(known**2))
    return torch.tensor(np.sqrt(np.expm1(-2 * log_alpha)), dtype=torch.float32)


def turbo(levels: Levels, steps: int) -> Tensor:
    """Levels of the table at even distances, the last among them: "trailing" spacing (arXiv:2305.08891, table 2)."""
    count = len(levels.sigmas)
    places = (torch.arange(steps, 0, -1) * (count / steps) - 1).round().long().clamp(0, count - 1)
    return _ending(levels.sigmas[places])


def karras(levels: Levels, steps: int) -> Tensor:
    """Even in the seventh root: Karras et al., arXiv:2206.00364, eq. 5."""
    low, high = (sigma ** (1 / RHO) for sigma in _ends(levels))
    return _ending((high + torch.linspace(0, 1, steps) * (low - high)) ** RHO)


def exponential(levels: Levels, steps: int) -> Tensor:
    """Even in log sigma."""
    low, high = map(math.log, _ends(levels))
    return _ending(torch.linspace(high, low, steps).exp())


def kl_optimal(levels: Levels, steps: int) -> Tensor:
    """Even in arctan sigma: Sabour et al., arXiv:2404.14507, theorem 3.1."""
    low, high = map(math.atan, _ends(levels))
    part = torch.arange(steps) / max(steps - 1, 1)
    return _ending((part * low + (1 - part) * high).tan())


def kl_optimal_of_a1111(levels: Levels, steps: int) -> Tensor:
    """Even in arctan sigma down to the lowest level, at which A1111 ends instead of at 0."""
    low, high = (torch.tensor(sigma).arctan() for sigma in _ends(levels))
    part = torch.arange(steps + 1) / steps
    return (part * low + (1 - part) * high).tan()


def beta(levels: Levels, steps: int) -> Tensor:
    """Levels of the table at quantiles of a beta distribution, each once: Lee et al., arXiv:2407.12173."""
    quantiles = stats.beta.ppf(1 - np.linspace(0, 1, steps, endpoint=False), ALPHA, BETA)
    places = np.rint(quantiles * (len(levels.sigmas) - 1)).astype(int).tolist()
    return _ending(levels.sigmas[list(dict.fromkeys(places))])


def beta_of_a1111(levels: Levels, steps: int) -> Tensor:
    """Quantiles of a beta distribution between the lowest and the highest level, as A1111 takes them."""
    low, high = _ends(levels)
    quantiles = stats.beta.ppf(1 - np.linspace(0, 1, steps), ALPHA, BETA)
    return _ending(torch.tensor(low + quantiles * (high - low), dtype=torch.float32))


def align_your_steps(table: Sequence[float], steps: int, program: ProgramName) -> Tensor:
    """Interpolate a table of levels linearly in log sigma.

    A1111 takes as many levels as steps, and then 0; ComfyUI one more, the last of which becomes 0.
    """
    count = steps if program == "a1111" else steps + 1
    places, known = np.linspace(0, 1, count), np.linspace(0, 1, len(table))
    found = np.exp(np.interp(places, known, np.log(table)))
    return _ending(torch.tensor(found if program == "a1111" else found[:-1], dtype=torch.float32))


def _times(levels: Levels) -> tuple[float, float]:
    """Return the times of the highest and of the lowest level."""
    low, high = _ends(levels)
    return levels.time(high), levels.time(low)


def _ends(levels: Levels) -> tuple[float, float]:
    """Return the lowest and the highest level."""
    return float(levels.sigmas[0]), float(levels.sigmas[-1])


def _ending(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


SCHEDULES: Final[Mapping[ScheduleName, Schedule]] = {
    "normal": normal,
    "simple": simple,
    "karras": karras,
    "exponential": exponential,
    "sgm_uniform": sgm_uniform,
    "ddim_uniform": ddim_uniform,
    "beta": beta,
    "kl_optimal": kl_optimal,
    "turbo": turbo,
    "time_uniform": time_uniform,
}
A1111_SCHEDULES: Final[Mapping[ScheduleName, Schedule]] = {
    **SCHEDULES,
    "kl_optimal": kl_optimal_of_a1111,
    "beta": beta_of_a1111,
}
