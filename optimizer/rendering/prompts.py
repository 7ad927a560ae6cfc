"""Text embeddings of prompts, cached for as long as the text encoders are unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optimizer.families.clip_tokens import CONTEXT, clip_tokenizer
from optimizer.families.registry import model_family
from optimizer.rendering.models import LiveModels
from scorers import clip
from studies.spec.suite import SuiteSettings

TEXT_BATCH = 64


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedding of one prompt, as the U-Net reads it."""

    tokens: Tensor  # [tokens, width]
    pooled: Tensor | None  # [width of the pooled text], if the family uses it


@dataclass
class PromptEncoder:
    """The live text encoders, with a cache of embeddings."""

    models: LiveModels
    clip_skip: int  # layer to read, counted as A1111 counts: 1 is the last, 2 the one before it
    _cache: dict[str, Embedding] = field(default_factory=dict)

    def forget(self) -> None:
        """Empty the cache, which is required when a text encoder's weights have changed."""
        self._cache.clear()

    @torch.inference_mode()
    def embed(self, prompts: Iterable[str]) -> dict[str, Embedding]:
        """Return the embeddings of prompts; those not in the cache are computed."""
        prompts = list(dict.fromkeys(prompts))
        new = [prompt for prompt in prompts if prompt not in self._cache]
        if new:
            self.models.use("text_encoder", "text_encoder_2")
        for start in range(0, len(new), TEXT_BATCH):
            batch = new[start : start + TEXT_BATCH]
            self._cache.update(zip(batch, self._encode(batch), strict=True))
        return {prompt: self._cache[prompt] for prompt in prompts}

    def _encode(self, prompts: Sequence[str]) -> list[Embedding]:
        models = self.models
        embedded = model_family(models.architecture).embed(
            prompts, models.text_encoders, self.clip_skip, models.unet.device
        )
        pooled = [None] * len(prompts) if embedded.pooled is None else list(embedded.pooled)
        return [Embedding(*pair) for pair in zip(embedded.tokens, pooled, strict=True)]


def token_count(prompt: str) -> int:
    """Count a prompt's tokens, including start and end token; CLIP reads the first 77."""
    return clip.token_count(prompt, clip_tokenizer())


def length_notes(*suites: SuiteSettings) -> list[str]:
    """Return a line for each prompt that is longer than what a text encoder reads."""
    items = [item for suite in suites for item in suite.items()]
    texts = dict.fromkeys(text for item in items for text in (item.prompt, item.negative))
    return [
        f"the prompt {text[:40]!r}... has {count} tokens: CLIP reads {CONTEXT} and ignores the rest"
        for text in texts
        if (count := token_count(text)) > CONTEXT
    ]
