"""SigLIP's tokenizer, from a tokenizer.json alone.

SigLIP was trained on the vocabulary of T5 (in many languages: of mT5), SigLIP 2 on that of Gemma. Each text is followed
by token 1, the end, and filled up: with token 1 again, or with Gemma's token 0.
https://github.com/mlfoundations/open_clip/blob/main/src/open_clip/tokenizer.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from open_clip.tokenizer import get_clean_fn
from tokenizers import Tokenizer

from basics.messages import first_line
from scorers.errors import WrongWeightsError
from scorers.networks.tokenizer_files import SETTING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_END = 1
# The end's token -> the number that texts are filled up with.
_FILLING = {"</s>": 1, "<eos>": 0}


class SigLipTokenizer:
    """A tokenizer of SigLIP.

    Args:
        file: its tokenizer.json.
        text_config: the text tower, in the format of open_clip's JSON files.

    Attributes:
        context_length: tokens of a text, the end included; those beyond are cut off.

    Raises:
        WrongWeightsError: the file holds no tokenizer of SigLIP, or one of another text tower.
    """

    def __init__(self, file: Path, text_config: Mapping[str, Any]) -> None:
        self._tokenizer = _read(file)
        self._filling = _FILLING.get(self._tokenizer.id_to_token(_END))
        size, known = self._tokenizer.get_vocab_size(with_added_tokens=False), text_config["vocab_size"]
        if self._filling is None or size > known:
            raise WrongWeightsError(
                f"{file} is not the tokenizer of this SigLIP: expected at most {known} tokens, with number {_END} "
                f"{' or '.join(_FILLING)}, got {size} with {self._tokenizer.id_to_token(_END)}: give the "
                f"tokenizer.json of {text_config['hf_tokenizer_name']} with option {SETTING!r}"
            )
        self._clean = get_clean_fn(text_config.get("tokenizer_kwargs", {}).get("clean", "whitespace"))
        self.context_length: int = text_config["context_length"]

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the numbers of the tokens of each text, int64 [n, context_length]."""
        return torch.tensor([self._encode(text) for text in texts])

    def _encode(self, text: str) -> list[int]:
        tokens = self._tokenizer.encode(self._clean(text), add_special_tokens=False).ids
        numbers = [*tokens[: self.context_length - 1], _END]
        return numbers + [self._filling] * (self.context_length - len(numbers))


def _read(file: Path) -> Any:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower
        raise WrongWeightsError(
            f"{file} is not a tokenizer.json ({first_line(error)}): give another file with option {SETTING!r}"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
