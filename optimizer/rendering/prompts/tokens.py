"""Words to CLIP's token ids, as each program's tokenizer has them; the vocabulary is open_clip's file.

- ComfyUI: transformers' tokenizer without ftfy, which it does not install. Typographic quotes, full-width letters and
  ligatures stay what they are. ComfyUI asks for transformers 4.50.3 or newer without an upper bound, so this is the
  tokenizer of version 5, which a new installation has. That of version 4, in older installations, puts spaces around
  Chinese characters and kanji, drops characters of Unicode's category C (joiners, soft hyphens), and reads CLIP's marks
  as words.
- A1111, for CLIP-L: transformers' tokenizer with ftfy, which mends these; open_clip brings it along there.
- A1111, for OpenCLIP: open_clip's tokenizer, which unescapes HTML as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ftfy import fix_text
from transformers import CLIPTokenizer

from optimizer.families.clip_tokens import clip_tokenizer

Tokenize = Callable[[str], list[int]]  # a text -> its ids, without start and end mark

START = 49406  # the mark before the tokens of a chunk
COMMA = 267  # ",</w>"
_RENAMED = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}  # by transformers


@cache
def _transformers_tokenizer() -> Any:
    words = clip_tokenizer()
    vocabulary = {_RENAMED.get(word, word): number for word, number in words.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(words.bpe_ranks))


def comfyui_ids(text: str) -> list[int]:
    """Return a text's ids as ComfyUI has them with transformers 5, for every text encoder."""
    ids: list[int] = _transformers_tokenizer()(text)["input_ids"][1:-1]
    return ids


def mended_ids(text: str) -> list[int]:
    """Return a text's ids as A1111 has them for CLIP-L."""
    return comfyui_ids(fix_text(text))


def open_clip_ids(text: str) -> list[int]:
    """Return a text's ids as A1111 has them for OpenCLIP."""
    ids: list[int] = clip_tokenizer().encode(text)
    return ids
