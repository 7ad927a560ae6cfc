"""Settings of a warm start: the study whose trials a new one begins with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from basics.settings import FrozenSettings
from scorers.config import absolute_path
from studies.errors import DatabaseError
from studies.system.database_url import database_file, sqlite_url


class NamedRecipe(FrozenSettings):
    """A trial of another study."""

    name: str
    recipe: str  # a Recipe's JSON


def _checked_storage(text: str, info: ValidationInfo) -> str:
    """Return a database's URL; a plain path or the file of a SQLite URL is relative to the spec."""
    try:
        file = database_file(text) if "://" in text else Path(text)
        return text if file is None else sqlite_url(absolute_path(file, info))
    except DatabaseError as error:
        raise ValueError(str(error)) from error


def _checked_artifacts(text: str, info: ValidationInfo) -> str:
    """Return `s3://bucket/prefix` as it is; make a folder, which is relative to the spec, absolute."""
    return text if text.startswith("s3://") else str(absolute_path(Path(text), info))


class WarmStartSettings(FrozenSettings):
    """Another study of the same parents, whose finished trials this one begins with. Its short form is its name."""

    study: str = Field(min_length=1)
    storage: Annotated[str, AfterValidator(_checked_storage)] | None = None  # None: the database of this study
    artifacts: Annotated[str, AfterValidator(_checked_artifacts)] | None = None  # None: the default of `storage`
    top: int | None = Field(default=None, ge=1)  # None: all trials that keep their scores, and the best 10 of the rest
    again: tuple[NamedRecipe, ...] = ()  # stored when the study begins: trials to run again

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return value if isinstance(value, (Mapping, cls)) else {"study": value}
