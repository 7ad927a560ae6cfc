"""The kinds of scorers of this folder, with their options and public weights.

No torch here: the command line lists scorers without it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scorers.config import ClipModelSettings, ScorerSettings, SpecPath
from scorers.kind import ScorerKind, by_name
from scorers.networks.clip.files import ClipNeed
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

AESTHETIC_V25 = ScorerInfo(
    name="aesthetic_v25",
    label="aesthetic v2.5",
    summary="how much people would like an image, 1 to 10, predicted from its SigLIP embedding; for illustrations too",
    direction="maximize",
    # A quarter of a point on the scale of ten, as for LAION's.
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
    limits=(0.0, 1.0),
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

# The digest is that of the file in the author's repository at the commit below; a public table of scorers of another
# project pins the same. Looked up on 2026-11-27.
AESTHETIC_V25_HEAD = PublicFile(
    title="aesthetic predictor v2.5 head",
    name="aesthetic_predictor_v2_5.pth",
    url="https://raw.githubusercontent.com/discus0434/aesthetic-predictor-v2-5/"
    "3125a9e1f275092432ffc336f2908eda812c373c/models/aesthetic_predictor_v2_5.pth",
    sha256="a6caf256b3dc434273c98dcb12f6bf17c5d4fc647d8df11f038386923dd06220",
    size_bytes=2_644_834,
    licence="AGPL-3.0",
    setting="head",
)

#: The SigLIP that the head was trained on: google/siglip-so400m-patch14-384, in open_clip's format.
SIGLIP_OF_THE_HEAD = ClipModelSettings(model="ViT-SO400M-14-SigLIP-384", pretrained="webli")


class AestheticSettings(ScorerSettings):
    """Options of `aesthetic`."""

    clip: ClipModelSettings = ClipModelSettings()
    head: SpecPath | None = None  # LAION head, v2 or v1; None: the pinned v2 file


class AestheticV25Settings(ScorerSettings):
    """Options of `aesthetic_v25`."""

    clip: ClipModelSettings = SIGLIP_OF_THE_HEAD
    head: SpecPath | None = None  # None: the pinned file


class ClipIqaSettings(ScorerSettings):
    """Options of `clip_iqa`."""

    clip: ClipModelSettings = ClipModelSettings()
    # Pairs of (good, bad) prompts; the score is the mean over pairs. The default is the paper's pair.
    pairs: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)] = (("Good photo.", "Bad photo."),)


def _aesthetic_needs(settings: AestheticSettings | None) -> tuple[Need, ...]:
    settings = settings or AestheticSettings()
    return WeightNeed(named=settings.head, public=AESTHETIC_V2), ClipNeed(settings=settings.clip)


def _aesthetic_v25_needs(settings: AestheticV25Settings | None) -> tuple[Need, ...]:
    settings = settings or AestheticV25Settings()
    return WeightNeed(named=settings.head, public=AESTHETIC_V25_HEAD), ClipNeed(settings=settings.clip)


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
        info=AESTHETIC_V25,
        settings=AestheticV25Settings,
        builder="scorers.aesthetics.siglip_v25:build",
        needs=_aesthetic_v25_needs,
    ),
    ScorerKind(
        info=CLIP_IQA,
        settings=ClipIqaSettings,
        builder="scorers.aesthetics.clip_iqa:build",
        needs=_clip_iqa_needs,
    ),
)
