"""From a family's name to what is known of its files and running models."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from optimizer.families.family import ModelFamily
from search_spaces.families.registry import Architecture


@cache
def model_family(architecture: Architecture) -> ModelFamily:
    """The family's module in this folder, which is called as the family is stored."""
    found: ModelFamily = import_module(f"optimizer.families.{architecture}").FAMILY
    return found


def model_families() -> tuple[ModelFamily, ...]:
    """All of them."""
    return tuple(map(model_family, Architecture))
