"""Parsing of the community's block-weight strings into ratios, and writing of them.

A string holds the numbers that a person would type into a merge extension: `BASE,IN00,..,M00,OUT00,..`, with or without
BASE. 0 is A and 1 is B, as in this project.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from basics.percent import from_percent
from search_spaces.blocks import VAE, Architecture, blocks, place_label, text_encoders
from search_spaces.errors import BlockWeightsError
from search_spaces.families.registry import family_of


def parse_block_weights(text: str, architecture: Architecture) -> dict[str, float]:
    """Return the ratio of every place, in the order of `places`.

    A string has BASE and one number for each block: 26 numbers for SD1.5 and 20 for SDXL. With one fewer, BASE is
    missing and the text encoders are 0. For SDXL, a string of SD1.5 (26 or 25 numbers) is accepted as well, without the
    blocks that SDXL does not have. BASE applies to every text encoder. Some tools apply it to the VAE, too. Here the
    VAE is 0, because it is merged only on request (`merge_vae`).

    Raises:
        BlockWeightsError: the string has another number of values, or one that is not a finite number.
    """
    numbers = [_number(item, position) for position, item in enumerate(text.split(","), start=1)]
    base, weights = _base_and_blocks(numbers, architecture)
    return {
        **dict.fromkeys(text_encoders(architecture), base),
        **dict(zip(blocks(architecture), weights, strict=True)),
        VAE: 0.0,
    }


def format_block_weights(ratios: Mapping[str, float], architecture: Architecture) -> str:
    """Return ratios as a string with BASE: `parse_block_weights` gives them back, the VAE's apart.

    Args:
        ratios: of every place. The VAE's is left out, for strings have none.

    Raises:
        BlockWeightsError: the text encoders differ, and a string has one number for all of them.
    """
    base = {ratios[encoder] for encoder in text_encoders(architecture)}
    if len(base) > 1:
        told = " and ".join(
            f"{ratios[encoder]:g} for {place_label(encoder, architecture)}" for encoder in text_encoders(architecture)
        )
        raise BlockWeightsError(f"block weights have one number, BASE, for all text encoders; the merge has {told}")
    numbers = (*base, *(ratios[block] for block in blocks(architecture)))
    return ",".join(repr(number).removesuffix(".0") for number in numbers)


def _number(item: str, position: int) -> float:
    try:
        number = float(from_percent(item))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BlockWeightsError(
            f"block weights: expected finite numbers separated by commas, got {item.strip()!r} as number {position}",
        )
    return number


def leaves_out_base(text: str, architecture: Architecture) -> bool:
    """Return whether a valid block-weight string has numbers for blocks only."""
    borrowed = family_of(architecture).borrowed_weights
    counts = {len(blocks(architecture)), *(() if borrowed is None else (borrowed.blocks,))}
    return len(text.split(",")) in counts


def _base_and_blocks(numbers: list[float], architecture: Architecture) -> tuple[float, list[float]]:
    """Split off BASE (0 if it is missing) and return one weight for each block of the architecture.

    Raises:
        BlockWeightsError: the architecture does not take this number of values.
    """
    own, borrowed = len(blocks(architecture)), family_of(architecture).borrowed_weights
    count = len(numbers)
    if count in (own, own + 1):
        return (numbers[0] if count > own else 0.0), numbers[-own:]
    alternative = ""
    if borrowed is not None:
        if count in (borrowed.blocks, borrowed.blocks + 1):
            weights = numbers[-borrowed.blocks :]
            return (numbers[0] if count > borrowed.blocks else 0.0), [weights[index] for index in borrowed.taken]
        alternative = f", or an {borrowed.title} string of {borrowed.blocks + 1} or {borrowed.blocks}"
    sections = family_of(architecture).sections.items()
    order = ", ".join(members[0] if len(members) == 1 else f"{section}.." for section, members in sections)
    raise BlockWeightsError(
        f"block weights: expected {own + 1} numbers for {architecture} (BASE, {order}) "
        f"or {own} without BASE{alternative}; got {count}",
    )
