"""The base of all settings, and pydantic's validation errors as one line that a user can act on."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from basics.messages import first_of, nearest
from basics.percent import from_percent

Share = Annotated[float, BeforeValidator(from_percent)]  # a ratio, a LoRA's weight or a bound, also in percent


class FrozenSettings(BaseModel):
    """Immutable settings that refuse unknown keys.

    Attributes:
        OTHER_WORDS: what people and other programs call settings, in lower case without signs -> the setting's name, or
            what to do instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    OTHER_WORDS: ClassVar[Mapping[str, str]] = {}


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
        return f"unknown key `{where}`: {_advice(str(finding['loc'][-1]), _settings_at(model, finding['loc'][:-1]))}"
    if finding["type"] == "missing":
        return f"`{where}` is missing{_wanted(model, finding['loc'])}"
    message = _plain(finding["msg"].removeprefix("Value error, "))
    if not where:
        return message
    value = finding["input"]
    plain = isinstance(value, (str, int, float, bool, type(None)))
    got = f", got {value!r}" if plain and (not isinstance(value, str) or repr(value) not in message) else ""
    return f"`{where}`: {message[0].lower()}{message[1:]}{got}{_as_share(value)}"


def _wanted(model: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """Return what a missing setting must be, where its field has a description."""
    settings = _settings_at(model, path[:-1])
    field = None if settings is None else settings.model_fields.get(str(path[-1]))
    return f": give {field.description}" if field is not None and field.description else ""


def _as_share(value: Any) -> str:
    """Return the advice to write a number without a percent sign; empty for anything else."""
    number = from_percent(value)
    return "" if number is value else f": a share is written without %, {value.strip()} is {number:g}"


def _plain(message: str) -> str:
    """Replace Python types in a message of pydantic by the words of a spec: lists and mappings."""
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping (`key: value`)", message)
    message = re.sub(r"a valid (tuple|list)", "a list", message)
    message = message.replace(" for <class 'pathlib.Path'>", "")
    return message.replace("tuple should have", "list should have").replace("Tuple should have", "list should have")


def _advice(key: str, settings: type[BaseModel] | None) -> str:
    """Return what to write instead of an unknown key.

    Args:
        settings: those in which it stands; None if they have no keys of their own.
    """
    if settings is None:
        return "known here: none"
    meant = _meant(key, settings)
    if meant is not None:
        return f"did you mean `{meant}`?" if meant.isidentifier() else meant
    for name, field in settings.model_fields.items():
        inner = _model_in(field.annotation)
        below = None if inner is None else _meant(key, inner)
        if below is not None:
            return f"`{below}` stands under `{name}`" if below.isidentifier() else f"under `{name}`, {below}"
    similar = nearest(key, settings.model_fields)
    return (
        f"did you mean `{similar[0]}`?"
        if similar
        else f"known here: {', '.join(sorted(settings.model_fields)) or 'none'}"
    )


def _meant(key: str, settings: type[BaseModel]) -> str | None:
    """Return the setting that a word means, or what to do instead; None for a word that is not known.

    A setting is known whatever its capitals and signs.
    """
    named = {_letters(name): name for name in settings.model_fields}
    words = settings.OTHER_WORDS if issubclass(settings, FrozenSettings) else {}
    return named.get(_letters(key)) or words.get(_letters(key))


def _letters(key: str) -> str:
    return "".join(each for each in key.casefold() if each.isalnum())


def _settings_at(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the settings that a spec has at this path; None where it has other values."""
    annotation: Any = model
    for step in path:
        annotation = _inner(annotation, step)
    return _model_in(annotation)


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
