"""Stable Diffusion XL: three levels with labels, two text encoders."""

from __future__ import annotations

from typing import Final

from search_spaces.families.family import BorrowedWeights
from search_spaces.families.unet import UNetFamily, UNetSigns

FAMILY: Final = UNetFamily(
    title="SDXL",
    signs=UNetSigns(depth=9, has_labels=True, entrance_rank=None),
    text_prefixes={"text_encoder": "conditioner.embedders.0.", "text_encoder_2": "conditioner.embedders.1."},
    own_texts=("conditioner.embedders.0.transformer.", "conditioner.embedders.1."),
    labels={"text_encoder": "CLIP-L", "text_encoder_2": "CLIP-G"},
    block_prefixes={"middle_block.": "M00", "out.": "OUT08", "time_embed.": "IN00", "label_emb.": "IN00"},
    # IN00..IN08, M00 and OUT00..OUT08 of SD1.5's 25 numbers, as in merge extensions.
    borrowed_weights=BorrowedWeights(title="SD1.5", blocks=25, taken=(*range(9), *range(12, 22))),
    preset_groups={
        "levels": {
            "IN_inner": ("IN0[6-8]",),
            "OUT_inner": ("OUT0[0-2]",),
            "OUT_centre": ("OUT0[3-5]",),
            "OUT_outer": ("OUT0[6-8]",),
        }
    },
)
