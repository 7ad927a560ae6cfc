"""The kinds of scorers of this folder on embeddings of CLIP and DINOv2, with their options and public weights.

No torch here: the command line lists scorers without it.
"""

from __future__ import annotations

from scorers.config import ClipModelSettings, ReferencePath, ScorerSettings, SpecPath
from scorers.distances.kinds import SET_ADVISED_IMAGES, SET_MIN_IMAGES
from scorers.kind import ScorerKind, by_name
from scorers.networks.clip.files import ClipNeed
from scorers.protocol import ScorerInfo
from scorers.weights.needs import Need, ReferenceFolder, WeightNeed
from scorers.weights.public import HubFile

CMMD = ScorerInfo(
    name="cmmd",
    label="CMMD",
    summary="kernel distance to reference images on CLIP ViT-L/14 at 336 pixels",
    direction="minimize",
    # The mean embedding, of a length of at most 1, is 0.1 further from that of the references: CMMD is about 10 x the
    # square of the distance.
    unit=0.1,
    range=(0.0, 10.0),
    limits=(0.0, 2000.0),  # biased: 1000 times the square of a distance of at most the root of 2
    scope="set",
    min_images=SET_MIN_IMAGES,
    advised_images=SET_ADVISED_IMAGES,
)

FD_DINOV2 = ScorerInfo(
    name="fd_dinov2",
    label="FD-DINOv2",
    summary="Fréchet distance to reference images on DINOv2 ViT-L/14",
    direction="minimize",
    unit=1.0,  # the builder replaces it by 5 % of the references' spread, as for `frechet`
    range=(0.0, float("inf")),
    limits=(0.0, float("inf")),
    scope="set",
    min_images=SET_MIN_IMAGES,
    advised_images=SET_ADVISED_IMAGES,
)

#: The CLIP that defines CMMD.
CLIP_OF_CMMD = ClipModelSettings(model="ViT-L-14-336-quickgelu", pretrained="openai")

# timm's copy of Meta's dinov2_vitl14_pretrain.pth; no public digest was found. 304 million parameters in float32.
DINOV2 = HubFile(
    title="DINOv2 ViT-L/14",
    repository="timm/vit_large_patch14_dinov2.lvd142m",
    names=("model.safetensors", "pytorch_model.bin"),
    size_bytes=1_220_000_000,
    licence="Apache-2.0",
    setting="weights",
)


class CmmdSettings(ScorerSettings):
    """Options of `cmmd`."""

    reference: ReferencePath
    clip: ClipModelSettings = CLIP_OF_CMMD


class Dinov2Settings(ScorerSettings):
    """Options of `fd_dinov2`."""

    reference: ReferencePath
    weights: SpecPath | None = None  # Meta's file or timm's; None: timm's from the hub


def _cmmd_needs(settings: CmmdSettings | None) -> tuple[Need, ...]:
    return (
        ClipNeed(settings=CLIP_OF_CMMD if settings is None else settings.clip),
        ReferenceFolder(named=None if settings is None else settings.reference),
    )


def _dinov2_needs(settings: Dinov2Settings | None) -> tuple[Need, ...]:
    return (
        WeightNeed(named=None if settings is None else settings.weights, public=DINOV2),
        ReferenceFolder(named=None if settings is None else settings.reference),
    )


KINDS = by_name(
    ScorerKind(info=CMMD, settings=CmmdSettings, builder="scorers.distances.cmmd:build", needs=_cmmd_needs),
    ScorerKind(info=FD_DINOV2, settings=Dinov2Settings, builder="scorers.distances.dinov2:build", needs=_dinov2_needs),
)
