"""Recognition of a checkpoint's family by its tensors, or of what the file is instead."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from search_spaces.errors import UnknownArchitectureError
from search_spaces.families.family import Match, Mistake, Shapes
from search_spaces.families.registry import Architecture, family_of, titles

# Files that people give by mistake: (pattern of any key, what it is), most specific first.
_MISTAKES: Final = (
    (
        r"(?i)(^|[._])lora[._]|\.(lora_[AB]|hada_w|lokr_w|oft_|on_input|dora_scale|w_norm)|^\w+:\d+:(up|down)$",
        Mistake(what="a LoRA", advice="bake it into a checkpoint first and merge that"),
    ),
    (r"^(emb_params|\*|clip_[lg]|<.+>)$|^string_to_param", Mistake(what="an embedding (textual inversion)")),
    (r"(^|\.)motion_modules\.|\.temporal_transformer\.", Mistake(what="a motion module (AnimateDiff)")),
    (r"^(ip_adapter|image_proj)\.", Mistake(what="an IP-Adapter")),
    (r"joint_blocks\.", Mistake(what="an SD3 model")),
    (r"(^|\.)double_stream_modulation_", Mistake(what="a Flux.2 model")),
    (r"(^|\.)distilled_guidance_layer\.", Mistake(what="a Chroma model")),
    (r"double_blocks\.|(^|\.)single_transformer_blocks\.", Mistake(what="a Flux model")),
    (r"(^|\.)(noise_refiner|context_refiner)\.", Mistake(what="a Z-Image or Lumina model")),
    (r"(^|\.)llm_adapter\.", Mistake(what="an Anima model")),
    (r"(^|\.)txtfusion\.", Mistake(what="a Krea 2 model")),
    (r"^(model\.diffusion_model\.)?transformer_blocks\.\d+\.(img_mod|txt_mod)", Mistake(what="a Qwen-Image model")),
    (r"(^|\.)blocks\.\d+\.(cross_attn|self_attn)\.", Mistake(what="a model of the Cosmos or Wan family")),
    (r"^cond_stage_model\.model\.", Mistake(what="an SD2 checkpoint")),
    (
        r"^conditioner\.embedders\.0\.model\.",
        Mistake(what="an SDXL refiner", advice="give the SDXL base checkpoint"),
    ),
    (
        r"^(unet\.)?(down_blocks|up_blocks)\.",
        Mistake(
            what="a bare U-Net in diffusers naming",
            advice="give the folder of its whole pipeline, the one with model_index.json",
        ),
    ),
    (
        r"^(model\.diffusion_model\.)?(input_blocks|output_blocks)\.",
        Mistake(
            what="a U-Net that is neither {each}'s, or only a part of one", advice="give a whole U-Net of one of these"
        ),
    ),
    (
        r"^model_ema\.diffusion_model",
        Mistake(
            what="only the EMA copy of a U-Net (model_ema.*), without the U-Net itself",
            advice="give the checkpoint it was pruned from, or one with model.diffusion_model.*",
        ),
    ),
    (
        r"^((first_stage_model|vae)\.)?(encoder|decoder)\.(conv_in|down|up|mid)",
        Mistake(what="a bare VAE", advice="give the checkpoint it belongs to"),
    ),
    (
        r"^(encoder|decoder)\.layers\.\d+\.(weight|bias|conv\.)|^taesd_",
        Mistake(what="a small VAE for previews (TAESD)"),
    ),
    (r"(^|\.)(vision_model|visual)\.", Mistake(what="an image encoder (CLIP vision)")),
    (
        (
            r"^(cond_stage_model\.|conditioner\.|text_model\.|transformer\.|text_encoders?\b|clip_[lg]\.|token_embedding\."
            r"|encoder\.block\.\d+\.layer\.|encoder\.layers\.\d+\.(self_attn|mlp)\.|(model\.)?layers\.\d+\.(self_attn|mlp)\.)"
        ),
        Mistake(what="a text encoder only", advice="give the checkpoint it belongs to"),
    ),
    (r"^(RRDB|model\.1\.sub|body\.\d+\.rdb|conv_first\.)", Mistake(what="an upscaler (ESRGAN)")),
    (r"(^|\.)(exp_avg|exp_avg_sq|momentum_buffer)(\.|$)", Mistake(what="the state of an optimizer")),
)

# Files whose tensors look like the first half of a U-Net.
_CONTROL: Final = re.compile(
    r"(^|\.)(zero_convs|input_hint_block|controlnet_\w+|lora_controlnet)(\.|$)|^control_model\."
)
_OUTPUT_BLOCKS: Final = re.compile(r"^(model\.diffusion_model\.)?output_blocks\.")
_CONTROLNET: Final = Mistake(what="a ControlNet", advice="give the checkpoint that it steers")


def architecture_of(shapes: Shapes) -> Architecture:
    """Return the architecture of a checkpoint with these tensors; its U-Net suffices, without text encoders.

    Args:
        shapes: key in the single-file layout -> shape.

    Raises:
        UnknownArchitectureError: there is no U-Net, or it is of an unsupported family; the message names a known one.
    """
    if _is_controlnet(shapes):
        raise UnknownArchitectureError(_expected(_sentence(_CONTROLNET)))
    matches = _matches(shapes)
    for match in matches.values():
        if match.mistake is not None:
            raise UnknownArchitectureError(_expected(_sentence(match.mistake)))
    by_unet = next((architecture for architecture, match in matches.items() if match.unet), None)
    by_text = next((architecture for architecture, match in matches.items() if match.texts), None)
    architecture = by_unet or by_text
    if architecture is None:
        raise UnknownArchitectureError(_expected(_description(tuple(shapes))))
    if by_text not in {None, architecture}:
        raise UnknownArchitectureError(_expected(f"a U-Net of {architecture} with the text encoder of {by_text}"))
    return architecture


def _matches(shapes: Shapes) -> dict[Architecture, Match]:
    """Match the tensors against each family; families whose kind of U-Net they do not have are left out."""
    matches = {architecture: family_of(architecture).match(shapes) for architecture in Architecture}
    return {architecture: match for architecture, match in matches.items() if match is not None}


def _is_controlnet(keys: Iterable[str]) -> bool:
    """Return whether tensors are a ControlNet's; a checkpoint that has one beside its U-Net is a checkpoint."""
    keys = tuple(keys)
    return any(map(_CONTROL.search, keys)) and not any(map(_OUTPUT_BLOCKS.search, keys))


def description_of(keys: Collection[str]) -> str | None:
    """Say what a file with these keys is and what to do with it; None if it is not known, or holds a whole model."""
    if _is_controlnet(keys):
        return _sentence(_CONTROLNET)
    mistake = next((mistake for pattern, mistake in _MISTAKES if any(re.search(pattern, key) for key in keys)), None)
    return None if mistake is None else _sentence(mistake)


def _expected(got: str) -> str:
    return f"expected a complete {titles('or')} checkpoint or its U-Net, got {got}"


def _sentence(mistake: Mistake) -> str:
    names = [family_of(architecture).title for architecture in Architecture]
    what = mistake.what.format(each="'s nor ".join(names))
    advice = mistake.advice or f"only {titles('and')} are supported"
    return f"{what}: {advice}"


def _description(keys: tuple[str, ...]) -> str:
    """Describe what the keys are instead, and what to do."""
    known = description_of(keys)
    if known is not None:
        return known
    if not keys:
        return "no tensors at all: the file is empty or incomplete; get it again"
    first = ", ".join(repr(key) for key in keys[:3])
    return f"unknown tensors ({first}): give a single-file checkpoint"
