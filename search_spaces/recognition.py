"""Recognition of a checkpoint's family by its tensors, or of what the file is instead."""

from __future__ import annotations

import re
from typing import Final

from search_spaces.errors import UnknownArchitectureError
from search_spaces.families.family import Match, Mistake, Shapes
from search_spaces.families.registry import Architecture, family_of, titles

# Files that people give by mistake: (pattern of any key, what it is), most specific first.
_MISTAKES: Final = (
    (r"(?i)(^|[._])lora[._]", Mistake(what="a LoRA", advice="bake it into a checkpoint first and merge that")),
    (r"joint_blocks\.", Mistake(what="an SD3 model")),
    (r"double_blocks\.", Mistake(what="a Flux model")),
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
        r"^(first_stage_model\.)?(encoder|decoder)\.(conv_in|down|up|mid)",
        Mistake(what="a bare VAE", advice="give the checkpoint it belongs to"),
    ),
    (
        r"^(cond_stage_model\.|conditioner\.|text_model\.|transformer\.)",
        Mistake(what="a text encoder only", advice="give the checkpoint it belongs to"),
    ),
)


def architecture_of(shapes: Shapes) -> Architecture:
    """Return the architecture of a checkpoint with these tensors; its U-Net suffices, without text encoders.

    Args:
        shapes: key in the single-file layout -> shape.

    Raises:
        UnknownArchitectureError: there is no U-Net, or it is of an unsupported family; the message names a known one.
    """
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


def _expected(got: str) -> str:
    return f"expected a complete {titles('or')} checkpoint or its U-Net, got {got}"


def _sentence(mistake: Mistake) -> str:
    names = [family_of(architecture).title for architecture in Architecture]
    what = mistake.what.format(each="'s nor ".join(names))
    advice = mistake.advice or f"only {titles('and')} are supported"
    return f"{what}: {advice}"


def _description(keys: tuple[str, ...]) -> str:
    """Describe what the keys are instead, and what to do."""
    for pattern, mistake in _MISTAKES:
        if any(re.search(pattern, key) for key in keys):
            return _sentence(mistake)
    if not keys:
        return "no tensors at all: the file is empty or incomplete; get it again"
    first = ", ".join(repr(key) for key in keys[:3])
    return f"unknown tensors ({first}): give a single-file checkpoint"
