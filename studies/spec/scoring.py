"""A study's scorers, and the objective that the search makes of their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, model_serializer, model_validator

from basics.settings import FrozenSettings
from scorers.errors import ScorerError
from scorers.protocol import ScorerInfo
from scorers.registry import get_kind, parse_settings, references


class ScorerEntry(FrozenSettings):
    """One scorer of a study. Written flat: `name: {kind: KIND, option: ...}`; the kind is the name if left out."""

    kind: str
    options: Mapping[str, Any]  # checked by the scorer's own settings class; paths absolute

    @model_validator(mode="before")
    @classmethod
    def _from_flat(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        options = {key: option for key, option in value.items() if key != "kind"}
        base_dir = (info.context or {}).get("base_dir", Path("/"))
        try:
            settings = parse_settings(str(value["kind"]), options, base_dir)
        except ScorerError as error:
            raise ValueError(str(error)) from error
        return {"kind": value["kind"], "options": settings.model_dump(mode="json", exclude_unset=True)}

    @property
    def info(self) -> ScorerInfo:
        """What the scorer measures; its label names the network or the measure if the user has chosen one."""
        info = get_kind(self.kind).info
        network = self.options.get("network") or self.options.get("by")
        return replace(info, label=f"{info.label}({network})") if network else info

    @property
    def references(self) -> tuple[str, ...]:
        """The models whose renders of the same items it compares with: letters of parents, or absolute paths."""
        return references(self.kind, parse_settings(self.kind, self.options, Path("/")))

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.options}


def with_kind(name: str, options: Any) -> Any:
    """Return a scorer's options with its kind, by default the scorer's name; wrong types are refused later."""
    if options is None:
        return {"kind": name}
    return {"kind": name, **options} if isinstance(options, Mapping) else options


class ObjectiveTerm(FrozenSettings):
    """A term of a single-number objective: weight * score / unit, negative for a score to minimise."""

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    unit: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # None: the scorer's own
