"""The files that went into a merge, as their own headers describe them, and which licence they agree on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from basics.texts import visible
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.outcome.model_card.markdown import one_line
from studies.recipe.recipe import Recipe

# Keys that name the model that a file was trained from: ours to the hub's key, and that of kohya's scripts.
BASE_MODEL_FIELDS: Final = ("base_model", "modelspec.base_model", "ss_sd_model_name")
HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")  # owner/name
FILE_SUFFIX: Final = re.compile(r"\.(safetensors|ckpt|pt|pth|bin)$", re.IGNORECASE)
# The hub's names of licences that checkpoints have, by their letters, digits and plus signs without the word license.
HUB_LICENCES: Final[Mapping[str, str]] = {
    **{
        re.sub(r"[^a-z0-9+]", "", name): name
        for name in (
            "agpl-3.0", "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
            "cc-by-sa-4.0", "cc0-1.0", "creativeml-openrail-m", "gpl-3.0", "mit", "openrail", "openrail++",
        )
    },
    "creativemlopenrail++m": "openrail++",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A file that went into a merge. Texts are as its header has them, in one line; None where it has none."""

    role: str  # parent A, LoRA, VAE
    file: str  # its name, without folder
    sha256: str
    title: str | None = None
    author: str | None = None
    licence: str | None = None  # its name, its address, or its whole text
    base_models: tuple[str, ...] = ()  # `owner/name` of a hub


def contents_of(recipe: Recipe, files: Ingredients) -> tuple[Content, ...]:
    """Return every file that went into a merge: parents, LoRAs, and a baked VAE.

    Args:
        files: those that the recipe merges.
    """
    parents = [
        _content(f"parent {parent.letter}", checkpoint.path.name, parent.sha256, checkpoint.metadata)
        for parent, checkpoint in zip(recipe.parents, files.parents.checkpoints, strict=True)
    ]
    loras = [
        _content("LoRA", lora.path.name, use.sha256, lora.metadata)
        for use, lora in zip(recipe.loras, files.loras, strict=bool(recipe.loras))
    ]
    if recipe.vae is None or files.vae is None:
        return (*parents, *loras)
    return (*parents, *loras, _content("VAE", files.vae.path.name, recipe.vae.sha256, {}))


def agreed_licence(contents: Sequence[Content]) -> str | None:
    """Return the licence that all files name, however it is spelled; None where one names another, or none."""
    spellings = {_letters(each.licence or "") for each in contents}
    return contents[0].licence if len(spellings) == 1 and "" not in spellings else None


def hub_licence(licence: str) -> str | None:
    """Return the hub's name of a licence; None where the hub has none, or none that is known here."""
    return HUB_LICENCES.get(_letters(licence))


def base_models(contents: Sequence[Content]) -> tuple[str, ...]:
    """Return the models that the files were trained from, each once, as far as their headers name them."""
    return tuple(dict.fromkeys(model for each in contents for model in each.base_models))


def _content(role: str, file: str, sha256: str, metadata: Mapping[str, str]) -> Content:
    return Content(
        role=role,
        file=file,
        sha256=sha256,
        title=_said(metadata, "modelspec.title"),
        author=_said(metadata, "modelspec.author"),
        licence=" ".join(visible(metadata.get("modelspec.license", "")).split()) or None,
        base_models=tuple(
            name
            for field in BASE_MODEL_FIELDS
            if HUB_ID.fullmatch(name := metadata.get(field, "").strip()) and not FILE_SUFFIX.search(name)
        ),
    )


def _said(metadata: Mapping[str, str], field: str) -> str | None:
    return one_line(metadata.get(field, "")) or None


def _letters(licence: str) -> str:
    """Return a licence's name without what people spell differently."""
    return re.sub(r"[^a-z0-9+]", "", re.sub(r"licen[cs]e", "", licence.casefold()))
