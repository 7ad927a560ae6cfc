"""Texts of strangers that are long and repeat themselves: to read them takes time in proportion to their length."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.errors import PromptError
from optimizer.rendering.prompts import a1111, comfyui
from optimizer.rendering.prompts.check import notes_of
from optimizer.rendering.prompts.composition import refuse_composition
from optimizer.rendering.prompts.editing import phases
from optimizer.rendering.prompts.named_loras import loras_taken_out
from studies.spec.a1111_prompts import without_comments
from studies.spec.dynamic_prompts import expand
from studies.spec.embedding_mentions import changing
from studies.spec.published.fooocus import parse_fooocus
from studies.spec.published.infotext import is_infotext, parse_infotext
from studies.spec.published.invokeai import parse_invokeai
from studies.spec.published.novelai import with_weights
from studies.spec.published.settings import PublishedError, RawSettings, checked
from studies.spec.published.swarmui import parse_swarmui

CHARACTERS = 60_000  # a search that begins anew at each of them takes many seconds
SECONDS = 10.0  # of CPU: what grows with the square of the length takes minutes
LINE = "Steps: 1, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512"


def of_a1111(text: str) -> None:
    written, _ = loras_taken_out(without_comments(text), negative=False)
    refuse_composition(written)


def as_published(text: str) -> None:
    checked(
        RawSettings(
            made_by="A1111", syntax="a1111", prompt=text[:20_000], seed=1, width=512, height=512, steps=1, cfg=7,
            sampler="euler",
        )
    )  # fmt: skip


READERS: dict[str, Callable[[str], object]] = {
    "weights": a1111.weighted_pieces,
    "comfyui": comfyui.weighted_pieces,
    "constructs": of_a1111,
    "editing": lambda text: phases(text, 4),
    "embeddings": lambda text: list(comfyui.words_and_embeddings(text)),
    "notes for a1111": lambda text: list(notes_of(text, "a1111")),
    "notes for comfyui": lambda text: list(notes_of(text, "comfyui")),
    "variants": lambda text: expand(text, random.Random(0)),
    "within variants": lambda text: expand("{" + text + "}", random.Random(0)),
    "infotext": is_infotext,
    "settings of an infotext": lambda text: parse_infotext(f"a\n{LINE}, {text}"),
    "line of an infotext": lambda text: is_infotext(f"Steps: 1{text}, x: y"),
    "published": as_published,
    "embedding mentions": lambda text: changing(text, str.lower),
    "novelai": lambda text: with_weights(text, "prompt"),
    "invokeai": lambda text: parse_invokeai({"positive_prompt": text}),
    "older invokeai": lambda text: parse_invokeai({"image": {"prompt": text}}),
    "swarmui": lambda text: parse_swarmui({"prompt": text}),
    "fooocus": lambda text: parse_fooocus({"prompt": text, "resolution": text}),
}
REPEATED = [
    " ", "[", "(", "a:<", "[a:", ": ", ":1 ", "1", " BREAK", "_", "__a", "{a|", "\\", 'a:"\\', "a", "#", "&",
    " embedding:", "1.5::", "x, y: ",
]  # fmt: skip
TOKENS = st.sampled_from(
    [*' \n\t[](){}<>:|_\\"#&+-.,1aA$', "BREAK", "AND", "embedding:", "lora:", "::", "__", "Steps:"]
)


def seconds_to_read(reader: Callable[[str], object], text: str) -> float:
    began = time.process_time()
    with suppress(PromptError, PublishedError, ValueError):
        reader(text)
    return time.process_time() - began


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", READERS)
def test_a_text_that_repeats_itself_is_read_at_once(name: str) -> None:
    for each in REPEATED:
        assert seconds_to_read(READERS[name], each * (CHARACTERS // len(each)) + "x") < SECONDS, each


@pytest.mark.timeout(300)
@given(
    st.sampled_from(sorted(READERS)),
    st.lists(TOKENS, max_size=3).map("".join),
    st.lists(TOKENS, min_size=1, max_size=4).map("".join),
    st.lists(TOKENS, max_size=3).map("".join),
)
@settings(max_examples=30)
def test_whatever_repeats_itself_is_read_at_once(name: str, before: str, each: str, after: str) -> None:
    text = before + each * (CHARACTERS // len(each)) + after
    assert seconds_to_read(READERS[name], text) < SECONDS
