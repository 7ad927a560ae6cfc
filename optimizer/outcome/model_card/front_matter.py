"""The front matter of a model card: what a hub reads (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from optimizer.outcome.model_card.contents import Content, agreed_licence, base_models, hub_licence
from optimizer.outcome.model_card.markdown import one_line

LONGEST_NAME: Final = 80  # characters of a licence's name


def front_matter(name: str, architecture: str, contents: Sequence[Content], examples: Mapping[str, str]) -> str:
    """Return the YAML between its two lines of dashes.

    Args:
        name: of the model.
        architecture: as `modelspec.architecture` has it.
        examples: file of an example picture -> its prompt.
    """
    bases = list(base_models(contents))
    data: dict[str, Any] = {
        "model_name": one_line(name),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["stable-diffusion", architecture, "text-to-image", "merge", "mergetune"],
        **_licence(contents),
        **({"base_model": bases, "base_model_relation": "merge"} if bases else {}),
        **({"widget": [_example(file, prompt) for file, prompt in examples.items()]} if examples else {}),
    }
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n"


def _licence(contents: Sequence[Content]) -> dict[str, str]:
    """Return the hub's fields of a licence; none where the files agree on none."""
    licence = agreed_licence(contents)
    if licence is None:
        return {}
    known = hub_licence(licence)
    if known is not None:
        return {"license": known}
    if re.fullmatch(r"https?://\S+", licence):
        return {"license": "other", "license_link": licence}
    # The hub takes a licence's name of small letters, digits, dots and dashes; a longer text is the licence itself.
    name = re.sub(r"[^a-z0-9.]+", "-", licence.casefold()).strip("-.")
    return {"license": "other", **({"license_name": name} if 0 < len(name) <= LONGEST_NAME else {})}


def _example(file: str, prompt: str) -> dict[str, Any]:
    return {"text": one_line(prompt), "output": {"url": file}}
