"""How a study is searched: the probes, the sampler, racing, and when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from basics.settings import FrozenSettings
from scorers.config import SpecPath
from search_spaces.block_presets import block_preset

SamplerName = Literal["depth", "gp", "tpe", "cmaes", "nsgaii", "qmc", "random"]
EXPECTING: tuple[SamplerName, ...] = ("depth",)  # samplers that say how much they expect of a trial
Finite = Annotated[float, Field(allow_inf_nan=False)]


class SamplerSettings(FrozenSettings):
    """Who proposes the trials after the probes."""

    name: SamplerName = "depth"
    seed: int = Field(default=0, ge=0, lt=2**31)
    options: Mapping[str, Any] = Field(default_factory=dict)  # handed to the sampler's constructor


class RecipeProbe(FrozenSettings):
    """A recipe file whose merge is tried. Written short as its path."""

    path: SpecPath
    recipe: str | None = None  # as it was when the study began, over the study's parents; the file is not read again

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, (str, Path)) else value


class ProbeSettings(FrozenSettings):
    """Trials chosen by us before the sampler takes over; parents always come first."""

    uniform: tuple[Finite, ...] = (0.25, 0.5, 0.75)
    recipes: tuple[RecipeProbe, ...] = ()
    presets: tuple[str, ...] = ()  # block weights by name
    profiles: int = Field(default=6, ge=0, le=64)  # smooth depth profiles

    @field_validator("presets")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            block_preset(name)
        return value


class RacingSettings(FrozenSettings):
    """Trials that surely fall behind the best so far are not rendered to their end."""

    batch: int = Field(default=16, ge=4)  # images between two looks: fewer say nothing about their own spread
    confidence: float = Field(default=0.99, ge=0.5, lt=1)  # that a trial as good as the best is rendered to its end


class BudgetSettings(FrozenSettings):
    """A study ends when the first of these is spent; a trial that has begun is finished."""

    trials: int = Field(default=100, ge=1, le=1_000_000)  # probes included
    images: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # of work, summed over all workers
    patience: int | None = Field(default=None, ge=1)  # proposed trials that together promise less than the noise
