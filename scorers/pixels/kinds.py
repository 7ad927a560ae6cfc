"""The kinds of scorers of this folder.

No torch here: the command line lists scorers without it.
"""

from __future__ import annotations

from scorers.config import ScorerSettings
from scorers.kind import ScorerKind, by_name
from scorers.protocol import ScorerInfo

SHARPNESS = ScorerInfo(
    name="sharpness",
    label="sharpness",
    summary="spread of the Laplacian of luma, in grey levels: fine detail, but noise too",
    direction="maximize",
    unit=1.0,  # one grey level of 255
    range=(0.0, 100.0),
    limits=(0.0, float("inf")),
    scope="image",
)

CONTRAST = ScorerInfo(
    name="contrast",
    label="RMS contrast",
    summary="standard deviation of luma, 0 to 0.5",
    direction="maximize",
    unit=0.02,  # five grey levels
    range=(0.0, 0.5),
    limits=(0.0, 0.5),
    scope="image",
)

COLOURFULNESS = ScorerInfo(
    name="colourfulness",
    label="colourfulness",
    summary="Hasler and Süsstrunk's M3: 0 grey, 33 moderate, 59 quite, 109 extremely colourful",
    direction="maximize",
    unit=5.0,  # a third of a step on the authors' verbal scale (15, 33, 45, 59, 82, 109)
    range=(0.0, 110.0),
    limits=(0.0, float("inf")),
    scope="image",
)

CLIPPING = ScorerInfo(
    name="clipping",
    label="clipping",
    summary="share of pixels that are pure black or pure white",
    direction="minimize",
    unit=0.02,  # two percent of the pixels
    range=(0.0, 1.0),
    limits=(0.0, 1.0),
    scope="image",
)

DUPLICATE_SUBJECT = ScorerInfo(
    name="duplicate_subject",
    label="duplicate subject",
    summary="how much a wide or tall image resembles itself, shifted along its longer side: a subject drawn twice",
    direction="minimize",
    # A tenth of the way from no resemblance to two equal halves.
    unit=0.1,
    range=(0.0, 1.0),
    limits=(-1.0, 1.0),
    scope="image",
)


class PixelSettings(ScorerSettings):
    """Options of the scorers of pixels, which have none."""


def _kind(info: ScorerInfo) -> ScorerKind:
    return ScorerKind(info=info, settings=PixelSettings, builder=f"scorers.pixels.statistics:build_{info.name}")


KINDS = by_name(
    _kind(SHARPNESS),
    _kind(CONTRAST),
    _kind(COLOURFULNESS),
    _kind(CLIPPING),
    ScorerKind(info=DUPLICATE_SUBJECT, settings=PixelSettings, builder="scorers.pixels.repetition:build"),
)
