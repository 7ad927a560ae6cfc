"""The community's block-weight strings -> ratios.

A string is the numbers a person would type into a merge extension: `BASE,IN00,..,M00,OUT00,..` with or
without BASE. 0 is A and 1 is B, as in this project.
"""

from __future__ import annotations

import math

from search_spaces.blocks import VAE, Architecture, blocks, text_encoders
from search_spaces.errors import BlockWeightsError


def parse_block_weights(text: str, architecture: Architecture) -> dict[str, float]:
    """Return the ratio of every place, in the order of `places`.

    Takes 26 numbers for SD1.5 and 20 for SDXL. One fewer means that BASE was left out: the text encoders
    then stay at 0. A string of SD1.5 (26 or 25) is accepted for SDXL and loses the blocks SDXL lacks.
    BASE goes to every text encoder. Some tools apply it to the VAE as well; here the VAE is 0, because a VAE
    is merged on purpose only (`merge_vae`).

    Raises:
        BlockWeightsError: another count, or something that is not a finite number.
    """
    numbers = [_number(item, position) for position, item in enumerate(text.split(","), start=1)]
    base, weights = _base_and_blocks(numbers, architecture)
    return {
        **dict.fromkeys(text_encoders(architecture), base),
        **dict(zip(blocks(architecture), weights, strict=True)),
        VAE: 0.0,
    }


def _number(item: str, position: int) -> float:
    try:
        number = float(item)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BlockWeightsError(
            f"block weights: expected finite numbers separated by commas, got {item.strip()!r} as number {position}",
        )
    return number


def _base_and_blocks(numbers: list[float], architecture: Architecture) -> tuple[float, list[float]]:
    """Split off BASE (0 where it was left out) and return one weight per block of the architecture."""
    own, sd15 = len(blocks(architecture)), len(blocks(Architecture.SD15))
    count = len(numbers)
    if count in (own, own + 1):
        return (numbers[0] if count > own else 0.0), numbers[-own:]
    if architecture is Architecture.SDXL and count in (sd15, sd15 + 1):
        return (numbers[0] if count > sd15 else 0.0), _sd15_on_sdxl(numbers[-sd15:])
    also = f", or an SD1.5 string of {sd15 + 1} or {sd15}" if architecture is Architecture.SDXL else ""
    raise BlockWeightsError(
        f"block weights: expected {own + 1} numbers for {architecture} (BASE, IN.., M00, OUT..) "
        f"or {own} without BASE{also}; got {count}",
    )


def _sd15_on_sdxl(weights: list[float]) -> list[float]:
    """Keep IN00..IN08, M00 and OUT00..OUT08 of the 25 weights of SD1.5, as merge extensions do."""
    return weights[:9] + weights[12:22]
