"""Which published pictures a suite can have: those whose prompts can be read, each image once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optimizer.errors import PromptError
from optimizer.rendering.prompts.comfyui import MARK
from optimizer.rendering.sameness import ModelInput, model_inputs
from search_spaces.blocks import Architecture
from studies.spec.published.settings import PublishedSettings
from studies.spec.published.suites import Pictures, prompt_settings
from studies.spec.suite import SuiteSettings


def left_out(suite: Mapping[str, Any], pictures: Pictures) -> Iterator[tuple[str, str]]:
    """Yield name and reason of each picture that a study would refuse: of a prompt that cannot be read, or repeated.

    Args:
        suite: settings of the whole suite.
        pictures: those that it is to have.
    """
    seen: dict[tuple[Architecture, ModelInput], str] = {}
    for name, settings in pictures:
        try:
            given = _inputs(suite, settings)
        except PromptError as error:
            yield name, str(error)
            continue
        same = next((seen[each] for each in given if each in seen), None)
        if same is not None:
            yield name, f"the same render as {same}"
            continue
        seen |= dict.fromkeys(given, name)


def _inputs(suite: Mapping[str, Any], settings: PublishedSettings) -> list[tuple[Architecture, ModelInput]]:
    """Return what the models of each family are given for a picture.

    Raises:
        PromptError: a prompt cannot be read.
    """
    prompt = prompt_settings(settings)
    if settings.syntax == "comfyui":  # the folder of embeddings is not known yet, so their names are read as words
        prompt |= {key: prompt[key].replace(MARK, "") for key in ("prompt", "negative")}
    one = SuiteSettings.model_validate({**suite, "prompts": [prompt]})
    return [(family, given) for family in Architecture for given in model_inputs(one, family)]
