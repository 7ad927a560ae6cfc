"""What A1111 takes out of a prompt before it reads the words, and is refused here: networks, and parts of a prompt."""

from __future__ import annotations

import re

from optimizer.rendering.prompts.pieces import misread

_AND = re.compile(r"\bAND\b")
_PART_WEIGHT = re.compile(r":\s*[-+]?(?:\d+\.?|\d*\.\d+)\s*\Z")
_NETWORK = re.compile(r"<(\w+):([^>]+)>")
_LORAS = frozenset({"lora", "lyco"})


def network_in(prompt: str) -> re.Match[str] | None:
    """Return the first <kind:name> of a prompt; None if there is none."""
    # What begins after the last bracket ends nowhere; to search for its end from each beginning takes squared time.
    return _NETWORK.search(prompt, 0, prompt.rfind(">") + 1)


def refuse_other_constructs(prompt: str, *, negative: bool) -> None:
    """Refuse networks in angle brackets, and prompts that are composed with AND, which a negative one cannot be.

    Raises:
        PromptError: there is one.
    """
    if network := network_in(prompt):
        kind, name = network[1].lower(), network[2].partition(":")[0]
        advice = f"put {name!r} under `loras:` of the study and take it out of the prompt"
        if kind not in _LORAS:
            advice = f"a {network[1]} is no part of a merge: take it out of the prompt"
        raise misread(prompt, network.start(), f"{network[0]} is no text: {advice}")
    if negative:
        return
    if found := _AND.search(prompt):
        raise misread(
            prompt, found.start(), "AND joins several prompts, which is not done here: write `and`, or one prompt"
        )
    if found := _PART_WEIGHT.search(prompt):
        raise misread(
            prompt,
            found.start(),
            "a prompt that ends in a colon and a number has that weight among prompts joined by AND, which is not done "
            "here: put the words in brackets, (words:1.2)",
        )
