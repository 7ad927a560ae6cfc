"""The kinds of scorers of this folder, with their options and public weights.

No torch here: the command line lists scorers without it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scorers.config import ClipModelSettings, ScorerSettings, SpecPath
from scorers.kind import ScorerKind, by_name
from scorers.networks.clip.files import ClipNeed
from scorers.networks.tokenizer_files import TokenizerNeed
from scorers.protocol import ScorerInfo
from scorers.weights.folder import ModelFolder
from scorers.weights.needs import Need, Package, ReferenceFolder
from scorers.weights.public import HubFile

CLIP_SCORE = ScorerInfo(
    name="clip_score",
    label="CLIP score",
    summary="how well an image fits its prompt: 100 x cosine of their CLIP embeddings",
    direction="maximize",
    # One point; the scores of matching images and prompts are about 20 to 35.
    unit=1.0,
    range=(-100.0, 100.0),
    limits=(-100.0, 100.0),
    scope="image",
)

SIGLIP_SCORE = ScorerInfo(
    name="siglip_score",
    label="SigLIP score",
    summary="how well an image fits its prompt: 100 x cosine of their SigLIP embeddings; not the scale of clip_score",
    direction="maximize",
    # Half of the CLIP score's: an even chance of a match is at about 11 points, CLIP's matching pairs have 20 to 35.
    unit=0.5,
    range=(-100.0, 100.0),
    limits=(-100.0, 100.0),
    scope="image",
)

LORA_COMPATIBILITY = ScorerInfo(
    name="lora_compatibility",
    label="LoRA compatibility",
    summary="how well images with a LoRA on top fit the LoRA's reference pictures, or else their prompt, by CLIP",
    direction="maximize",
    unit=1.0,  # as the CLIP score's: both are 100 x a cosine
    range=(-100.0, 100.0),
    limits=(-100.0, 100.0),  # a mean of cosines is between -1 and 1 as well
    scope="image",
)

TAG_RECALL = ScorerInfo(
    name="tag_recall",
    label="tag recall",
    summary="mean probability of the prompt's tags in the image, by a WD tagger",
    direction="maximize",
    unit=0.05,  # five percentage points
    range=(0.0, 1.0),
    limits=(0.0, 1.0),
    scope="image",
)

TEXT_IN_IMAGE = ScorerInfo(
    name="text_in_image",
    label="text in image",
    summary="share of the words in the prompt's quotation marks that are read in the image, by rapidocr",
    direction="maximize",
    unit=0.05,  # one more of twenty words
    range=(0.0, 1.0),
    limits=(0.0, 1.0),
    scope="image",
)

#: rapidocr reads by onnxruntime, which it does not bring. The models in its package are of the same licence.
RAPIDOCR = (
    Package(module="rapidocr", extra="ocr", licence="Apache-2.0", size_bytes=27_300_000),
    Package(module="onnxruntime", extra="ocr", licence="MIT"),
)


def _tagger_file(name: str, size_bytes: int, sha256: str | None = None) -> HubFile:
    """Return a file of WD ViT tagger v3.

    Many independent public projects take this commit. At least two of them pin the size and digest of its table of
    tags; none that was found pins those of its safetensors file. Looked up on 2026-11-27.
    """
    return HubFile(
        title="WD ViT tagger v3",
        repository="SmilingWolf/wd-vit-tagger-v3",
        names=(name,),
        size_bytes=size_bytes,
        licence="Apache-2.0",
        setting="folder",
        revision="7f6b584d0bd3f55c4531f14ba3d4761b2bccdc0f",
        sha256=sha256,
    )


TAGGER_FILES = (
    _tagger_file("model.safetensors", 378_500_000),
    _tagger_file("config.json", 1_000),
    _tagger_file("selected_tags.csv", 308_468, "298633d94d0031d2081c0893f29c82eab7f0df00b08483ba8f29d1e979441217"),
)


class ClipScoreSettings(ScorerSettings):
    """Options of `clip_score`."""

    clip: ClipModelSettings = ClipModelSettings()


class LoraCompatibilitySettings(ScorerSettings):
    """Options of `lora_compatibility`."""

    lora: Annotated[str, Field(min_length=1)] | None = None  # file name without suffix; None: items with any LoRA
    reference: SpecPath | None = None  # folder of the LoRA's pictures, searched recursively; None: the prompts
    clip: ClipModelSettings = ClipModelSettings()


class TextSettings(ScorerSettings):
    """Options of `text_in_image`, which has none."""


class SigLipScoreSettings(ScorerSettings):
    """Options of `siglip_score`."""

    # That of `aesthetic_v25`, so that the two share it.
    clip: ClipModelSettings = ClipModelSettings(model="ViT-SO400M-14-SigLIP-384", pretrained="webli")


class TagRecallSettings(ScorerSettings):
    """Options of `tag_recall`."""

    folder: SpecPath | None = None  # of a tagger in the format of WD taggers v3; None: the pinned one


def tagger_folder(settings: TagRecallSettings | None) -> ModelFolder:
    """Return the files of the tagger of these settings."""
    named = None if settings is None else settings.folder
    return ModelFolder(named=named, title=TAGGER_FILES[0].title, files=TAGGER_FILES)


def _tag_recall_needs(settings: TagRecallSettings | None) -> tuple[Need, ...]:
    return (tagger_folder(settings),)


def _text_needs(_settings: TextSettings | None) -> tuple[Need, ...]:
    return RAPIDOCR


def _clip_needs(settings: ClipScoreSettings | None) -> tuple[Need, ...]:
    return (ClipNeed(settings=(settings or ClipScoreSettings()).clip),)


def _lora_needs(settings: LoraCompatibilitySettings | None) -> tuple[Need, ...]:
    found = settings or LoraCompatibilitySettings()
    clip = ClipNeed(settings=found.clip)
    return (clip,) if found.reference is None else (ReferenceFolder(named=found.reference), clip)


def _lora_names(settings: LoraCompatibilitySettings) -> tuple[str, ...]:
    return () if settings.lora is None else (settings.lora,)


def _siglip_needs(settings: SigLipScoreSettings | None) -> tuple[Need, ...]:
    clip = (settings or SigLipScoreSettings()).clip
    return ClipNeed(settings=clip), TokenizerNeed(settings=clip)


KINDS = by_name(
    ScorerKind(
        info=CLIP_SCORE,
        settings=ClipScoreSettings,
        builder="scorers.prompt_fit.clip_score:build",
        needs=_clip_needs,
    ),
    ScorerKind(
        info=SIGLIP_SCORE,
        settings=SigLipScoreSettings,
        builder="scorers.prompt_fit.siglip_score:build",
        needs=_siglip_needs,
    ),
    ScorerKind(
        info=LORA_COMPATIBILITY,
        settings=LoraCompatibilitySettings,
        builder="scorers.prompt_fit.lora_compatibility:build",
        needs=_lora_needs,
        only_with_loras=_lora_names,
    ),
    ScorerKind(
        info=TAG_RECALL,
        settings=TagRecallSettings,
        builder="scorers.prompt_fit.tag_recall:build",
        needs=_tag_recall_needs,
    ),
    ScorerKind(
        info=TEXT_IN_IMAGE,
        settings=TextSettings,
        builder="scorers.prompt_fit.text_in_image:build",
        needs=_text_needs,
    ),
)
