"""The block map: every tensor's key belongs to exactly one place, which has its ratio.

A *place* is what a ratio belongs to: a block (of a U-Net: IN00.., M00, OUT00..) or a component (text_encoder,
text_encoder_2, vae). Two more places have no ratio: OTHER is kept from parent A, and EMA is dropped by exports.
Keys are those of the single-file layout. Their names in each family of models are in families/.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from search_spaces.errors import UnknownBlockError
from search_spaces.families.family import EMA, OTHER, VAE
from search_spaces.families.registry import Architecture, family_of

__all__ = [
    "EMA",
    "OTHER",
    "UNET",
    "VAE",
    "Architecture",
    "blocks",
    "place_label",
    "place_of",
    "places",
    "section_of",
    "sections",
    "text_encoders",
]

UNET: Final = "unet"


def place_of(key: str, architecture: Architecture) -> str:
    """Return the one place a tensor belongs to: a name of `places`, OTHER or EMA. Never raises.

    OTHER holds tensors that must never be averaged (schedule buffers such as `betas` and `alphas_cumprod`, prediction
    markers such as `v_pred`, `ztsnr` and `edm_*`) and unknown ones, such as blocks that the architecture does not have.
    """
    return family_of(architecture).place_of(key)


def sections(architecture: Architecture) -> tuple[str, ...]:
    """Return the names of the sections in the order in which the signal passes them; for a U-Net IN, MID and OUT."""
    return tuple(family_of(architecture).sections)


def blocks(architecture: Architecture) -> tuple[str, ...]:
    """Return the blocks in the order in which the signal passes them; for a U-Net IN00.., M00, OUT00.. ."""
    return tuple(block for members in family_of(architecture).sections.values() for block in members)


def text_encoders(architecture: Architecture) -> tuple[str, ...]:
    """Return the names of the text encoders."""
    return family_of(architecture).text_encoders


def places(architecture: Architecture) -> tuple[str, ...]:
    """Return every place that has a ratio: text encoders, blocks in depth order, vae."""
    return (*text_encoders(architecture), *blocks(architecture), VAE)


def place_label(place: str, architecture: Architecture) -> str:
    """Return the name of a place in pictures; that of a text encoder is its own, such as CLIP-L."""
    return "VAE" if place == VAE else family_of(architecture).labels.get(place, place)


def section_of(block: str) -> str:
    """Return the section of a block's name.

    Raises:
        UnknownBlockError: there is no such block; a component has no section.
    """
    if block not in _section_by_block():
        raise UnknownBlockError(f"expected a block such as IN00, M00 or OUT08, got {block!r}")
    return _section_by_block()[block]


@cache
def _section_by_block() -> dict[str, str]:
    return {
        block: section
        for architecture in Architecture
        for section, members in family_of(architecture).sections.items()
        for block in members
    }
