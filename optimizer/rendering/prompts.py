"""Prompts become text embeddings, kept for as long as the text encoders stay the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optimizer.families.clip_tokens import clip_tokenizer
from optimizer.families.registry import model_family
from optimizer.rendering.models import LiveModels
from scorers import clip

TEXT_BATCH = 64


@dataclass(frozen=True, slots=True)
class Embedding:
    """One prompt as the U-Net wants it."""

    tokens: Tensor  # [tokens, width]
    pooled: Tensor | None  # [width of the pooled text], where the family has it


@dataclass
class PromptEncoder:
    """Embeds prompts with the live text encoders and remembers the results until `forget`."""

    models: LiveModels
    clip_skip: int  # 1: the last layer; 2: the one before it; counted as A1111 counts
    _known: dict[str, Embedding] = field(default_factory=dict)

    def forget(self) -> None:
        """Call when a text encoder's weights have changed."""
        self._known.clear()

    @torch.inference_mode()
    def embed(self, prompts: Iterable[str]) -> dict[str, Embedding]:
        """Embeddings of the given prompts; only those not known yet are computed."""
        prompts = list(dict.fromkeys(prompts))
        new = [prompt for prompt in prompts if prompt not in self._known]
        if new:
            self.models.use("text_encoder", "text_encoder_2")
        for start in range(0, len(new), TEXT_BATCH):
            batch = new[start : start + TEXT_BATCH]
            self._known.update(zip(batch, self._encode(batch), strict=True))
        return {prompt: self._known[prompt] for prompt in prompts}

    def _encode(self, prompts: Sequence[str]) -> list[Embedding]:
        models = self.models
        found = model_family(models.architecture).embed(
            prompts, models.text_encoders, self.clip_skip, models.unet.device
        )
        pooled = [None] * len(prompts) if found.pooled is None else list(found.pooled)
        return [Embedding(*pair) for pair in zip(found.tokens, pooled, strict=True)]


def token_count(prompt: str) -> int:
    """Tokens of a prompt with its start and end mark; CLIP reads the first 77."""
    return clip.token_count(prompt, clip_tokenizer())
