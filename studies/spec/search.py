"""Settings of the search: the probes, the sampler, racing, and when the study ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from basics.settings import FrozenSettings, Share
from scorers.config import SpecPath
from search_spaces.block_presets import block_preset
from search_spaces.slots import beyond_usual
from studies.spec.sampler_names import is_sampler

SamplerName = Literal["depth", "gp", "tpe", "cmaes", "nsgaii", "qmc", "random"]
PREDICTING: tuple[SamplerName, ...] = ("depth",)  # samplers that say how much improvement they expect of a trial
Finite = Annotated[Share, Field(allow_inf_nan=False)]


class SamplerSettings(FrozenSettings):
    """The sampler that proposes the trials after the probes."""

    name: SamplerName = "depth"
    seed: int = Field(default=0, ge=0, lt=2**31)
    options: Mapping[str, Any] = Field(default_factory=dict)  # passed to the sampler's constructor

    @model_validator(mode="before")
    @classmethod
    def _is_no_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            msg = f"it proposes merges and is written as `{{name: depth}}`; {_of_images(value)}"
            raise ValueError(msg)
        return value

    @field_validator("name", mode="before")
    @classmethod
    def _is_no_sampler_of_images(cls, value: Any) -> Any:
        if isinstance(value, str) and is_sampler(value):
            msg = f"it proposes merges, and is one of {', '.join(get_args(SamplerName))}; {_of_images(value)}"
            raise ValueError(msg)
        return value


def _of_images(name: str) -> str:
    """Return where the sampler of images stands."""
    return f"the sampler of images stands under `suite`: `suite: {{sampler: {name[:60]}}}`"


class RecipeProbe(FrozenSettings):
    """A probe from a recipe file. Its short form is the file's path."""

    path: SpecPath
    recipe: str | None = None  # stored when the study begins, over the study's parents; the file is not read again

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return value if isinstance(value, (Mapping, cls)) else {"path": value}


class ProbeSettings(FrozenSettings):
    """The trials that we choose before the sampler takes over; the parents always come first."""

    uniform: tuple[Finite, ...] = (0.25, 0.5, 0.75)
    recipes: tuple[RecipeProbe, ...] = ()
    presets: tuple[str, ...] = ()  # names of block weights
    profiles: int = Field(default=6, ge=0, le=64)  # smooth depth profiles

    @field_validator("presets")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            block_preset(name)
        return value

    @property
    def unusual(self) -> tuple[str, ...]:
        """The ratios that are far outside of what merges use, one line each: see `beyond_usual`."""
        found = [(ratio, beyond_usual("ratio", ratio)) for ratio in self.uniform]
        return tuple(f"uniform {ratio:g} is {why}" for ratio, why in found if why is not None)


USUAL_BATCH = 16
LEAST_BATCH = 4  # fewer images would not show how much they vary


class RacingSettings(FrozenSettings):
    """Settings of racing, which stops a trial once it is almost certainly worse than the best so far."""

    batch: int = Field(default=USUAL_BATCH, ge=LEAST_BATCH)  # images between two checks
    confidence: float = Field(default=0.99, ge=0.5, lt=1)  # that a trial as good as the best renders the full suite
    # sha256 that shuffles the suite before it is divided into stages. None: the suite's own; a study whose suite had
    # another one when it began, in an earlier version, keeps that.
    order: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    def fitted(self, items: int) -> RacingSettings:
        """Return these settings with a batch that fits the suite, if none was written: one check at least.

        Args:
            items: of the suite.
        """
        if "batch" in self.model_fields_set or items > USUAL_BATCH:
            return self
        return self.model_copy(update={"batch": max(LEAST_BATCH, items // 2)})


class BudgetSettings(FrozenSettings):
    """The budget of a study, which ends at the first limit reached; trials in progress are finished."""

    trials: int = Field(default=100, ge=1, le=1_000_000)  # probes included
    images: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # of work, summed over all workers
    patience: int | None = Field(default=None, ge=1)  # proposals whose joint expected improvement is below the noise
