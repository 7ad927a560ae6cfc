"""A U-Net as a denoiser of a batch: guidance by text, prompts that change on the way, and extra conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optimizer.rendering.prompts.encoder import Conditions, Embedding, phase_at
from optimizer.rendering.sampling.levels import Levels
from optimizer.rendering.unet import UnetCall

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
    added: Added
    channels: Tensor | None  # extra input channels [1, c, h, w], which follow the latents
    nearest_times: bool  # see `Levels.time`
    _calls: int = 0
    _prepared: dict[tuple[int, ...], tuple[Tensor, Mapping[str, Tensor]]] = field(default_factory=dict)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the clean latents [n, c, h, w] float32 of noisy ones: Ho and Salimans, arXiv:2207.12598, eq. 6."""
        text, added = self._text(self._calls)
        self._calls += 1
        denoised = self._denoised(x if self.cfg is None else torch.cat([x, x]), sigma, text, added)
        if self.cfg is None:
            return denoised
        without, within = denoised.chunk(2)
        return without + self.cfg * (within - without)

    def _denoised(self, x: Tensor, sigma: float, text: Tensor, added: Mapping[str, Tensor]) -> Tensor:
        scaled = self.levels.scaled(x, sigma).to(self.dtype)
        if self.channels is not None:
            scaled = torch.cat([scaled, self.channels.expand(len(x), -1, -1, -1)], dim=1)
        time = torch.full((len(x),), self.levels.time(sigma, nearest=self.nearest_times), device=x.device)
        return self.levels.denoised(x, self.unet(scaled, time, text, added).float(), sigma)

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
