"""Prompts with values of their own for settings of the suite, and the suite whose settings hold for them too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from studies.spec.suite import SCORING, SuitePrompt, SuiteSettings

OWN: Final = frozenset(SuitePrompt.model_fields) - {"prompt", *SCORING}  # settings that a prompt may have of its own


def for_all_prompts(suite: SuiteSettings, settings: Iterable[str]) -> SuiteSettings:
    """Return a suite some of whose settings hold for every prompt, also for those with a value of their own.

    A prompt that loses its sampler loses the schedule that came with it.

    Raises:
        ValidationError: two prompts that differ in these settings alone would be rendered the same.
    """
    names = OWN.intersection(settings)
    prompts = [{**prompt.model_dump(), **_followed(prompt, suite, names)} for prompt in suite.prompts]
    return SuiteSettings.model_validate(suite.model_dump() | {"prompts": prompts})


def _followed(prompt: SuitePrompt, suite: SuiteSettings, names: frozenset[str]) -> dict[str, Any]:
    """Return what of a prompt changes."""
    changes: dict[str, Any] = dict.fromkeys(names)
    if prompt.sampler is None:
        return changes
    if "sampler" in names:
        return changes | {"schedule": None}
    # Without a schedule beside its sampler it would have that one's usual.
    return changes | ({"schedule": suite.schedule} if "schedule" in names else {})
