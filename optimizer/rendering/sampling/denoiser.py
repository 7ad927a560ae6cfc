"""A U-Net as a denoiser of a batch: guidance by text, prompts that change on the way, and extra conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optimizer.rendering.guidance import rescaled
from optimizer.rendering.prompts.encoder import Conditions, Embedding, phase_at
from optimizer.rendering.sampling.levels import LCM_STRIDE, Levels
from optimizer.rendering.sampling.samplers import Denoise
from optimizer.rendering.unet import Layers, UnetCall
from studies.spec.pag import PagSettings

# At level 0 a consistency model returns its input: arXiv:2303.01469, eq. 5, with the numbers of latent consistency
# models (arXiv:2310.04378), as A1111 has them (modules/sd_samplers_lcm.py).
LCM_SIGMA_DATA = 0.5
LCM_TIME_SCALING = 10.0

# Makes the U-Net's `added_cond_kwargs` from pooled texts [n, p].
Added = Callable[[Tensor | None], Mapping[str, Tensor]]


@dataclass(kw_only=True)
class GuidedDenoiser:
    """Predicts the clean latents of a batch, and counts its calls."""

    unet: UnetCall
    dtype: torch.dtype  # of the U-Net
    levels: Levels
    conditions: Sequence[Conditions]  # of each item
    cfg: float | None  # guidance scale; None renders without guidance
    cfg_rescale: float  # see `rescaled`; 0 leaves guidance as it is
    pag: PagSettings  # of scale 0 for none
    added: Added
    channels: Tensor | None  # extra input channels [1, c, h, w], which follow the latents
    nearest_times: bool  # see `Levels.time`
    _calls: int = 0
    _prepared: dict[tuple[int, ...], tuple[Tensor, Mapping[str, Tensor]]] = field(default_factory=dict)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the clean latents [n, c, h, w] float32 of noisy ones.

        Guided by text after Ho and Salimans, arXiv:2207.12598, eq. 6, then rescaled, then led away from what perturbed
        attention makes of the prompt: ComfyUI's order, where diffusers rescales last.
        """
        text, added = self._text(self._calls)
        self._calls += 1
        if self.cfg is None:
            guided = positive = self._denoised(x, sigma, text, added)
        else:
            negative, positive = self._denoised(torch.cat([x, x]), sigma, text, added).chunk(2)
            guided = negative + self.cfg * (positive - negative)
            if self.cfg_rescale:
                guided = rescaled(x, guided, positive, sigma, self.cfg_rescale)
        if self.pag.scale:
            # A call of its own, whose rows are those of the prompts: the guided call's bits stay as they are.
            rows = {name: values[-len(x) :] for name, values in added.items()}
            perturbed = self._denoised(x, sigma, text[-len(x) :], rows, perturbed=self.pag.layers)
            guided = guided + self.pag.scale * (positive - perturbed)
        return guided

    def _denoised(
        self, x: Tensor, sigma: float, text: Tensor, added: Mapping[str, Tensor], perturbed: Layers = ()
    ) -> Tensor:
        scaled = self.levels.scaled(x, sigma).to(self.dtype)
        if self.channels is not None:
            scaled = torch.cat([scaled, self.channels.expand(len(x), -1, -1, -1)], dim=1)
        time = torch.full((len(x),), self.levels.time(sigma, nearest=self.nearest_times), device=x.device)
        return self.levels.denoised(x, self.unet(scaled, time, text, added, perturbed).float(), sigma)

    def _text(self, call: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the U-Net's text [n or 2 n, tokens, width] at a call, negative prompts first, and what is added."""
        sides = [each.positive for each in self.conditions]
        if self.cfg is not None:
            sides = [*(each.negative for each in self.conditions), *sides]
        places = tuple(phase_at(side, call) for side in sides)
        if places not in self._prepared:
            self._prepared.clear()
            self._prepared[places] = self._stacked(
                [side[place].embedding for side, place in zip(sides, places, strict=True)]
            )
        return self._prepared[places]

    def _stacked(self, embeddings: Sequence[Embedding]) -> tuple[Tensor, Mapping[str, Tensor]]:
        pooled = [embedding.pooled for embedding in embeddings if embedding.pooled is not None]
        added = self.added(torch.stack(pooled) if pooled else None)
        return torch.stack([embedding.tokens for embedding in embeddings]), added


@dataclass(frozen=True, kw_only=True)
class ConsistencyDenoiser:
    """Predicts clean latents as A1111's LCM does: the noisier the latents, the less of them is kept."""

    denoise: Denoise
    levels: Levels  # thinned by LCM_STRIDE

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return c_skip * x + c_out * D(x, sigma) for latents x [n, c, h, w]; c_skip is 1 and c_out 0 at time 0."""
        nearest = int((self.levels.sigmas.log() - math.log(sigma)).abs().argmin())
        time = LCM_TIME_SCALING * (nearest * LCM_STRIDE + LCM_STRIDE - 1)
        c_skip = LCM_SIGMA_DATA**2 / (time**2 + LCM_SIGMA_DATA**2)
        c_out = time / math.sqrt(time**2 + LCM_SIGMA_DATA**2)
        return c_skip * x + c_out * self.denoise(x, sigma)
