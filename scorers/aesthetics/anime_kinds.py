"""The kinds of scorers of this folder that are classifiers of anime pictures, with their options and public weights.

No torch here: the command line lists scorers without it. skytnt/anime-aesthetic is not among them: it is published
without a licence.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scorers.config import ScorerSettings, SpecPath
from scorers.kind import ScorerKind, by_name
from scorers.protocol import ScorerInfo
from scorers.weights.folder import ModelFolder
from scorers.weights.needs import Need, Package
from scorers.weights.public import HubFile

ANIME_AESTHETIC = ScorerInfo(
    name="anime_aesthetic",
    label="anime aesthetic",
    summary="how an anime picture would be rated on Danbooru, 0 (worst) to 6 (masterpiece), by deepghs's classifier",
    direction="maximize",
    # A quarter of a point on a scale of ten, as for the aesthetic scorers, on a scale of six.
    unit=0.15,
    range=(0.0, 6.0),
    limits=(0.0, 6.0),
    scope="image",
)

CAFE = ScorerInfo(
    name="cafe",
    label="cafe aesthetic",
    summary='probability of the label "aesthetic" in cafe_aesthetic',
    direction="maximize",
    unit=0.05,  # five percentage points
    range=(0.0, 1.0),
    limits=(0.0, 1.0),
    scope="image",
)

SHADOW = ScorerInfo(
    name="shadow",
    label="aesthetic shadow",
    summary="probability of high quality in aesthetic-shadow-v2, for anime pictures; not for commercial use",
    direction="maximize",
    unit=0.05,  # five percentage points
    range=(0.0, 1.0),
    limits=(0.0, 1.0),
    scope="image",
)


def _file(title: str, repository: str, name: str, size_bytes: int, licence: str, revision: str | None) -> HubFile:
    return HubFile(
        title=title,
        repository=repository,
        names=(name,),
        size_bytes=size_bytes,
        licence=licence,
        setting="folder",
        revision=revision,
    )


# Revision and size are those of several independent public projects; only one that was found pins the digest. Looked up
# on 2026-11-27.
ANIME_AESTHETIC_FILES = tuple(
    _file(
        "deepghs anime_aesthetic",
        "deepghs/anime_aesthetic",
        f"swinv2pv3_v0_448_ls0.2_x/{name}",
        size_bytes,
        "OpenRAIL",
        "a83ab545e1d2a869f1180b99b2a7dee22ec3b97e",
    )
    for name, size_bytes in (("model.onnx", 418_260_629), ("meta.json", 1_000))
)

# The newest revision, of 2022; the repository has no safetensors, and the hub's page the sizes.
CAFE_FILES = tuple(
    _file(
        "cafe_aesthetic",
        "cafeai/cafe_aesthetic",
        name,
        size_bytes,
        "AGPL-3.0",
        "48a343764f786abc1ca8aaddfcd60a688a70da9b",
    )
    for name, size_bytes in (
        ("pytorch_model.bin", 376_000_000),
        ("config.json", 34_800),
        ("preprocessor_config.json", 302),
    )
)

# Its author has withdrawn the repository.
SHADOW_FILES = tuple(
    _file("aesthetic-shadow-v2", "shadowlilac/aesthetic-shadow-v2", name, size_bytes, "CC-BY-NC-4.0", None)
    for name, size_bytes in (
        ("model.safetensors", 4_370_000_000),
        ("config.json", 712),
        ("preprocessor_config.json", 369),
    )
)

ONNXRUNTIME = Package(module="onnxruntime", extra="onnx", licence="MIT")


class ClassifierSettings(ScorerSettings):
    """Options of `anime_aesthetic` and `cafe`."""

    folder: SpecPath | None = None  # with the classifier's files; None: the pinned ones


_WANTED_OF_SHADOW = (
    "a folder with model.safetensors, config.json and preprocessor_config.json of aesthetic-shadow-v2; mergetune does "
    "not download it, because of its licence (CC-BY-NC-4.0: not for commercial use)"
)


class ShadowSettings(ScorerSettings):
    """Options of `shadow`."""

    folder: Annotated[SpecPath, Field(description=_WANTED_OF_SHADOW)]


def _folder(files: tuple[HubFile, ...], named: SpecPath | None, *, fetched: bool = True) -> ModelFolder:
    return ModelFolder(named=named, title=files[0].title, files=files, fetched=fetched)


def anime_aesthetic_folder(settings: ClassifierSettings | None) -> ModelFolder:
    """Return the files of `anime_aesthetic` with these settings."""
    return _folder(ANIME_AESTHETIC_FILES, None if settings is None else settings.folder)


def cafe_folder(settings: ClassifierSettings | None) -> ModelFolder:
    """Return the files of `cafe` with these settings."""
    return _folder(CAFE_FILES, None if settings is None else settings.folder)


def shadow_folder(settings: ShadowSettings | None) -> ModelFolder:
    """Return the files of `shadow` with these settings."""
    return _folder(SHADOW_FILES, None if settings is None else settings.folder, fetched=False)


def _anime_aesthetic_needs(settings: ClassifierSettings | None) -> tuple[Need, ...]:
    return ONNXRUNTIME, anime_aesthetic_folder(settings)


def _cafe_needs(settings: ClassifierSettings | None) -> tuple[Need, ...]:
    return (cafe_folder(settings),)


def _shadow_needs(settings: ShadowSettings | None) -> tuple[Need, ...]:
    return (shadow_folder(settings),)


_BUILDERS = "scorers.aesthetics.anime"

KINDS = by_name(
    ScorerKind(
        info=ANIME_AESTHETIC,
        settings=ClassifierSettings,
        builder=f"{_BUILDERS}:build_anime_aesthetic",
        needs=_anime_aesthetic_needs,
    ),
    ScorerKind(info=CAFE, settings=ClassifierSettings, builder=f"{_BUILDERS}:build_cafe", needs=_cafe_needs),
    ScorerKind(info=SHADOW, settings=ShadowSettings, builder=f"{_BUILDERS}:build_shadow", needs=_shadow_needs),
)
