"""The base of all settings, and pydantic's findings about them as one line a user can act on."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from basics.messages import nearest


class FrozenSettings(BaseModel):
    """Settings that cannot change; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The most telling finding in words, and how many more there are.

    A misspelt key comes before the complaint that the right one is missing: it is the cause.
    """
    first, *others = explain_all(error, model)
    return f"{first} (and {len(others)} more)" if others else first


def explain_all(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Every finding in words, misspelt keys first."""
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
    got = finding["input"]
    shown = f", got {got!r}" if isinstance(got, (str, int, float, bool, type(None))) else ""
    return f"`{where}`: {message[0].lower()}{message[1:]}{shown}"


def _plain(message: str) -> str:
    """Pydantic speaks of Python types; a spec holds lists and mappings."""
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping (`key: value`)", message)
    message = re.sub(r"a valid (tuple|list)", "a list", message)
    message = message.replace(" for <class 'pathlib.Path'>", "")
    return message.replace("tuple should have", "list should have").replace("Tuple should have", "list should have")


def _unknown_key(key: str, where: str, known: list[str]) -> str:
    meant = nearest(key, known)
    hint = f"did you mean `{meant[0]}`?" if meant else f"known here: {', '.join(known) or 'none'}"
    return f"unknown key `{where}`: {hint}"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the settings that may stand at a place of the spec."""
    here: Any = model
    for step in path:
        here = _inner(here, step)
    here = _model_in(here)
    return sorted(here.model_fields) if here is not None else []


def _inner(annotation: Any, step: int | str) -> Any:
    found = _model_in(annotation)
    if found is not None and step in found.model_fields:
        return found.model_fields[str(step)].annotation
    arguments = [part for part in _parts(annotation) if typing.get_origin(part) in {dict, tuple, list, Mapping}]
    return typing.get_args(arguments[0])[1 if isinstance(step, str) else 0] if arguments else None


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself; typing's generic aliases by their origin."""
    union = typing.get_origin(annotation) in {typing.Union, types.UnionType}
    return typing.get_args(annotation) if union else (annotation,)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None
