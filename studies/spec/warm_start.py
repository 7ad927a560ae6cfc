"""The study whose trials a new one begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from basics.settings import FrozenSettings
from scorers.config import absolute_path
from studies.errors import DatabaseError
from studies.system.database_url import database_file, sqlite_url


class NamedRecipe(FrozenSettings):
    """A merge that was found elsewhere."""

    name: str
    recipe: str  # Recipe's JSON


def _checked_storage(text: str, info: ValidationInfo) -> str:
    """Return a database's URL; a file, also that of a SQLite URL, is relative to the spec."""
    try:
        file = database_file(text) if "://" in text else Path(text)
        return text if file is None else sqlite_url(absolute_path(file, info))
    except DatabaseError as error:
        raise ValueError(str(error)) from error


def _checked_place(text: str, info: ValidationInfo) -> str:
    """`s3://bucket/prefix`, or a folder relative to the spec."""
    return text if text.startswith("s3://") else str(absolute_path(Path(text), info))


class WarmStartSettings(FrozenSettings):
    """Another study over the same parents, whose finished trials this one begins with. Written short as its name."""

    study: str = Field(min_length=1)
    storage: Annotated[str, AfterValidator(_checked_storage)] | None = None  # None: the database of this study
    artifacts: Annotated[str, AfterValidator(_checked_place)] | None = None  # None: what belongs to `storage`
    top: int | None = Field(default=None, ge=1)  # None: all that keep their scores, the best 10 of those that do not
    again: tuple[NamedRecipe, ...] = ()  # found when the study began: merges whose scores do not hold here

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"study": value} if isinstance(value, str) else value
