"""The total map from a tensor's key to the one place that decides its ratio.

A *place* is what has one ratio: a U-Net block (IN00.., M00, OUT00..) or a component (text_encoder,
text_encoder_2, vae). Two more places have none: OTHER is kept from parent A, EMA is dropped by exports.
Keys are those of the single-file (LDM) layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from search_spaces.errors import UnknownArchitectureError, UnknownBlockError

Section = Literal["IN", "MID", "OUT"]
SECTIONS: Final[tuple[Section, ...]] = ("IN", "MID", "OUT")

UNET: Final = "unet"
VAE: Final = "vae"
OTHER: Final = "other"
EMA: Final = "ema"

_UNET_PREFIX: Final = "model.diffusion_model."
_VAE_PREFIX: Final = "first_stage_model."
_EMA_PREFIX: Final = "model_ema."

# At most two digits and no leading zero: `input_blocks.03.` is no name that any program writes.
_NUMBERED_BLOCK: Final = re.compile(r"(input|output)_blocks\.(0|[1-9][0-9]?)\.")
_BLOCK_NAME: Final = re.compile(r"(IN|OUT)[0-9]{2}|M00")


class Architecture(StrEnum):
    """A family of checkpoints that share keys and shapes, and so can be merged."""

    SD15 = "sd15"
    SDXL = "sdxl"


@dataclass(frozen=True, kw_only=True)
class _Anatomy:
    """How one architecture's keys are divided."""

    depth: int  # number of input blocks, which is also the number of output blocks
    text_encoder_prefixes: tuple[tuple[str, str], ...]  # (key prefix, place)
    block_prefixes: tuple[tuple[str, str], ...]  # (key prefix under the U-Net's, block), unnumbered ones


# time_embed and label_emb: see place_of.
_ANATOMIES: Final = {
    Architecture.SD15: _Anatomy(
        depth=12,
        text_encoder_prefixes=(("cond_stage_model.", "text_encoder"),),
        block_prefixes=(("middle_block.", "M00"), ("out.", "OUT11"), ("time_embed.", "IN00")),
    ),
    Architecture.SDXL: _Anatomy(
        depth=9,
        text_encoder_prefixes=(
            ("conditioner.embedders.0.", "text_encoder"),
            ("conditioner.embedders.1.", "text_encoder_2"),
        ),
        block_prefixes=(
            ("middle_block.", "M00"),
            ("out.", "OUT08"),
            ("time_embed.", "IN00"),
            ("label_emb.", "IN00"),
        ),
    ),
}


def place_of(key: str, architecture: Architecture) -> str:
    """Return the one place a tensor belongs to: a name of `places`, OTHER or EMA. Never raises.

    `time_embed` and SDXL's `label_emb` feed every block and so belong to none by nature. They count as IN00,
    because supermerger and sd-meh count them so and the community's block-weight presets were tuned with
    those; the head `out.` counts as the last output block for the same reason.

    OTHER holds what must never be averaged and what is not known: schedule buffers (`betas`,
    `alphas_cumprod`), prediction markers (`v_pred`, `ztsnr`, `edm_*`), and block numbers the architecture
    does not have.
    """
    if key.startswith(_UNET_PREFIX):
        return _block_of(key.removeprefix(_UNET_PREFIX), _ANATOMIES[architecture])
    if key.startswith(_VAE_PREFIX):
        return VAE
    if key.startswith(_EMA_PREFIX):
        return EMA
    return _by_prefix(key, _ANATOMIES[architecture].text_encoder_prefixes)


def _block_of(key: str, anatomy: _Anatomy) -> str:
    """Return the block of a key whose U-Net prefix is already cut off."""
    numbered = _NUMBERED_BLOCK.match(key)
    if numbered is None:
        return _by_prefix(key, anatomy.block_prefixes)
    number = int(numbered[2])
    if number >= anatomy.depth:
        return OTHER
    return f"{'IN' if numbered[1] == 'input' else 'OUT'}{number:02d}"


def _by_prefix(key: str, prefixes: tuple[tuple[str, str], ...]) -> str:
    return next((place for prefix, place in prefixes if key.startswith(prefix)), OTHER)


def blocks(architecture: Architecture) -> tuple[str, ...]:
    """Return the U-Net's blocks in the order the signal passes them: IN00.., M00, OUT00.. ."""
    numbers = range(_ANATOMIES[architecture].depth)
    return (*(f"IN{n:02d}" for n in numbers), "M00", *(f"OUT{n:02d}" for n in numbers))


def text_encoders(architecture: Architecture) -> tuple[str, ...]:
    """Return the names of the text encoders."""
    return tuple(place for _, place in _ANATOMIES[architecture].text_encoder_prefixes)


def places(architecture: Architecture) -> tuple[str, ...]:
    """Return every place that has a ratio: text encoders, blocks in depth order, vae."""
    return (*text_encoders(architecture), *blocks(architecture), VAE)


def section_of(block: str) -> Section:
    """Return the section of a block's name.

    Raises:
        UnknownBlockError: the name is not that of a block (a component has no section).
    """
    if _BLOCK_NAME.fullmatch(block) is None:
        raise UnknownBlockError(f"expected a block such as IN00, M00 or OUT08, got {block!r}")
    if block == "M00":
        return "MID"
    return "IN" if block.startswith("IN") else "OUT"


# What people hand over by mistake: (pattern found in any key, what it is, what to do), most specific first.
_OTHER_FAMILIES: Final = (
    (r"joint_blocks\.", "an SD3 model", "only SD1.5 and SDXL are supported"),
    (r"double_blocks\.", "a Flux model", "only SD1.5 and SDXL are supported"),
    (r"^cond_stage_model\.model\.", "an SD2 checkpoint", "only SD1.5 and SDXL are supported"),
    (r"^conditioner\.embedders\.0\.model\.", "an SDXL refiner", "give the SDXL base checkpoint"),
)
_NO_CHECKPOINT_OF_OURS: Final = (
    (r"(?i)(^|[._])lora[._]", "a LoRA", "bake it into a checkpoint first and merge that"),
    *_OTHER_FAMILIES,
    (
        r"^(unet\.)?(down_blocks|up_blocks)\.",
        "a bare U-Net in diffusers naming",
        "give the folder of its whole pipeline, the one with model_index.json",
    ),
    (
        r"^(model\.diffusion_model\.)?(input_blocks|output_blocks)\.",
        "a U-Net that is neither SD1.5's nor SDXL's, or only a part of one",
        "give a whole U-Net of one of these",
    ),
    (
        r"^(first_stage_model\.)?(encoder|decoder)\.(conv_in|down|up|mid)",
        "a bare VAE",
        "give the checkpoint it belongs to",
    ),
    (
        r"^(cond_stage_model\.|conditioner\.|text_model\.|transformer\.)",
        "a text encoder only",
        "give the checkpoint it belongs to",
    ),
)

# Text encoders that only one family has: they tell it even where the U-Net's tensors do not suffice.
_TEXT_ENCODERS: Final = {
    Architecture.SD15: ("cond_stage_model.transformer.",),
    Architecture.SDXL: ("conditioner.embedders.0.transformer.", "conditioner.embedders.1."),
}

Shape = tuple[int, ...]


def architecture_of(shapes: Mapping[str, Shape]) -> Architecture:
    """Return the architecture of the checkpoint that has these tensors; its U-Net suffices, text encoders may lack.

    SDXL's U-Net has three levels (nine input blocks) and `label_emb`; SD1.5's has four (twelve) and none. Two other
    families have four as well: the SDXL refiner, with `label_emb`, and SD2, whose attention is entered by a linear
    layer (rank 2) where SD1.5 has a convolution (rank 4). Widths do not matter.

    Args:
        shapes: key in the single-file layout -> shape.

    Raises:
        UnknownArchitectureError: no U-Net, or another family's; the message names it where known.
    """
    keys = tuple(shapes)
    heads = {key.removeprefix(_UNET_PREFIX).split(".")[0] for key in keys if key.startswith(_UNET_PREFIX)}
    if "input_blocks" not in heads or _is_known_mistake(keys):
        raise UnknownArchitectureError(_expected(_description(keys)))
    by_text = _by_text_encoder(keys)
    by_unet = _by_unet(shapes, has_labels="label_emb" in heads)
    found = by_unet or by_text
    if found is None:
        raise UnknownArchitectureError(_expected(_description(keys)))
    if by_text not in {None, found}:
        raise UnknownArchitectureError(_expected(f"a U-Net of {found} with the text encoder of {by_text}"))
    return found


def _by_text_encoder(keys: tuple[str, ...]) -> Architecture | None:
    for architecture, prefixes in _TEXT_ENCODERS.items():
        if all(any(key.startswith(prefix) for key in keys) for prefix in prefixes):
            return architecture
    return None


def _by_unet(shapes: Mapping[str, Shape], *, has_labels: bool) -> Architecture | None:
    """None where the tensors do not suffice; raises for a family that is known and not ours."""
    depth = 1 + max(_input_block(key) for key in shapes)
    if depth == _ANATOMIES[Architecture.SDXL].depth and has_labels:
        return Architecture.SDXL
    if depth != _ANATOMIES[Architecture.SD15].depth:
        return None
    if has_labels:
        raise UnknownArchitectureError(_expected("an SDXL refiner: give the SDXL base checkpoint"))
    entrances = {len(shape) for key, shape in shapes.items() if _ENTRANCE.fullmatch(key)}
    if entrances == {2}:
        raise UnknownArchitectureError(_expected("an SD2 checkpoint: only SD1.5 and SDXL are supported"))
    return Architecture.SD15 if entrances == {4} else None


_ENTRANCE: Final = re.compile(re.escape(_UNET_PREFIX) + r"(?:input_blocks|output_blocks)\.\d+\.1\.proj_in\.weight")


def _input_block(key: str) -> int:
    """Number of an input block's key, -1 for every other key."""
    numbered = _NUMBERED_BLOCK.match(key.removeprefix(_UNET_PREFIX)) if key.startswith(_UNET_PREFIX) else None
    return int(numbered[2]) if numbered is not None and numbered[1] == "input" else -1


def _is_known_mistake(keys: tuple[str, ...]) -> bool:
    """Whether the text encoder or the blocks say that this is another family, whatever the U-Net looks like."""
    return any(re.search(pattern, key) for pattern, *_ in _OTHER_FAMILIES for key in keys)


def _expected(got: str) -> str:
    return f"expected a complete SD1.5 or SDXL checkpoint or its U-Net, got {got}"


def _description(keys: tuple[str, ...]) -> str:
    """Say what the keys are instead, and what to do."""
    for pattern, what, advice in _NO_CHECKPOINT_OF_OURS:
        if any(re.search(pattern, key) for key in keys):
            return f"{what}: {advice}"
    if not keys:
        return "no tensors at all: the file is empty or was not written to its end"
    first = ", ".join(repr(key) for key in keys[:3])
    return f"unknown tensors ({first}): give a single-file checkpoint"
