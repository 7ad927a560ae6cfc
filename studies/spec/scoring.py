"""A study's scorers, and the objective that the search makes of their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationInfo, model_serializer, model_validator

from basics.settings import FrozenSettings
from scorers.errors import ScorerError
from scorers.protocol import ScorerInfo
from scorers.registry import get_kind, only_with_loras, parse_settings, references
from studies.spec.suite import group_name
from studies.spec.words import as_list

OF_STUDY: Final = frozenset({"kind", "groups"})  # keys of a scorer that are no options of its kind


class ScorerEntry(FrozenSettings):
    """One scorer of a study. Written flat: `name: {kind: KIND, option: ...}`; the kind is the name if left out."""

    kind: str
    options: Mapping[str, Any]  # checked by the scorer's own settings class; paths absolute
    groups: tuple[str, ...] = ()  # of the prompts that it looks at; without any, it looks at all

    @model_validator(mode="before")
    @classmethod
    def _from_flat(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        options = {key: option for key, option in value.items() if key not in OF_STUDY}
        base_dir = (info.context or {}).get("base_dir", Path("/"))
        try:
            settings = parse_settings(str(value["kind"]), options, base_dir)
        except ScorerError as error:
            raise ValueError(str(error)) from error
        entry = {"kind": value["kind"], "options": settings.model_dump(mode="json", exclude_unset=True)}
        return entry | ({"groups": _groups(value["groups"])} if "groups" in value else {})

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

    @property
    def only_with_loras(self) -> tuple[str, ...] | None:
        """The LoRAs at whose items alone it looks, where an empty tuple means any; None: it looks at all items."""
        return only_with_loras(self.kind, parse_settings(self.kind, self.options, Path("/")))

    @property
    def is_selective(self) -> bool:
        """Whether it looks at some prompts only."""
        return bool(self.groups) or self.only_with_loras is not None

    @property
    def why_no_prompt(self) -> str:
        """Say of a scorer that looks at no prompt what it does look at."""
        if self.groups:
            return f"looks at no prompt (its groups: {', '.join(self.groups)})"
        if self.only_with_loras is None:
            return "is left out of every prompt"
        return f"looks at no prompt (its LoRA: {', '.join(self.only_with_loras) or 'any'})"

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.options} | ({"groups": list(self.groups)} if self.groups else {})


def _groups(value: Any) -> Any:
    """Return the names of groups in the form in which prompts have them; wrong types are refused later.

    Raises:
        ValueError: there is none, or one has no name that can be seen.
    """
    names = as_list(value)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return names
    if not names:
        msg = "`groups` is empty: name the groups of prompts that it looks at, or leave the key out for all prompts"
        raise ValueError(msg)
    return tuple(dict.fromkeys(map(group_name, names)))


def with_kind(name: str, options: Any) -> Any:
    """Return a scorer's options with its kind, by default the scorer's name; wrong types are refused later."""
    if options is None:
        return {"kind": name}
    return {"kind": name, **options} if isinstance(options, Mapping) else options


class ObjectiveTerm(FrozenSettings):
    """A term of a single-number objective: weight * score / unit, negative for a score to minimise."""

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    unit: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # None: the scorer's own
