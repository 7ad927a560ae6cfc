"""Samplers whose later steps add noise."""

from __future__ import annotations

from typing import Final

from studies.spec.samplers import SamplerName

STOCHASTIC: Final[frozenset[SamplerName]] = frozenset(
    {
        "euler_ancestral",
        "dpm_2_ancestral",
        "dpmpp_2s_ancestral",
        "dpmpp_sde",
        "dpmpp_2m_sde",
        "dpmpp_2m_sde_heun",
        "dpmpp_3m_sde",
        "lcm",
        "lcm_a1111",
        "lcm_comfyui",
    }
)
