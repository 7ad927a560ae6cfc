"""Embeddings of prompts by the live text encoders, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optimizer.rendering.models import LiveModels
from optimizer.rendering.prompts.encoder import Conditions, Embedding, PromptEncoder
from studies.spec.samplers import Sampling
from studies.spec.suite import SuiteItem, SuiteSettings


def encoder_of(models: LiveModels, **settings: Any) -> PromptEncoder:
    """Return an encoder for a suite with these settings; its prompts are plain unless they say otherwise."""
    return PromptEncoder(models, SuiteSettings(**{"prompts": ["cat"], "syntax": "plain", "steps": 10} | settings))


def item_of(prompt: str, negative: str = "", *, index: int = 0, clip_skip: int = 1) -> SuiteItem:
    return SuiteItem(
        index=index,
        prompt=prompt,
        negative=negative,
        seed=0,
        width=64,
        height=64,
        sampling=Sampling(sampler="euler", schedule="normal", steps=10, cfg=7.0),
        clip_skip=clip_skip,
    )


def conditions_of(models: LiveModels, prompt: str, negative: str = "", **settings: Any) -> Conditions:
    """Embed a prompt and its negative one."""
    clip_skip = settings.get("clip_skip", 1)
    return encoder_of(models, **settings).conditions([item_of(prompt, negative, clip_skip=clip_skip)])[0]


def embedded(models: LiveModels, prompts: Iterable[str], **settings: Any) -> dict[str, Embedding]:
    """Return the embedding of each prompt, all of them computed together."""
    clip_skip = settings.get("clip_skip", 1)
    items = [
        item_of(prompt, prompt, index=index, clip_skip=clip_skip) for index, prompt in enumerate(dict.fromkeys(prompts))
    ]
    found = encoder_of(models, **settings).conditions(items)
    return {item.prompt: found[item.index].positive[0].embedding for item in items}
