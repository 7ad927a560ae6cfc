"""The families of models that can be merged. To add one, see docs/explanation/architecture.md."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from importlib import import_module

from search_spaces.families.family import Family


class Architecture(StrEnum):
    """A family of checkpoints that share keys and shapes, and so can be merged.

    The value is stored in recipes and databases. It is also the name of the family's two modules, in
    search_spaces/families and optimizer/families; each of them defines FAMILY.
    """

    SD15 = "sd15"
    SDXL = "sdxl"


@cache
def family_of(architecture: Architecture) -> Family:
    """Return the part of a family that needs no torch: its blocks, its keys, and its recognition."""
    family: Family = import_module(f"search_spaces.families.{architecture}").FAMILY
    return family


def titles(conjunction: str) -> str:
    """Return the families' names for people: `SD1.5 or SDXL`, and commas between more than two."""
    *others, last = (family_of(architecture).title for architecture in Architecture)
    return f"{', '.join(others)} {conjunction} {last}"
