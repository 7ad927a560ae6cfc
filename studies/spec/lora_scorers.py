"""Scorers that look at items with LoRAs only: prompts that are rendered with none are `without` them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from basics.messages import unknown_name
from studies.spec.scoring import ScorerEntry
from studies.spec.suite import SuitePrompt, SuiteSettings
from studies.spec.suite_loras import names_in_prompt


def require_their_loras(scorers: Mapping[str, ScorerEntry], suite: SuiteSettings) -> None:
    """Refuse scorers of LoRAs that no item of the suite has.

    Raises:
        ValueError: there is no such item; the message says how a suite has one, or names the nearest LoRA.
    """
    known = tuple(dict.fromkeys(name for prompt in suite.prompts for name in _loras_of(prompt, suite)))
    for scorer, entry in scorers.items():
        wanted = entry.only_with_loras
        if wanted is None:
            continue
        if not known:
            msg = (
                f"scorers: {scorer} looks at items with a LoRA on top, and the suite has none: write <lora:NAME:0.8> "
                "in a prompt and give `lora_folder` under `suite`, or name a file under its `loras`"
            )
            raise ValueError(msg)
        for name in wanted:
            if name not in known:
                msg = f"scorers: {scorer}.lora: no item of the suite has a LoRA {name!r}: {unknown_name(name, known)}"
                raise ValueError(msg)


def without_scorers_of_loras(
    prompts: Sequence[SuitePrompt], suite: SuiteSettings, scorers: Mapping[str, ScorerEntry]
) -> tuple[SuitePrompt, ...]:
    """Return prompts that are left out of every scorer that looks at items with other LoRAs only.

    Args:
        suite: whose LoRAs are on top of all prompts.
    """
    wanted = {name: entry.only_with_loras for name, entry in scorers.items()}
    return tuple(_without(prompt, _loras_of(prompt, suite), wanted) for prompt in prompts)


def _without(prompt: SuitePrompt, loras: Sequence[str], wanted: Mapping[str, tuple[str, ...] | None]) -> SuitePrompt:
    others = [
        name for name, names in wanted.items() if names is not None and not set(names or loras).intersection(loras)
    ]
    without = tuple(dict.fromkeys([*prompt.without, *others]))
    return prompt if without == prompt.without else prompt.model_copy(update={"without": without})


def _loras_of(prompt: SuitePrompt, suite: SuiteSettings) -> tuple[str, ...]:
    """Return the LoRAs on top of a prompt's items, by their files' names without suffix."""
    named = names_in_prompt(prompt.prompt) if suite.syntax == "a1111" else ()
    return (*(lora.path.stem for lora in suite.loras), *named)
