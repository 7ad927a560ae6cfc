"""The settings of a search space, as a user writes them. `SearchSpace.build` works out what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from basics.percent import from_percent
from basics.settings import FrozenSettings, Share

Granularity = Literal["uniform", "sections", "blocks", "auto"]


class SlotSettings(FrozenSettings):
    """The settings of a method's parameter or of a LoRA's weight: a fixed number, or bounds to search.

    The short form is `0.3`, `30%` or `[0.1, 0.9]`, the full form `{bounds: [0.1, 0.9], granularity: blocks}`.
    """

    value: Share | None = Field(default=None, allow_inf_nan=False, description="fixed at this number")
    bounds: tuple[Share, Share] | None = Field(default=None, description="searched between low and high")
    granularity: Literal["one", "uniform", "sections", "blocks", "auto"] = Field(
        default="one", description="one number for everything, or as in the space's granularity"
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
            msg = "give either a fixed number, or two bounds [low, high] to search"
            raise ValueError(msg)
        return self


class SpaceSettings(FrozenSettings):
    """The settings of a search space: which ratios are searched, and in which bounds.

    Patterns are those of `matching_places`. A dot and the name of a slot after a pattern (`IN*.B`) restrict it to that
    slot. Only fields that were written are serialised, so that a preset still provides the others after a round trip.
    """

    preset: str | None = Field(default=None, description="named settings to start from; see `preset_names`")
    granularity: Granularity = Field(
        default="blocks",
        description="one ratio for the whole U-Net (uniform), for each section, or for each block; "
        "auto: for each block, tied by section until the sampler finds that it pays to split one",
    )
    bounds: dict[str, tuple[Share, Share]] = Field(
        default_factory=dict,
        description="pattern -> (low, high); the default is the method's own; a later pattern wins",
    )
    frozen: dict[str, Share] = Field(
        default_factory=dict,
        description="pattern -> the ratio these places keep, in every ratio slot; a later pattern wins",
    )
    groups: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="parameter name -> patterns of the places that share it",
    )
    parameters: dict[str, SlotSettings] = Field(
        default_factory=dict,
        description="parameter of the method, or LoRA -> its fixed number, or the bounds in which it is searched",
    )
    merge_vae: bool = Field(default=False, description="search the VAE's ratio, too; otherwise the VAE is A's")

    @field_validator("bounds", "frozen", mode="before")
    @classmethod
    def _names_places(cls, given: Any, info: ValidationInfo) -> Any:
        """Refuse numbers without the places that they are for."""
        numbers = given if isinstance(given, (list, tuple)) else [given]
        if not all(isinstance(number, (str, int, float)) for number in numbers) or not numbers:
            return given
        shown = ", ".join(f"{from_percent(number)}" for number in numbers)
        written = f"[{shown}]" if isinstance(given, (list, tuple)) else shown
        msg = f"it names places: write `{info.field_name}: {{'*': {written}}}` for all, or a pattern such as IN*"
        raise ValueError(msg)

    @property
    def begins_coarse(self) -> bool:
        """Whether a search begins with sections and splits them into blocks, in the ratios or in another number."""
        return "auto" in {self.granularity, *(chosen.granularity for chosen in self.parameters.values())}

    @model_serializer(mode="wrap")
    def _as_written(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialise(self).items() if name in self.model_fields_set}

    def over(self, base: Self) -> Self:
        """Return `base`, overridden by everything that is written here.

        A single value replaces the base's. Mappings are joined; entries written here come last, so that they win:
        `frozen: {OUT11: 0}` over a preset adds to what the preset freezes.
        """
        joined = base.model_dump()
        for name, value in self.model_dump().items():
            joined[name] = _joined(joined.get(name, {}), value) if isinstance(value, dict) else value
        return type(self).model_validate(joined)


def _joined(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Join two mappings; a key of both moves to the end, because later patterns win."""
    return {**{key: value for key, value in base.items() if key not in over}, **over}
