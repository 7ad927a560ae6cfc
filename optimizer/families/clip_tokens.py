"""Prompts as the token numbers that CLIP's text models read."""

from __future__ import annotations

from functools import cache
from typing import Any

import open_clip
import torch
from torch import Tensor

CONTEXT = 77  # tokens a CLIP text model reads, the start and end mark included
END = 49407


@cache
def clip_tokenizer() -> Any:
    """CLIP's tokenizer with the vocabulary that open_clip ships; it pads with 0, as SDXL's second encoder wants."""
    return open_clip.SimpleTokenizer(context_length=CONTEXT)


def pad_with_end(ids: Tensor) -> Tensor:
    """Token numbers [n, 77] with everything after the end mark set to the end mark."""
    ends = (ids == END).to(torch.int32).argmax(dim=1, keepdim=True)
    return torch.where(torch.arange(ids.shape[1], device=ids.device)[None] > ends, END, ids)
