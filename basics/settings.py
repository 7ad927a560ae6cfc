"""The base of all settings, and pydantic's validation errors as one line that a user can act on."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from basics.messages import first_of, nearest


class FrozenSettings(BaseModel):
    """Immutable settings that refuse unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Explain the most relevant finding, and say how many more there are.

    A misspelt key comes before the finding that the right key is missing, because it is the cause.
    """
    return first_of(explain_all(error, model))


def explain_all(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Explain every finding, misspelt keys first."""
    findings = sorted(error.errors(include_url=False), key=lambda finding: finding["type"] != "extra_forbidden")
    return [_explain_one(finding, model) for finding in findings]


def _explain_one(finding: ErrorDetails, model: type[BaseModel]) -> str:
    where = ".".join(map(str, finding["loc"]))
    if finding["type"] == "extra_forbidden":
        return _unknown_key(str(finding["loc"][-1]), where, _fields_at(model, finding["loc"][:-1]))
    if finding["type"] == "missing":
        return f"`{where}` is missing"
    message = _plain(finding["msg"].removeprefix("Value error, "))
    if not where:
        return message
    value = finding["input"]
    got = f", got {value!r}" if isinstance(value, (str, int, float, bool, type(None))) else ""
    return f"`{where}`: {message[0].lower()}{message[1:]}{got}"


def _plain(message: str) -> str:
    """Replace Python types in a message of pydantic by the words of a spec: lists and mappings."""
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping (`key: value`)", message)
    message = re.sub(r"a valid (tuple|list)", "a list", message)
    message = message.replace(" for <class 'pathlib.Path'>", "")
    return message.replace("tuple should have", "list should have").replace("Tuple should have", "list should have")


def _unknown_key(key: str, where: str, known: list[str]) -> str:
    similar = nearest(key, known)
    hint = f"did you mean `{similar[0]}`?" if similar else f"known here: {', '.join(known) or 'none'}"
    return f"unknown key `{where}`: {hint}"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """List the settings that a spec may have at this path."""
    annotation: Any = model
    for step in path:
        annotation = _inner(annotation, step)
    settings = _model_in(annotation)
    return sorted(settings.model_fields) if settings is not None else []


def _inner(annotation: Any, step: int | str) -> Any:
    """Return the annotation of a field of a model, or of the values of a mapping or list."""
    settings = _model_in(annotation)
    if settings is not None and step in settings.model_fields:
        return settings.model_fields[str(step)].annotation
    arguments = [part for part in _parts(annotation) if typing.get_origin(part) in {dict, tuple, list, Mapping}]
    return typing.get_args(arguments[0])[1 if isinstance(step, str) else 0] if arguments else None


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or else the annotation itself."""
    union = typing.get_origin(annotation) in {typing.Union, types.UnionType}
    return typing.get_args(annotation) if union else (annotation,)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first model in an annotation; None if there is none."""
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None
