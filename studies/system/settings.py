"""The base of everything that a spec or a recipe file holds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FrozenSettings(BaseModel):
    """Settings that cannot change; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
