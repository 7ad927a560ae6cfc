"""What checkpoints render where no spec is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from optimizer.drafting.prompts import EXAMPLE_PROMPTS
from search_spaces.blocks import Architecture
from studies.spec.rounds import BracketSpec, bracket_of

# So many that a bracket of up to 16 checkpoints, which has four rounds, has other subjects in each of them.
PROMPTS: Final = (
    *EXAMPLE_PROMPTS,
    "two children playing chess at a wooden table",
    "a lighthouse in a storm, waves breaking over the rocks",
    "a bowl of fruit beside an open window, morning light",
    "a narrow street in an old town at night, wet cobblestones",
    "a dancer in a long green dress, on an empty stage",
    "a fox standing in deep snow",
    "a steam locomotive crossing a stone bridge",
    "a hand holding a cup of coffee, close-up",
    "a field of sunflowers below mountains, watercolor",
    "a robot repairing a clock in a workshop",
    "a young woman with freckles laughing, outdoors",
    "a living room with a grey sofa and many plants",
)
SEEDS: Final = (1,)
SIDES: Final[Mapping[Architecture, int]] = {Architecture.SD15: 512, Architecture.SDXL: 1024}  # pixels


def usual_bracket(architecture: Architecture, parents: Sequence[Path]) -> BracketSpec:
    """Return the spec of a bracket for which none is given.

    Args:
        parents: two or more checkpoints.
    """
    suite: dict[str, Any] = {"prompts": list(PROMPTS), "seeds": list(SEEDS), "sizes": [SIDES[architecture]]}
    return bracket_of({"suite": suite}, parents, origin="the usual suite")
