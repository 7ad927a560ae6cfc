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
from studies.spec.suite import SuiteItem, SuiteSettings

TEXT_BATCH = 64


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedding of one prompt, as the U-Net reads it."""

    tokens: Tensor  # [tokens, width]
    pooled: Tensor | None  # [width of the pooled text], if the family uses it


@dataclass(frozen=True, slots=True)
class Phase:
    """The embedding of a prompt up to a call of the denoiser."""

    until_step: int  # the last call in which it holds, counted from 0; the last phase holds on
    embedding: Embedding


@dataclass(frozen=True, slots=True)
class Conditions:
    """The texts of an item: phases in their order, of which an ordinary prompt has one."""

    positive: tuple[Phase, ...]
    negative: tuple[Phase, ...]


@dataclass
class PromptEncoder:
    """The live text encoders, with a cache of embeddings."""

    models: LiveModels
    _cache: dict[tuple[int, str], Embedding] = field(default_factory=dict)  # by clip skip and text

    def forget(self) -> None:
        """Empty the cache, which is required when a text encoder's weights have changed."""
        self._cache.clear()

    def conditions(self, items: Sequence[SuiteItem]) -> dict[int, Conditions]:
        """Return item index -> its texts."""
        texts = {
            skip: self.embed(
                (text for item in items if item.clip_skip == skip for text in (item.prompt, item.negative)), skip
            )
            for skip in dict.fromkeys(item.clip_skip for item in items)
        }
        return {
            item.index: Conditions(
                positive=(Phase(item.sampling.prompt_steps, texts[item.clip_skip][item.prompt]),),
                negative=(Phase(item.sampling.prompt_steps, texts[item.clip_skip][item.negative]),),
            )
            for item in items
        }

    @torch.inference_mode()
    def embed(self, prompts: Iterable[str], clip_skip: int) -> dict[str, Embedding]:
        """Return the embeddings of prompts; those not in the cache are computed.

        Args:
            clip_skip: layer to read, counted as A1111 counts: 1 is the last, 2 the one before it.
        """
        prompts = list(dict.fromkeys(prompts))
        new = [prompt for prompt in prompts if (clip_skip, prompt) not in self._cache]
        if new:
            self.models.use("text_encoder", "text_encoder_2")
        for start in range(0, len(new), TEXT_BATCH):
            batch = new[start : start + TEXT_BATCH]
            self._cache.update(zip(((clip_skip, text) for text in batch), self._encode(batch, clip_skip), strict=True))
        return {prompt: self._cache[clip_skip, prompt] for prompt in prompts}

    def _encode(self, prompts: Sequence[str], clip_skip: int) -> list[Embedding]:
        models = self.models
        embedded = model_family(models.architecture).embed(prompts, models.text_encoders, clip_skip, models.unet.device)
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
