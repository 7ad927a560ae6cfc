"""The families of models by name, as far as files and running models go."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from optimizer.families.family import ModelFamily
from search_spaces.families.registry import Architecture


@cache
def model_family(architecture: Architecture) -> ModelFamily:
    """Return the family of an architecture, from the module in this folder that has the architecture's stored name."""
    family: ModelFamily = import_module(f"optimizer.families.{architecture}").FAMILY
    return family


def model_families() -> tuple[ModelFamily, ...]:
    """Return all families."""
    return tuple(map(model_family, Architecture))
