"""What Stability AI's model metadata standard (modelspec 1.0) calls each architecture."""

from __future__ import annotations

from search_spaces.blocks import Architecture

MODELSPEC_ARCHITECTURE = {
    Architecture.SD15: "stable-diffusion-v1",
    Architecture.SDXL: "stable-diffusion-xl-v1-base",
}
MODELSPEC_IMPLEMENTATION = {
    Architecture.SD15: "https://github.com/CompVis/stable-diffusion",
    Architecture.SDXL: "https://github.com/Stability-AI/generative-models",
}
