"""What a user writes about the search space. What it means is worked out by `SearchSpace.build`."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Granularity = Literal["uniform", "sections", "blocks"]


class SpaceSettings(BaseModel):
    """Which ratios are searched, and where. A pattern is what `matching_places` understands.

    Serialises to what was written and nothing else, so that a preset still gives the rest after a round trip.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str | None = Field(default=None, description="named settings to start from; see `preset_names`")
    granularity: Granularity = Field(
        default="blocks",
        description="one ratio for the whole U-Net (uniform), for each section, or for each block",
    )
    bounds: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="pattern -> (low, high), (0, 1) where none is given; a later pattern wins",
    )
    frozen: dict[str, float] = Field(
        default_factory=dict,
        description="pattern -> the ratio these places keep, in every slot; a later pattern wins",
    )
    groups: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="parameter name -> patterns of the places that share it",
    )
    merge_vae: bool = Field(default=False, description="search the VAE's ratio too; else the VAE stays A's")

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
