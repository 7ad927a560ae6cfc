"""What checkpoints render where no spec is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from optimizer.drafting.prompts import EXAMPLE_PROMPTS
from search_spaces.blocks import Architecture
from studies.spec.rounds import BracketSpec, bracket_of

SEEDS: Final = (1, 2, 3, 4)
SIDES: Final[Mapping[Architecture, int]] = {Architecture.SD15: 512, Architecture.SDXL: 1024}  # pixels


def usual_bracket(architecture: Architecture, parents: Sequence[Path]) -> BracketSpec:
    """Return the spec of a bracket for which none is given.

    Args:
        parents: two or more checkpoints.
    """
    suite: dict[str, Any] = {"prompts": list(EXAMPLE_PROMPTS), "seeds": list(SEEDS), "sizes": [SIDES[architecture]]}
    return bracket_of({"suite": suite}, parents, origin="the usual suite")
