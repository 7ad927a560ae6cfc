"""Pictures and an architecture that several scorer tests use."""

from __future__ import annotations

import numpy as np
import torch

WIDTH = 24

TINY_CLIP = {
    "embed_dim": WIDTH,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def picture(seed: int, height: int = 48, width: int = 48) -> torch.Tensor:
    """Draw a smooth coloured picture, uint8 [3, h, w]: waves, so that neighbouring pixels are alike, as in a photo."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = []
    for _ in range(3):
        waves = [
            random.normal() * np.sin(2 * np.pi * (random.uniform(0, 4) * x + random.uniform(0, 4) * y) + phase)
            for phase in random.uniform(0, 2 * np.pi, 5)
        ]
        channels.append(np.tanh(sum(waves)) / 2 + 0.5)
    return torch.from_numpy((255 * np.stack(channels)).round().astype(np.uint8))
