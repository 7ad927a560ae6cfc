"""A prompt's words, as scorers compare them with an image: without weights and all else that steers rendering."""

from __future__ import annotations

from collections.abc import Iterable

from optimizer.rendering.prediction import Prediction
from optimizer.rendering.prompts import a1111, comfyui
from optimizer.rendering.prompts.editing import holding_at, phases
from optimizer.rendering.sampling.second_pass import calls_of_passes
from studies.spec.a1111_prompts import without_comments, without_lora_tags
from studies.spec.suite import SuiteItem, SuiteSettings


def wording(item: SuiteItem, suite: SuiteSettings, prediction: Prediction) -> str:
    """Return the words of an item's prompt; those with which it ends where editing changes them on the way.

    A plain prompt is returned as it is. ComfyUI's `embedding:NAME` and A1111's `<lora:NAME>` are left out; A1111 marks
    no names of embeddings.

    Args:
        suite: what the item belongs to.
        prediction: of the models, whose noise levels decide how many calls there are.

    Raises:
        PromptError: the prompt is not written as its syntax asks.
    """
    if suite.syntax == "plain":
        return item.prompt
    if suite.syntax == "comfyui":
        return _spaced(_without_embeddings(piece.text) for piece in comfyui.weighted_pieces(item.prompt))
    written = without_lora_tags(without_comments(item.prompt))
    sampling, before = item.sampling, None
    *_, calls = calls_of_passes(sampling, prediction, suite.program)
    if sampling.second is not None:
        sampling, before = sampling.second, sampling.prompt_steps
    ends, texts = zip(*phases(written, sampling.prompt_steps, before), strict=True)
    text = texts[holding_at(ends, calls - 1)]
    if suite.emphasis == "none":  # brackets are text
        return _spaced([text])
    pieces = a1111.weighted_pieces(text)
    return _spaced(" " if piece.ends_chunk else piece.text for piece in pieces)


def _without_embeddings(text: str) -> str:
    parts = comfyui.words_and_embeddings(text)
    return " ".join(part if isinstance(part, str) else part.rest for part in parts)


def _spaced(texts: Iterable[str]) -> str:
    """Join texts, with one space in place of each gap."""
    return " ".join("".join(texts).split())
