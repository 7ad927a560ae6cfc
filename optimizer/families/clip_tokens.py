"""Tokenization of prompts for CLIP's text models."""

from __future__ import annotations

from functools import cache
from typing import Any

import open_clip
import torch
from torch import Tensor

from optimizer.families.clip import END

CONTEXT = 77  # tokens that a CLIP text model reads, including the start and end tokens


@cache
def clip_tokenizer() -> Any:
    """Return CLIP's tokenizer with open_clip's vocabulary; it pads with 0, as SDXL's second encoder expects."""
    return open_clip.SimpleTokenizer(context_length=CONTEXT)


def pad_with_end(ids: Tensor) -> Tensor:
    """Replace the padding after the end token by end tokens, in token ids [n, 77]."""
    ends = (ids == END).to(torch.int32).argmax(dim=1, keepdim=True)
    return torch.where(torch.arange(ids.shape[1], device=ids.device)[None] > ends, END, ids)
