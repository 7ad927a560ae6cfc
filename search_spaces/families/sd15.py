"""Stable Diffusion 1.5: four levels, one text encoder."""

from __future__ import annotations

from typing import Final

from search_spaces.families.family import Mistake
from search_spaces.families.unet import UNetFamily, UNetSigns

FAMILY: Final = UNetFamily(
    title="SD1.5",
    # Into attention, SD2 has a linear layer and SD1.5 a convolution; the SDXL refiner has labels.
    signs=UNetSigns(depth=12, has_labels=False, entrance_rank=4),
    lookalikes=(
        (
            UNetSigns(depth=12, has_labels=True, entrance_rank=None),
            Mistake(what="an SDXL refiner", advice="give the SDXL base checkpoint"),
        ),
        (UNetSigns(depth=12, has_labels=False, entrance_rank=2), Mistake(what="an SD2 checkpoint")),
    ),
    text_prefixes={"text_encoder": "cond_stage_model."},
    own_texts=("cond_stage_model.transformer.",),
    labels={"text_encoder": "CLIP-L"},
    block_prefixes={"middle_block.": "M00", "out.": "OUT11", "time_embed.": "IN00"},
    # The few blocks of the smallest resolution have no attention. They join their neighbours, so that SD1.5 and SDXL
    # have the same eight parameters.
    preset_groups={
        "levels": {
            "IN_inner": ("IN0[6-9]", "IN1[01]"),
            "OUT_inner": ("OUT0[0-5]",),
            "OUT_centre": ("OUT0[6-8]",),
            "OUT_outer": ("OUT09", "OUT1[01]"),
        }
    },
)
