"""What a weight does to the output of a text encoder, z [..., tokens, width]. Computed in float32.

A1111 (modules/sd_emphasis.py) multiplies each token's features by its weight; "Original" then restores the mean of a
chunk, over all texts that a prompt stands for while it changes. ComfyUI (comfy/sd1_clip.py) moves each token's features
away from those of an empty prompt at the same place.
"""

from __future__ import annotations

from torch import Tensor


def multiplied(z: Tensor, weights: Tensor) -> Tensor:
    """Return z w: "No norm".

    Args:
        weights: [..., tokens].
    """
    return (z.float() * weights[..., None]).to(z.dtype)


def mean_restored(z: Tensor, weights: Tensor, repeats: Tensor) -> Tensor:
    """Return z w m / m', where m is the mean of z and m' that of z w: "Original".

    Args:
        z: one chunk of each text [texts, tokens, width].
        weights: [texts, tokens].
        repeats: how often each text counts in the means [texts].
    """
    scaled = z.float() * weights[..., None]
    before, after = ((each.mean(dim=(-2, -1)) * repeats).sum() for each in (z.float(), scaled))
    return (scaled * (before / after)).to(z.dtype)


def from_empty(z: Tensor, weights: Tensor, empty: Tensor) -> Tensor:
    """Return e + (z - e) w, where e is the empty prompt's: ComfyUI's weights; where w is 1, z as it is.

    Args:
        weights: [..., tokens].
        empty: [tokens, width].
    """
    scaled = (z.float() - empty.float()) * weights[..., None] + empty.float()
    return scaled.to(z.dtype).where((weights != 1)[..., None], z)
