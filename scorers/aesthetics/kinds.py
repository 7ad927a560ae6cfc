"""The kinds of scorers of this folder, with their options and public weights.

No torch here: the command line lists scorers without it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scorers.config import ClipModelSettings, ScorerSettings, SpecPath
from scorers.kind import ScorerKind, by_name
from scorers.networks.clip_files import ClipNeed
from scorers.protocol import ScorerInfo
from scorers.weights.needs import Need, WeightNeed
from scorers.weights.public import PublicFile

AESTHETIC = ScorerInfo(
    name="aesthetic",
    label="LAION aesthetic",
    summary="how much people would like an image, 1 to 10, predicted from its CLIP embedding",
    direction="maximize",
    # A quarter of a point on the raters' scale of ten.
    unit=0.25,
    range=(1.0, 10.0),
    scope="image",
)

CLIP_IQA = ScorerInfo(
    name="clip_iqa",
    label="CLIP-IQA",
    summary="probability that CLIP prefers the good word of a pair of opposites",
    direction="maximize",
    unit=0.05,  # five percentage points
    range=(0.0, 1.0),
    scope="image",
)

# Several independent public projects pin this digest, among them birder, which serves its own copy, and
# fusion-vision-mcp, which checked the file at the commit below. One of them pins the size. Looked up on 2026-11-20.
AESTHETIC_V2 = PublicFile(
    title="LAION aesthetic head v2",
    name="sac+logos+ava1-l14-linearMSE.pth",
    url="https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/"
    "6934dd81792f086e613a121dbce43082cb8be85e/sac%2Blogos%2Bava1-l14-linearMSE.pth",
    sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
    size_bytes=3_714_759,
    licence="Apache-2.0",
    setting="head",
)


class AestheticSettings(ScorerSettings):
    """Options of `aesthetic`."""

    clip: ClipModelSettings = ClipModelSettings()
    head: SpecPath | None = None  # LAION head, v2 or v1; None: the pinned v2 file


class ClipIqaSettings(ScorerSettings):
    """Options of `clip_iqa`."""

    clip: ClipModelSettings = ClipModelSettings()
    # Pairs of (good, bad) prompts; the score is the mean over pairs. The default is the paper's pair.
    pairs: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)] = (("Good photo.", "Bad photo."),)


def _aesthetic_needs(settings: AestheticSettings | None) -> tuple[Need, ...]:
    settings = settings or AestheticSettings()
    return WeightNeed(named=settings.head, public=AESTHETIC_V2), ClipNeed(settings=settings.clip)


def _clip_iqa_needs(settings: ClipIqaSettings | None) -> tuple[Need, ...]:
    return (ClipNeed(settings=(settings or ClipIqaSettings()).clip),)


KINDS = by_name(
    ScorerKind(
        info=AESTHETIC,
        settings=AestheticSettings,
        builder="scorers.aesthetics.laion:build",
        needs=_aesthetic_needs,
    ),
    ScorerKind(
        info=CLIP_IQA,
        settings=ClipIqaSettings,
        builder="scorers.aesthetics.clip_iqa:build",
        needs=_clip_iqa_needs,
    ),
)
