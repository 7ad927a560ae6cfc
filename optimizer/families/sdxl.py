"""Stable Diffusion XL: its files and its running models."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from optimizer.families.clip import END, HEAD_WIDTH, ClipL, OpenClip, essential_clip_keys, essential_open_clip_keys
from optimizer.families.family import ComfyMerge, Embedded, HeaderNames, KeyNames, LoraNames, ModelFamily, TextReader
from optimizer.families.shapes import Shapes, shape_of
from optimizer.families.stable_diffusion import UNET_BEGINNINGS, VAE_ALIASES, StableDiffusion, essential_keys
from optimizer.families.views import Component
from search_spaces.families import sdxl

TIME_IDS = 6  # numbers on which the U-Net is conditioned: original size, crop and target size, two each
CLIP_L: Final = "conditioner.embedders.0.transformer."
CLIP_G: Final = "conditioner.embedders.1.model."


class SDXL(StableDiffusion):
    """The family of SDXL. Implements `ModelFamily`."""

    def is_pipeline(self, unet_names: Collection[str]) -> bool:
        """Return whether the U-Net is conditioned on sizes and the pooled text."""
        return any(name.startswith("add_embedding.") for name in unet_names)

    def heads(self, widths: list[int]) -> tuple[int, ...]:
        """Return one head for each 64 channels."""
        return tuple(max(1, width // HEAD_WIDTH) for width in widths)

    def conditions(self, shapes: Shapes) -> dict[str, Any]:
        """Return the U-Net's arguments for conditioning on sizes and the pooled text.

        Raises:
            CheckpointError: a tensor is missing.
        """
        projected = shape_of(shapes, f"{self.keys.unet}label_emb.0.0.weight")[1]
        pooled = shape_of(shapes, f"{CLIP_G}text_projection")[1]
        return {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (projected - pooled) // TIME_IDS,
            "projection_class_embeddings_input_dim": projected,
        }

    @property
    def readers(self) -> tuple[TextReader, ...]:
        """CLIP-L, padded with the end token, and OpenCLIP-G, padded with zeros: as SDXL was trained."""
        return (
            TextReader(component="text_encoder", padding=END, clip="clip_l"),
            TextReader(component="text_encoder_2", padding=0, clip="clip_g", is_open_clip=True),
        )

    @property
    def zeroes_empty_negative(self) -> bool:
        """True, for the pooled text as well (modules/sd_models_xl.py)."""
        return True

    def embed(self, ids: Sequence[Tensor], texts: Mapping[Component, Any], clip_skip: int) -> Embedded:
        """Embed tokens: a layer of each encoder, and the pooled text [n, p].

        The layer is the penultimate one, or an earlier one if `clip_skip` is above 2.
        """
        layer = -max(2, clip_skip)
        clip_l = texts["text_encoder"](input_ids=ids[0], output_hidden_states=True)
        clip_g = texts["text_encoder_2"](input_ids=ids[1], output_hidden_states=True)
        return Embedded(layers=(clip_l.hidden_states[layer], clip_g.hidden_states[layer]), pooled=clip_g.text_embeds)

    def added_conditions(self, pooled: Tensor | None, sizes: Sequence[int]) -> Mapping[str, Tensor]:
        """Return the pooled texts and, for each, the six sizes; the conditions of diffusers' SDXL U-Net.

        Raises:
            TypeError: there are no pooled texts.
        """
        if pooled is None:
            msg = "SDXL's U-Net needs the pooled text"
            raise TypeError(msg)
        numbers = torch.tensor(sizes, dtype=torch.float32).to(pooled.device)
        return {"text_embeds": pooled, "time_ids": numbers.expand(len(pooled), -1)}


FAMILY: Final[ModelFamily] = SDXL(
    keys=KeyNames(
        unet=sdxl.FAMILY.unet_prefix,
        vae=sdxl.FAMILY.vae_prefix,
        bare_unet=UNET_BEGINNINGS,
        clips=(CLIP_L,),
        first_convolution=f"{sdxl.FAMILY.unet_prefix}input_blocks.0.0.weight",
        aliases=VAE_ALIASES
        | dict.fromkeys(
            (
                "text_encoders.clip_l.transformer.",
                "clip_l.transformer.",
                "text_encoder.",
                "conditioner.embedders.0.",
            ),
            "text_encoder",
        )
        | dict.fromkeys(
            (
                CLIP_G,
                "conditioner.embedders.1.transformer.",
                "text_encoders.clip_g.transformer.",
                "clip_g.transformer.",
                "text_encoder_2.",
                "conditioner.embedders.1.",
            ),
            "text_encoder_2",
        ),
        # The layers after the one that is read, and what only the pooled text needs.
        spare=re.compile(
            r"conditioner\.embedders\.(0\.transformer\.text_model\.(encoder\.layers\.11|final_layer_norm)\."
            r"|1\.model\.(transformer\.resblocks\.31\.|ln_final\.|text_projection|logit_scale))"
        ),
        essential=(
            *essential_keys(sdxl.FAMILY.unet_prefix, sdxl.FAMILY.vae_prefix),
            *essential_clip_keys(CLIP_L),
            *essential_open_clip_keys(CLIP_G),
        ),
    ),
    texts=(
        ClipL(component="text_encoder", prefix=CLIP_L),
        OpenClip(component="text_encoder_2", prefix=CLIP_G),
    ),
    up_levels_without_attention={2},
    latent_scale=0.13025,
    image_size=1024,
    lora=LoraNames(
        prefixes={"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
        clips={"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
        unet_as_stored=True,
        base_model="sdxl_base_v1-0",
        header=re.compile(r"^(sdxl|stable-diffusion-xl)"),
        names=re.compile(r"^(lora_te[12][._]|text_encoder_2\.|(text_encoders\.)?clip_g\.)|add_embedding|label_emb"),
        context_width=2048,
    ),
    header=HeaderNames(
        architecture="stable-diffusion-xl-v1-base",
        implementation="https://github.com/Stability-AI/generative-models",
        resolution="1024x1024",
    ),
    comfy_merge=ComfyMerge(
        node="ModelMergeSDXL",
        inputs=(
            "time_embed.",
            "label_emb.",
            *(f"input_blocks.{number}" for number in range(9)),
            *(f"middle_block.{number}" for number in range(3)),
            *(f"output_blocks.{number}" for number in range(9)),
            "out.",
        ),
    ),
)
