"""Patterns: the names of places that a user writes in the settings of a search space."""

from __future__ import annotations

from fnmatch import fnmatchcase

from basics.messages import unknown_name
from search_spaces.blocks import UNET, Architecture, blocks, places
from search_spaces.errors import UnmatchedPatternError
from search_spaces.families.registry import family_of


def collective_names(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Return the names that stand for several blocks: each section, and `unet` for all."""
    return {**family_of(architecture).sections, UNET: blocks(architecture)}


def matching_places(pattern: str, architecture: Architecture, setting: str) -> tuple[str, ...]:
    """Return the places that a pattern matches, at least one, in the order of `places`.

    A pattern is a collective name (IN, MID, OUT, unet) or a shell pattern over the names of places (`IN0[0-3]`,
    `text_encoder*`). It is case sensitive.

    Args:
        setting: where the pattern is written, for the message.

    Raises:
        UnmatchedPatternError: it matches no place; the message has the closest known name.
    """
    collectives = collective_names(architecture)
    if pattern in collectives:
        return collectives[pattern]
    all_places = places(architecture)
    matched = tuple(place for place in all_places if fnmatchcase(place, pattern))
    if not matched:
        raise UnmatchedPatternError(
            f"{setting}: {pattern!r} matches nothing in {architecture}: "
            f"{unknown_name(pattern, (*collectives, *all_places))}",
        )
    return matched
