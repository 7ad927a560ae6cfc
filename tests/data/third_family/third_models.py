"""A made-up family's files and running models: SD1.5's under other names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from optimizer.families.clip import ClipL
from optimizer.families.family import HeaderNames, KeyNames, LoraNames, ModelFamily
from optimizer.families.sd15 import SD15


class Third(SD15):
    """The made-up family's implementation of `ModelFamily`."""

    def is_pipeline(self, unet_names: Collection[str]) -> bool:  # noqa: ARG002
        """Return False: this family comes in single files only."""
        return False


FAMILY: Final[ModelFamily] = Third(
    keys=KeyNames(unet="net.", vae="vae.", bare_unet=(), clips=(), first_convolution="net.input_blocks.0.0.weight"),
    texts=(ClipL(component="text_encoder", prefix="text.transformer."),),
    up_levels_without_attention={0},
    latent_scale=0.18215,
    image_size=512,
    lora=LoraNames(
        prefixes={"unet": "lora_unet_", "text_encoder": "lora_te_"},
        clips={"text_encoder": "clip_l"},
        unet_as_stored=True,
        base_model="third",
        header=None,
        names=None,
        context_width=None,
    ),
    header=HeaderNames(architecture="third-v1", implementation="https://example.org/third", resolution="64x64"),
)
