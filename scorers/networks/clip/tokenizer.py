"""The tokenizers of CLIPs, and how many tokens a prompt has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import open_clip

from basics.messages import first_line
from scorers.errors import MissingWeightsError, ScorerSettingsError
from scorers.networks.siglip_tokenizer import SigLipTokenizer
from scorers.networks.tokenizer_files import SETTING, is_of_siglip, resolve_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def make_tokenizer(model: str, text_config: Mapping[str, Any], file: Path | None = None) -> Any:
    """Make the tokenizer of an architecture. CLIP's own vocabulary is part of open_clip; others come from the hub.

    Args:
        file: the user's own tokenizer.json of a SigLIP.

    Raises:
        ScorerSettingsError: there is a file, and the architecture is not a SigLIP.
        MissingWeightsError: the hub does not provide the tokenizer.
        WrongWeightsError: the file holds no tokenizer of the architecture.
    """
    if is_of_siglip(text_config):
        return SigLipTokenizer(resolve_tokenizer(file, text_config), text_config)
    if file is not None:
        raise ScorerSettingsError(f"option {SETTING!r} is for a SigLIP, {model} is another: leave it out")
    if not text_config.get("hf_tokenizer_name") and "siglip" not in model.lower():
        return open_clip.SimpleTokenizer(
            context_length=text_config.get("context_length", 77), **text_config.get("tokenizer_kwargs", {})
        )
    try:
        return open_clip.get_tokenizer(model)
    except (OSError, ValueError, RuntimeError) as error:
        raise MissingWeightsError(
            f"the tokenizer of {model!r} could not be fetched from the Hugging Face hub "
            f"({first_line(error)}): choose a model with CLIP's own vocabulary"
        ) from error


def token_count(prompt: str, tokenize: Any = None) -> int:
    """Count the tokens of a prompt in CLIP's vocabulary (or that of `tokenize`), start and end tokens included."""
    tokenize = tokenize or open_clip.SimpleTokenizer()
    encode = getattr(tokenize, "encode", None) or tokenize.tokenizer.encode
    return len(encode(prompt)) + 2
