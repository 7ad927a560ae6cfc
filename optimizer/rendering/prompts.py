"""Prompts become text embeddings, kept for as long as the text encoders stay the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import open_clip
import torch
from torch import Tensor

from optimizer.rendering.models import LiveModels
from scorers import clip
from search_spaces.blocks import Architecture

CONTEXT = 77  # tokens a CLIP text model reads, the start and end mark included
END = 49407
TEXT_BATCH = 64


@dataclass(frozen=True, slots=True)
class Embedding:
    """One prompt as the U-Net wants it."""

    tokens: Tensor  # [77, width]
    pooled: Tensor | None  # [width of the second encoder's projection]; SDXL only


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
        ids = clip_tokenizer()(list(prompts)).to(self.models.unet.device)
        if self.models.architecture == Architecture.SD15:
            return [Embedding(tokens, None) for tokens in self._sd15(ids)]
        tokens, pooled = self._sdxl(ids)
        return [Embedding(*pair) for pair in zip(tokens, pooled, strict=True)]

    def _sd15(self, ids: Tensor) -> Tensor:
        """The chosen layer under the final normalisation, as Stable Diffusion 1 was trained: [n, 77, width]."""
        encoder = self.models.text_encoder
        out = encoder(input_ids=pad_with_end(ids), output_hidden_states=True)
        if self.clip_skip == 1:
            last: Tensor = out.last_hidden_state
            return last
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        skipped: Tensor = norm(out.hidden_states[-self.clip_skip])
        return skipped

    def _sdxl(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Penultimate layers of both encoders side by side [n, 77, w1 + w2], and the pooled text [n, p].

        The first encoder is padded with the end mark, the second with zeros, as SDXL was trained.
        """
        second = self.models.text_encoder_2
        assert second is not None  # noqa: S101 - every SDXL model has one
        layer = -max(2, self.clip_skip)
        one = self.models.text_encoder(input_ids=pad_with_end(ids), output_hidden_states=True)
        two = second(input_ids=ids, output_hidden_states=True)
        return torch.cat([one.hidden_states[layer], two.hidden_states[layer]], dim=-1), two.text_embeds


def token_count(prompt: str) -> int:
    """Tokens of a prompt with its start and end mark; CLIP reads the first 77."""
    return clip.token_count(prompt, clip_tokenizer())


@cache
def clip_tokenizer() -> Any:
    """CLIP's tokenizer with the vocabulary that open_clip ships; it pads with 0, as SDXL's second encoder wants."""
    return open_clip.SimpleTokenizer(context_length=CONTEXT)


def pad_with_end(ids: Tensor) -> Tensor:
    """Token numbers [n, 77] with everything after the end mark set to the end mark."""
    ends = (ids == END).to(torch.int32).argmax(dim=1, keepdim=True)
    return torch.where(torch.arange(ids.shape[1], device=ids.device)[None] > ends, END, ids)
