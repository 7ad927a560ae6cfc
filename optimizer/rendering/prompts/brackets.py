"""Brackets in prompts of A1111 that do not fit together.

An opening bracket that nothing closes is refused, as it would change everything after it.
"""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.rendering.prompts.pieces import misread
from studies.spec.brackets import CLOSING, DEEPEST, paired


def pairs(prompt: str) -> Mapping[int, int]:
    """Return the position of each opening bracket -> that of the bracket which closes it.

    Raises:
        PromptError: a bracket does not close, closes across another, or they are nested too deeply.
    """
    found = paired(prompt)
    if found.too_deep is not None:
        raise misread(prompt, found.too_deep, f"more than {DEEPEST} brackets stand in each other")
    if found.crossing is not None:
        start, end = found.crossing
        problem = f"{prompt[start]!r} is not closed before {prompt[end]!r} closes what stands around it"
        raise misread(prompt, start, problem)
    if found.unclosed:
        start = found.unclosed[-1]
        bracket = prompt[start]
        problem = (
            f"{bracket!r} is not closed: add {CLOSING[bracket]!r}, or write \\{bracket} for a bracket that is text"
        )
        raise misread(prompt, start, problem)
    return found.closings
