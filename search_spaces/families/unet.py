"""Families whose U-Net has the layout of Stable Diffusion's own files: input, middle and output blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from search_spaces.families.family import EMA, OTHER, VAE, BorrowedWeights, Match, Mistake, Shapes

# At most two digits and no leading zero: `input_blocks.03.` is no name that any program writes.
_NUMBERED_BLOCK: Final = re.compile(r"(input|output)_blocks\.(0|[1-9][0-9]?)\.")
_ENTRANCE: Final = re.compile(r"(?:input_blocks|output_blocks)\.\d+\.1\.proj_in\.weight")
# Keys that never stand beside such a U-Net in a file of SD1.5 or SDXL: SD3, Flux, SD2, the SDXL refiner.
_FOREIGN: Final = re.compile(
    r"joint_blocks\.|double_blocks\.|^cond_stage_model\.model\.|^conditioner\.embedders\.0\.model\."
)


@dataclass(frozen=True, kw_only=True)
class UNetSigns:
    """What tells one U-Net from another. Widths do not matter."""

    depth: int  # number of input blocks, which is also the number of output blocks
    has_labels: bool  # `label_emb`
    entrance_rank: int | None  # of the weights that enter attention: 4 convolutions, 2 linear layers; None: any

    def fit(self, found: UNetSigns) -> bool:
        """Whether the signs found in a file are these."""
        return (self.depth, self.has_labels) == (found.depth, found.has_labels) and (
            self.entrance_rank in {None, found.entrance_rank}
        )


@dataclass(frozen=True, kw_only=True)
class UNetFamily:
    """One family of such models. Implements `Family`."""

    title: str
    signs: UNetSigns
    text_prefixes: Mapping[str, str]  # text encoder -> how its keys begin
    own_texts: tuple[str, ...]  # beginnings of keys that together only this family has
    block_prefixes: Mapping[str, str]  # beginning of a key under the U-Net's prefix -> block, for unnumbered ones
    lookalikes: tuple[tuple[UNetSigns, Mistake], ...] = ()  # U-Nets that are known to be others
    unet_prefix: str = "model.diffusion_model."
    vae_prefix: str = "first_stage_model."
    ema_prefix: str = "model_ema."
    labels: Mapping[str, str] = field(default_factory=dict)
    borrowed_weights: BorrowedWeights | None = None
    preset_groups: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    @cached_property
    def sections(self) -> Mapping[str, tuple[str, ...]]:
        """IN00.., M00, OUT00.. ."""
        numbers = range(self.signs.depth)
        return {
            "IN": tuple(f"IN{n:02d}" for n in numbers),
            "MID": ("M00",),
            "OUT": tuple(f"OUT{n:02d}" for n in numbers),
        }

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """In the order in which the model reads them."""
        return tuple(self.text_prefixes)

    def place_of(self, key: str) -> str:
        """Return the place of a key.

        `time_embed` and SDXL's `label_emb` feed every block and so belong to none by nature. They count as IN00,
        because supermerger and sd-meh count them so and the community's block-weight presets were tuned with those;
        the head `out.` counts as the last output block for the same reason.
        """
        if key.startswith(self.unet_prefix):
            return self._block_of(key.removeprefix(self.unet_prefix))
        if key.startswith(self.vae_prefix):
            return VAE
        if key.startswith(self.ema_prefix):
            return EMA
        return next((place for place, prefix in self.text_prefixes.items() if key.startswith(prefix)), OTHER)

    def _block_of(self, key: str) -> str:
        """Return the block of a key whose U-Net prefix is already cut off."""
        numbered = _NUMBERED_BLOCK.match(key)
        if numbered is None:
            return next((block for prefix, block in self.block_prefixes.items() if key.startswith(prefix)), OTHER)
        number = int(numbered[2])
        if number >= self.signs.depth:
            return OTHER
        return f"{'IN' if numbered[1] == 'input' else 'OUT'}{number:02d}"

    def match(self, shapes: Shapes) -> Match | None:
        """Compare the U-Net's signs with this family's; where they do not suffice, text encoders may tell."""
        unet = {
            key.removeprefix(self.unet_prefix): shape
            for key, shape in shapes.items()
            if key.startswith(self.unet_prefix)
        }
        if not any(key.split(".")[0] == "input_blocks" for key in unet) or any(map(_FOREIGN.search, shapes)):
            return None
        found = _signs(unet)
        return Match(
            unet=self.signs.fit(found),
            texts=all(any(key.startswith(prefix) for key in shapes) for prefix in self.own_texts),
            mistake=next((mistake for signs, mistake in self.lookalikes if signs.fit(found)), None),
        )


def _signs(unet: Shapes) -> UNetSigns:
    """Read the signs off a U-Net's tensors, their prefix cut off."""
    inputs = [int(found[2]) for key in unet if (found := _NUMBERED_BLOCK.match(key)) and found[1] == "input"]
    ranks = {len(shape) for key, shape in unet.items() if _ENTRANCE.fullmatch(key)}
    return UNetSigns(
        depth=1 + max(inputs, default=-1),
        has_labels=any(key.split(".")[0] == "label_emb" for key in unet),
        entrance_rank=ranks.pop() if len(ranks) == 1 else None,
    )
