"""The kinds of scorers of this folder, with their options and public weights.

No torch here: the command line lists scorers without it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scorers.config import ReferencePath, ScorerSettings, SpecPath
from scorers.kind import Needs, ScorerKind, by_name
from scorers.protocol import ScorerInfo
from scorers.weights.needs import Need, OwnFile, ReferenceFolder, WeightNeed
from scorers.weights.public import PublicFile

# Fréchet and kernel distances of fewer than 8 images are meaningless. Below 32, their bias exceeds any difference
# between models: the FID of clean CIFAR images to other clean ones is 299 with 8 images, 210 with 32 and 168 with 64.
SET_MIN_IMAGES = 8
SET_ADVISED_IMAGES = 32

FID = ScorerInfo(
    name="fid",
    label="FID",
    summary="Fréchet distance to reference images on the Inception network of 2015",
    direction="minimize",
    # A twentieth of the value of clean images against clean images at n = 32.
    unit=10.0,
    range=(0.0, 500.0),
    limits=(0.0, float("inf")),
    scope="set",
    min_images=SET_MIN_IMAGES,
    advised_images=SET_ADVISED_IMAGES,
)

KID = ScorerInfo(
    name="kid",
    label="KID",
    summary="kernel distance (unbiased) to reference images on the Inception network of 2015",
    direction="minimize",
    # A fiftieth of the nominal range, as for FID.
    unit=0.01,
    range=(0.0, 0.5),
    scope="set",
    min_images=SET_MIN_IMAGES,
    advised_images=SET_ADVISED_IMAGES,
)

FRECHET = ScorerInfo(
    name="frechet",
    label="FD",
    summary="Fréchet distance to reference images on a timm network of your choice; not FID",
    direction="minimize",
    # Every network has its own scale of features. So the builder replaces this by 5 % of the spread of the reference
    # set, unless the settings give a unit.
    unit=1.0,
    range=(0.0, float("inf")),
    limits=(0.0, float("inf")),
    scope="set",
    min_images=SET_MIN_IMAGES,
    advised_images=SET_ADVISED_IMAGES,
)

KERNEL = ScorerInfo(
    name="kernel",
    label="MMD",
    summary="kernel distance (unbiased) to reference images on a timm network of your choice; not KID",
    direction="minimize",
    unit=1.0,  # replaced as that of FRECHET
    range=(0.0, float("inf")),
    scope="set",
    min_images=SET_MIN_IMAGES,
    advised_images=SET_ADVISED_IMAGES,
)

TONE = ScorerInfo(
    name="tone",
    label="tone",
    summary="distance of the colours of all images to those of reference images, in units of CIELAB",
    direction="minimize",
    # The smallest difference of two colours that people see, 2.3 (Mahy, Van Eycken and Oosterlinck 1994, Evaluation of
    # uniform color spaces, https://doi.org/10.1002/col.5080190207).
    unit=2.3,
    range=(0.0, 100.0),
    limits=(0.0, float("inf")),
    scope="set",
    # Unlike the distances above, a few pictures have many pixels. But what they show decides on their colours.
    advised_images=SET_MIN_IMAGES,
)

# The file's name contains the first eight digits of the digest. Several independent public projects record the whole
# digest, and two of them the size. Looked up on 2026-11-20.
FID_INCEPTION = PublicFile(
    title="FID Inception of 2015-12-05",
    name="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    size_bytes=95_628_359,
    licence="Apache-2.0",
    setting="weights",
)


class InceptionSettings(ScorerSettings):
    """Options of `fid` and `kid`."""

    reference: ReferencePath
    weights: SpecPath | None = None  # FID Inception in torch-fidelity's format; None: the pinned file


class ToneSettings(ScorerSettings):
    """Options of `tone`."""

    reference: ReferencePath  # one is enough


class NetworkSettings(ScorerSettings):
    """Options of `frechet` and `kernel`."""

    reference: ReferencePath
    network: Annotated[str, Field(description="a timm architecture")]
    weights: Annotated[SpecPath, Field(description="the weight file of `network`")]
    input_size: Annotated[int, Field(ge=16, le=2048)] | None = None  # pixels; None: the network's own
    unit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # None: 5 % of the references' spread


def _inception_needs(settings: InceptionSettings | None) -> tuple[Need, ...]:
    return (
        WeightNeed(named=None if settings is None else settings.weights, public=FID_INCEPTION),
        ReferenceFolder(named=None if settings is None else settings.reference),
    )


def _network_needs(settings: NetworkSettings | None) -> tuple[Need, ...]:
    return (
        OwnFile(
            named=None if settings is None else settings.weights, title="weights of a timm network", setting="weights"
        ),
        ReferenceFolder(named=None if settings is None else settings.reference),
    )


def _tone_needs(settings: ToneSettings | None) -> tuple[Need, ...]:
    return (ReferenceFolder(named=None if settings is None else settings.reference),)


def _kind(info: ScorerInfo, settings: type[ScorerSettings], builder: str, needs: Needs) -> ScorerKind:
    return ScorerKind(info=info, settings=settings, builder=f"scorers.distances.scorers:{builder}", needs=needs)


KINDS = by_name(
    _kind(FID, InceptionSettings, "build_fid", _inception_needs),
    _kind(KID, InceptionSettings, "build_kid", _inception_needs),
    _kind(FRECHET, NetworkSettings, "build_frechet", _network_needs),
    _kind(KERNEL, NetworkSettings, "build_kernel", _network_needs),
    ScorerKind(info=TONE, settings=ToneSettings, builder="scorers.distances.tone:build", needs=_tone_needs),
)
