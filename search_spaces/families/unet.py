"""Families whose U-Net has the layout of Stable Diffusion's own files: input, middle and output blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from search_spaces.families.family import EMA, OTHER, VAE, BorrowedWeights, Match, Mistake, Shapes

# At most two digits and no leading zero: no program writes `input_blocks.03.`.
_NUMBERED_BLOCK: Final = re.compile(r"(input|output)_blocks\.(0|[1-9][0-9]?)\.")
_ENTRANCE: Final = re.compile(r"(?:input_blocks|output_blocks)\.\d+\.1\.proj_in\.weight")
# Keys that a file of SD1.5 or SDXL never has: those of SD3, Flux, SD2 and the SDXL refiner.
_FOREIGN: Final = re.compile(
    r"joint_blocks\.|double_blocks\.|^cond_stage_model\.model\.|^conditioner\.embedders\.0\.model\."
)


@dataclass(frozen=True, kw_only=True)
class UNetSigns:
    """The signs that tell one U-Net from another. Widths do not matter."""

    depth: int  # number of input blocks, which is also the number of output blocks
    has_labels: bool  # it has `label_emb`
    entrance_rank: int | None  # rank of the weights into attention: 4 for convolutions, 2 for linear layers; None: any

    def match(self, other: UNetSigns) -> bool:
        """Return whether the signs of a file are these."""
        return (self.depth, self.has_labels) == (other.depth, other.has_labels) and (
            self.entrance_rank in {None, other.entrance_rank}
        )


@dataclass(frozen=True, kw_only=True)
class UNetFamily:
    """A family whose U-Net has this layout. It implements `Family`."""

    title: str
    signs: UNetSigns
    text_prefixes: Mapping[str, str]  # text encoder -> prefix of its keys
    own_texts: tuple[str, ...]  # prefixes of keys; only this family has all of them
    block_prefixes: Mapping[str, str]  # prefix of a key without a block number, after the U-Net's prefix -> block
    lookalikes: tuple[tuple[UNetSigns, Mistake], ...] = ()  # similar U-Nets that are not supported
    unet_prefix: str = "model.diffusion_model."
    vae_prefix: str = "first_stage_model."
    ema_prefix: str = "model_ema."
    labels: Mapping[str, str] = field(default_factory=dict)
    borrowed_weights: BorrowedWeights | None = None
    preset_groups: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    @cached_property
    def sections(self) -> Mapping[str, tuple[str, ...]]:
        """Section -> its blocks: IN00.., M00, OUT00.. ."""
        numbers = range(self.signs.depth)
        return {
            "IN": tuple(f"IN{n:02d}" for n in numbers),
            "MID": ("M00",),
            "OUT": tuple(f"OUT{n:02d}" for n in numbers),
        }

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """Names of the text encoders, in the order in which the model reads them."""
        return tuple(self.text_prefixes)

    def place_of(self, key: str) -> str:
        """Return the place of a key.

        `time_embed` and SDXL's `label_emb` feed every block, so they belong to no single one. They count as IN00, and
        the head `out.` as the last output block, because supermerger and sd-meh count them so, and the community's
        block-weight presets were tuned with these programs.
        """
        if key.startswith(self.unet_prefix):
            return self._block_of(key.removeprefix(self.unet_prefix))
        if key.startswith(self.vae_prefix):
            return VAE
        if key.startswith(self.ema_prefix):
            return EMA
        return next((place for place, prefix in self.text_prefixes.items() if key.startswith(prefix)), OTHER)

    def _block_of(self, key: str) -> str:
        """Return the block of a key without the U-Net's prefix."""
        numbered = _NUMBERED_BLOCK.match(key)
        if numbered is None:
            return next((block for prefix, block in self.block_prefixes.items() if key.startswith(prefix)), OTHER)
        number = int(numbered[2])
        if number >= self.signs.depth:
            return OTHER
        return f"{'IN' if numbered[1] == 'input' else 'OUT'}{number:02d}"

    def match(self, shapes: Shapes) -> Match | None:
        """Compare the U-Net's signs and the text encoders with this family's; None if there is no such U-Net."""
        unet = {
            key.removeprefix(self.unet_prefix): shape
            for key, shape in shapes.items()
            if key.startswith(self.unet_prefix)
        }
        if not any(key.split(".")[0] == "input_blocks" for key in unet) or any(map(_FOREIGN.search, shapes)):
            return None
        signs = _signs(unet)
        return Match(
            unet=self.signs.match(signs),
            texts=all(any(key.startswith(prefix) for key in shapes) for prefix in self.own_texts),
            mistake=next((mistake for lookalike, mistake in self.lookalikes if lookalike.match(signs)), None),
        )


def _signs(unet: Shapes) -> UNetSigns:
    """Read the signs of a U-Net from its tensors, whose keys have no prefix."""
    inputs = [int(match[2]) for key in unet if (match := _NUMBERED_BLOCK.match(key)) and match[1] == "input"]
    ranks = {len(shape) for key, shape in unet.items() if _ENTRANCE.fullmatch(key)}
    return UNetSigns(
        depth=1 + max(inputs, default=-1),
        has_labels=any(key.split(".")[0] == "label_emb" for key in unet),
        entrance_rank=ranks.pop() if len(ranks) == 1 else None,
    )
