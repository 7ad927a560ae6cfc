"""Names a user writes in a search space -> places."""

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
    """Return the places a pattern names, at least one, in the order of `places`.

    A pattern is a collective name (IN, MID, OUT, unet), or a shell pattern over the names of places
    (`IN0[0-3]`, `text_encoder*`), case sensitive. `setting` is where the pattern stood, for the message.

    Raises:
        UnmatchedPatternError: nothing matches; the message names the closest known name.
    """
    collectives = collective_names(architecture)
    if pattern in collectives:
        return collectives[pattern]
    every_place = places(architecture)
    matched = tuple(place for place in every_place if fnmatchcase(place, pattern))
    if not matched:
        raise UnmatchedPatternError(
            f"{setting}: {pattern!r} matches nothing in {architecture}: "
            f"{unknown_name(pattern, (*collectives, *every_place))}",
        )
    return matched
