"""Samplers whose later steps add noise."""

from __future__ import annotations

from typing import Final

from optimizer.rendering.sampling.noise import BROWNIAN
from studies.spec.samplers import SamplerName

STOCHASTIC: Final[frozenset[SamplerName]] = BROWNIAN | {
    "euler_ancestral",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "lcm",
    "lcm_a1111",
    "lcm_comfyui",
}
