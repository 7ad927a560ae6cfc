"""What a user writes about the search space. What it means is worked out by `SearchSpace.build`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from basics.settings import FrozenSettings

Granularity = Literal["uniform", "sections", "blocks", "auto"]


class SlotSettings(FrozenSettings):
    """A method's parameter or a LoRA's weight: a number that is held, or bounds to search.

    Written short as `0.3` or `[0.1, 0.9]`, or in full as `{bounds: [0.1, 0.9], granularity: blocks}`.
    """

    value: float | None = Field(default=None, allow_inf_nan=False, description="held at this")
    bounds: tuple[float, float] | None = Field(default=None, description="searched from low to high")
    granularity: Literal["one", "uniform", "sections", "blocks", "auto"] = Field(
        default="one", description="one number for everything, or as the space's own granularity"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, given: Any) -> Any:
        if isinstance(given, (Mapping, cls)):
            return given
        return {"bounds": given} if isinstance(given, (list, tuple)) else {"value": given}

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.value is None) == (self.bounds is None):
            msg = "give either a number to hold or two bounds [low, high] to search"
            raise ValueError(msg)
        return self


class SpaceSettings(FrozenSettings):
    """Which ratios are searched, and where. A pattern is what `matching_places` understands; with a dot
    and a slot's name behind it (`IN*.B`) it means that slot only.

    Serialises to what was written and nothing else, so that a preset still gives the rest after a round trip.
    """

    preset: str | None = Field(default=None, description="named settings to start from; see `preset_names`")
    granularity: Granularity = Field(
        default="blocks",
        description="one ratio for the whole U-Net (uniform), for each section, or for each block; "
        "auto: for each block, tied by section until the sampler finds that it pays to split one",
    )
    bounds: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="pattern -> (low, high), the method's own where none is given; a later pattern wins",
    )
    frozen: dict[str, float] = Field(
        default_factory=dict,
        description="pattern -> the ratio these places keep, in every ratio slot; a later pattern wins",
    )
    groups: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="parameter name -> patterns of the places that share it",
    )
    parameters: dict[str, SlotSettings] = Field(
        default_factory=dict,
        description="parameter of the method, or LoRA -> the number it is held at, or the bounds it is searched in",
    )
    merge_vae: bool = Field(default=False, description="search the VAE's ratio too; else the VAE stays A's")

    @property
    def begins_coarse(self) -> bool:
        """Whether a search goes from sections to blocks, in the ratios or in another number."""
        return "auto" in {self.granularity, *(chosen.granularity for chosen in self.parameters.values())}

    @model_serializer(mode="wrap")
    def _as_written(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialise(self).items() if name in self.model_fields_set}

    def over(self, base: Self) -> Self:
        """Return `base` with everything that was written here on top.

        A single value replaces the base's. A mapping is joined entry by entry, and its own entries come
        last, where they win: `frozen: {OUT11: 0}` over a preset adds to what the preset freezes.
        """
        joined = base.model_dump()
        for name, value in self.model_dump().items():
            joined[name] = _joined(joined.get(name, {}), value) if isinstance(value, dict) else value
        return type(self).model_validate(joined)


def _joined(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Join two mappings; a key in both moves to the end, because the order decides which pattern wins."""
    return {**{key: value for key, value in base.items() if key not in over}, **over}
