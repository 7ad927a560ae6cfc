"""Where a trial's recipe comes from: typed here, stored as the text that people read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

Kind = Literal["parent", "uniform", "recipe", "preset", "warm start", "profile", "sampler"]

_PREFIXES: dict[str, Kind] = {
    "parent ": "parent",
    "uniform ": "uniform",
    "recipe ": "recipe",
    "preset ": "preset",
    "from ": "warm start",
    "profile ": "profile",
}  # every other text is a sampler's name
_BY_KIND: dict[Kind, str] = {kind: prefix for prefix, kind in _PREFIXES.items()} | {"sampler": ""}


@dataclass(frozen=True, slots=True)
class Origin:
    """A parent alone, another probe, or a sampler's proposal. `str` gives the text: `parent A`, `uniform 0.5`, `gp`."""

    kind: Kind
    name: str  # of a parent its letter, of a warm start "STUDY trial 12", else as the spec names it

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a stored text. Any text is an origin, and `str` gives it back."""
        for prefix, kind in _PREFIXES.items():
            if text.startswith(prefix):
                return cls(kind, text.removeprefix(prefix))
        return cls("sampler", text)

    @property
    def parent(self) -> str | None:
        """The letter of the parent that the trial is; None for every other trial."""
        return self.name if self.kind == "parent" else None

    def named(self, number: int) -> str:
        """Return what a trial of this origin is called: `parent A`, `uniform 0.5`, `search 17`.

        Args:
            number: the trial's.
        """
        return f"search {number}" if self.kind == "sampler" else str(self)

    def __str__(self) -> str:
        return _BY_KIND[self.kind] + self.name
