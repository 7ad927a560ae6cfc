"""The kinds of scorers of this folder, with their options.

No torch here: the command line lists scorers without it.
"""

from __future__ import annotations

from scorers.config import ClipModelSettings, ScorerSettings
from scorers.kind import ScorerKind, by_name
from scorers.networks.clip_files import ClipNeed
from scorers.protocol import ScorerInfo
from scorers.weights.needs import Need

CLIP_SCORE = ScorerInfo(
    name="clip_score",
    label="CLIP score",
    summary="how well an image fits its prompt: 100 x cosine of their CLIP embeddings",
    direction="maximize",
    # One point; the scores of matching images and prompts are about 20 to 35.
    unit=1.0,
    range=(-100.0, 100.0),
    scope="image",
)


class ClipScoreSettings(ScorerSettings):
    """Options of `clip_score`."""

    clip: ClipModelSettings = ClipModelSettings()


def _clip_needs(settings: ClipScoreSettings | None) -> tuple[Need, ...]:
    return (ClipNeed(settings=(settings or ClipScoreSettings()).clip),)


KINDS = by_name(
    ScorerKind(
        info=CLIP_SCORE,
        settings=ClipScoreSettings,
        builder="scorers.prompt_fit.clip_score:build",
        needs=_clip_needs,
    ),
)
