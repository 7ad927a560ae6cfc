"""Stable Diffusion 1.5: its files and its running models."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from optimizer.families.clip import END, ClipL, essential_clip_keys
from optimizer.families.family import ComfyMerge, Embedded, HeaderNames, KeyNames, LoraNames, ModelFamily, TextReader
from optimizer.families.stable_diffusion import UNET_BEGINNINGS, VAE_ALIASES, StableDiffusion, essential_keys
from optimizer.families.views import Component
from search_spaces.families import sd15


class SD15(StableDiffusion):
    """The family of SD1.5. Implements `ModelFamily`."""

    def is_pipeline(self, unet_names: Collection[str]) -> bool:
        """Return whether the U-Net is conditioned on time and text only."""
        return not any(name.startswith("add_embedding.") for name in unet_names)

    def heads(self, widths: list[int]) -> int:  # noqa: ARG002 - the same for every width
        """Return 8, the number of heads at every level."""
        return 8

    @property
    def readers(self) -> tuple[TextReader, ...]:
        """CLIP-L, padded with the end token."""
        return (TextReader(component="text_encoder", padding=END, clip="clip_l"),)

    @property
    def zeroes_empty_negative(self) -> bool:
        """False: an empty prompt is embedded like any other."""
        return False

    def embed(self, ids: Sequence[Tensor], texts: Mapping[Component, Any], clip_skip: int) -> Embedded:
        """Embed tokens: the chosen layer after the final normalisation, as Stable Diffusion 1 was trained."""
        encoder = texts["text_encoder"]
        out = encoder(input_ids=ids[0], output_hidden_states=True)
        if clip_skip == 1:
            return Embedded(layers=(out.last_hidden_state,), pooled=None)
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        return Embedded(layers=(norm(out.hidden_states[-clip_skip]),), pooled=None)


TEXT: Final = "cond_stage_model.transformer."

FAMILY: Final[ModelFamily] = SD15(
    keys=KeyNames(
        unet=sd15.FAMILY.unet_prefix,
        vae=sd15.FAMILY.vae_prefix,
        bare_unet=UNET_BEGINNINGS,
        clips=(TEXT,),
        first_convolution=f"{sd15.FAMILY.unet_prefix}input_blocks.0.0.weight",
        aliases=VAE_ALIASES
        | dict.fromkeys(
            (
                "cond_stage_model.clip_l.transformer.",
                "text_encoders.clip_l.transformer.",
                "clip_l.transformer.",
                "text_encoder.",
                "cond_stage_model.",
            ),
            "text_encoder",
        ),
        essential=(
            *essential_keys(sd15.FAMILY.unet_prefix, sd15.FAMILY.vae_prefix),
            *essential_clip_keys(TEXT),
            f"{TEXT}text_model.final_layer_norm.weight",
            f"{TEXT}text_model.final_layer_norm.bias",
        ),
    ),
    texts=(ClipL(component="text_encoder", prefix=TEXT),),
    up_levels_without_attention={0},
    latent_scale=0.18215,
    image_size=512,
    lora=LoraNames(
        prefixes={"unet": "lora_unet_", "text_encoder": "lora_te_"},
        clips={"text_encoder": "clip_l"},
        unet_as_stored=False,
        base_model="sd_v1",
        header=re.compile(r"^(sd_?v?1|stable-diffusion-v1)"),
        names=None,
        context_width=768,
    ),
    header=HeaderNames(
        architecture="stable-diffusion-v1",
        implementation="https://github.com/CompVis/stable-diffusion",
        resolution="512x512",
    ),
    comfy_merge=ComfyMerge(
        node="ModelMergeSD1",
        inputs=(
            "time_embed.",
            "label_emb.",
            *(f"input_blocks.{number}." for number in range(12)),
            *(f"middle_block.{number}." for number in range(3)),
            *(f"output_blocks.{number}." for number in range(12)),
            "out.",
        ),
    ),
)
