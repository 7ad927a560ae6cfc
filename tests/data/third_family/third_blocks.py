"""A made-up family's half without torch: SD1.5's U-Net under other prefixes, its blocks one list in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from search_spaces.families import sd15
from search_spaces.families.family import BorrowedWeights, Match, Shapes

# How its keys are told and divided is SD1.5's way, under other prefixes.
_LIKE = replace(
    sd15.FAMILY,
    text_prefixes={"text_encoder": "text."},
    own_texts=("text.transformer.",),
    unet_prefix="net.",
    vae_prefix="vae.",
    ema_prefix="ema.",
)
_BLOCKS = {
    block: f"L{number:02d}"
    for number, block in enumerate(block for members in _LIKE.sections.values() for block in members)
}


class Third:
    """Implements `Family`."""

    title: str = "Third"
    sections: Mapping[str, tuple[str, ...]] = {"L": tuple(_BLOCKS.values())}
    text_encoders: tuple[str, ...] = ("text_encoder",)
    labels: Mapping[str, str] = {"text_encoder": "CLIP-L"}
    borrowed_weights: BorrowedWeights | None = None
    preset_groups: Mapping[str, Mapping[str, tuple[str, ...]]] = {}

    def place_of(self, key: str) -> str:
        """L00 to L24 are SD1.5's blocks."""
        place = _LIKE.place_of(key)
        return _BLOCKS.get(place, place)

    def match(self, shapes: Shapes) -> Match | None:
        """Its prefixes tell it from SD1.5."""
        return _LIKE.match(shapes)


FAMILY = Third()
