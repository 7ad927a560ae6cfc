"""Scorers that look at some groups of prompts only: the prompts of other groups are `without` them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from basics.messages import unknown_name
from studies.spec.scoring import ScorerEntry
from studies.spec.suite import SuitePrompt


def require_known_groups(scorers: Mapping[str, ScorerEntry], known: Iterable[str]) -> None:
    """Refuse scorers of groups that no prompt has.

    Args:
        known: the groups of all prompts, the final's included.

    Raises:
        ValueError: there is no such group; the message names the nearest ones.
    """
    names = tuple(dict.fromkeys(known))
    for scorer, entry in scorers.items():
        for group in entry.groups:
            if group not in names:
                of_prompts = unknown_name(group, names) if names else "no prompt has a `group`"
                msg = f"scorers: {scorer}.groups: there is no group {group!r} of prompts: {of_prompts}"
                raise ValueError(msg)


def without_other_groups(prompts: Sequence[SuitePrompt], scorers: Mapping[str, ScorerEntry]) -> tuple[SuitePrompt, ...]:
    """Return prompts that are left out of every scorer that looks at other groups only."""
    return tuple(_without_others(prompt, scorers) for prompt in prompts)


def _without_others(prompt: SuitePrompt, scorers: Mapping[str, ScorerEntry]) -> SuitePrompt:
    others = [name for name, entry in scorers.items() if entry.groups and prompt.group not in entry.groups]
    without = tuple(dict.fromkeys([*prompt.without, *others]))
    return prompt if without == prompt.without else prompt.model_copy(update={"without": without})
