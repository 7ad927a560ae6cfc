"""The total map from a tensor's key to the one place that decides its ratio.

A *place* is what has one ratio: a U-Net block (IN00.., M00, OUT00..) or a component (text_encoder,
text_encoder_2, vae). Two more places have none: OTHER is kept from parent A, EMA is dropped by exports.
Keys are those of the single-file (LDM) layout.
"""

import re
from collections.abc import Iterable
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


# What a complete checkpoint has. SD1.5 is told from SD2 by its text encoder, SDXL from its refiner by the
# second one.
_COMPLETE: Final = {
    Architecture.SD15: ("model.diffusion_model.input_blocks.", "cond_stage_model.transformer."),
    Architecture.SDXL: (
        "model.diffusion_model.input_blocks.",
        "conditioner.embedders.0.",
        "conditioner.embedders.1.",
    ),
}

# What people hand over by mistake: (pattern found in any key, what it is, what to do), most specific first.
_NO_CHECKPOINT_OF_OURS: Final = (
    (
        r"(?i)(^|[._])lora[._]",
        "a LoRA",
        "bake it into a checkpoint first and merge that",
    ),
    (r"joint_blocks\.", "an SD3 model", "only SD1.5 and SDXL are supported"),
    (r"double_blocks\.", "a Flux model", "only SD1.5 and SDXL are supported"),
    (r"^cond_stage_model\.model\.", "an SD2 checkpoint", "only SD1.5 and SDXL are supported"),
    (
        r"^conditioner\.embedders\.0\.model\.",
        "an SDXL refiner",
        "give the SDXL base checkpoint",
    ),
    (
        r"^(unet\.)?(down_blocks|up_blocks)\.",
        "a bare U-Net in diffusers naming",
        "convert the whole pipeline to a single-file checkpoint",
    ),
    (
        r"^(model\.diffusion_model\.)?(input_blocks|output_blocks)\.",
        "a U-Net without its text encoder",
        "save it into a complete checkpoint first",
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


def architecture_of(keys: Iterable[str]) -> Architecture:
    """Return the architecture of the complete checkpoint that has these keys.

    Raises:
        UnknownArchitectureError: the keys are those of something else; the message names it where known.
    """
    known = tuple(keys)
    for architecture, prefixes in _COMPLETE.items():
        if all(any(key.startswith(prefix) for key in known) for prefix in prefixes):
            return architecture
    raise UnknownArchitectureError(f"expected a complete SD1.5 or SDXL checkpoint, got {_description(known)}")


def _description(keys: tuple[str, ...]) -> str:
    """Say what the keys are instead, and what to do."""
    for pattern, what, advice in _NO_CHECKPOINT_OF_OURS:
        if any(re.search(pattern, key) for key in keys):
            return f"{what}: {advice}"
    if not keys:
        return "no tensors at all: the file is empty or was not written to its end"
    first = ", ".join(repr(key) for key in keys[:3])
    return f"unknown tensors ({first}): give a single-file checkpoint"
