"""Guidance beyond a prompt's: outputs brought back to a prompt's deviation, and a U-Net without self-attention.

Perturbed-attention guidance (Ahn et al., arXiv:2403.17377) leads away from what the U-Net makes of a prompt when its
self-attention looks at nothing but itself: the map of weights is the identity, so the attention returns its values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from optimizer.errors import RenderError
from studies.spec.suite import SuiteSettings

_VALUES: Final = ".attn1.to_v.weight"  # of a self-attention; a cross-attention is attn2
_PARTS: Final = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}


def rescaled(x: Tensor, guided: Tensor, positive: Tensor, sigma: float, share: float) -> Tensor:
    """Return guided clean latents with a share of the deviation that the prompt alone has: arXiv:2305.08891, eq. 15-16.

    The deviation is that of v, as in ComfyUI's RescaleCFG, whatever the model predicts: the paper rescales the output
    of a model of v. Without guidance the output is the prompt's own already.

    Args:
        x: the noisy latents [n, c, h, w] float32 at level sigma.
        guided, positive: clean latents by guidance, and with the prompt alone.
        share: phi of the paper, 0 to 1.
    """
    kept, spread = x / (sigma**2 + 1), sigma / math.sqrt(sigma**2 + 1)
    v_guided, v_positive = (kept - guided) / spread, (kept - positive) / spread
    ratio = _deviation(v_positive) / _deviation(v_guided)
    return kept - spread * v_guided * (share * ratio + (1 - share))


def _deviation(x: Tensor) -> Tensor:
    """Return the standard deviation [n, 1, 1, 1] of each image's latents."""
    return x.std(dim=(1, 2, 3), keepdim=True)


# ------------------------------------------------------------------------------------------ perturbed attention


class _Values:
    """An attention whose map is the identity. Implements diffusers' processors of attention."""

    def __call__(self, attn: Attention, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        """Return the projected values [n, tokens, width] of hidden states [n, tokens, width]."""
        linear, dropout = attn.to_out
        output: Tensor = dropout(linear(attn.to_v(hidden_states)))
        return output


@contextmanager
def identity_attention(attentions: Sequence[Any]) -> Iterator[None]:
    """Let diffusers' attentions return their values while the block runs, and then attend as before."""
    former = [attention.processor for attention in attentions]
    try:
        for attention in attentions:
            attention.processor = _Values()
        yield
    finally:
        for attention, processor in zip(attentions, former, strict=True):
            attention.processor = processor


def attentions_of(unet: UNet2DConditionModel, layers: Iterable[str]) -> tuple[Any, ...]:
    """Return the self-attentions of a U-Net's layers, which `PagSettings` names."""
    names = chosen_attentions(self_attentions(name for name, _ in unet.named_parameters()), layers)
    return tuple(unet.get_submodule(name) for name in names)


def self_attentions(parameters: Iterable[str]) -> tuple[str, ...]:
    """Return the live names of a U-Net's self-attentions by those of its parameters."""
    return tuple(name.removesuffix(".to_v.weight") for name in parameters if name.endswith(_VALUES))


def chosen_attentions(attentions: Sequence[str], layers: Iterable[str]) -> tuple[str, ...]:
    """Return the self-attentions of layers, in the U-Net's order."""
    beginnings = tuple(f"{_PARTS.get(layer, layer)}." for layer in layers)
    return tuple(name for name in attentions if name.startswith(beginnings))


def check_perturbed(suite: SuiteSettings, attentions: Sequence[str]) -> None:
    """Refuse layers of perturbed-attention guidance that a U-Net does not have.

    Args:
        attentions: the U-Net's `self_attentions`.

    Raises:
        RenderError: a layer has no self-attention.
    """
    named = {layer for item in suite.items() if item.sampling.pag.scale for layer in item.sampling.pag.layers}
    for layer in sorted(named):
        if not chosen_attentions(attentions, [layer]):
            blocks = sorted({name.split(".attentions.")[0] for name in attentions})
            raise RenderError(
                f"pag: this U-Net has no self-attention in {layer}: use {', '.join(blocks)}"
                if blocks
                else f"pag: this U-Net has no self-attention in {layer}, or anywhere else: leave `pag` out"
            )
