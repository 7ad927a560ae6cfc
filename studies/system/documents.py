"""YAML and JSON that people write, read strictly: no code, no key given twice, one line for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from studies.errors import StudyError


class _Loader(yaml.SafeLoader):
    """YAML without code, without a key that silently replaces an earlier one, and without a value inside itself."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.deep_construct = True  # builds values from the inside out, so that a recursive alias is refused

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str):
            _require_text(value)
        return value


def read_text(path: Path, what: str, kind: str, error: type[StudyError]) -> str:
    """A text file's content.

    Args:
        what: the file is, for messages: "spec".
        kind: of file it should be: "a study's YAML file".
        error: raised when it is missing, unreadable or no text.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe blocks, a device may never end
        raise error(f"{path} is no regular file: a {what} is a YAML text file")
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors put a mark before the first letter
    except FileNotFoundError:
        raise error(f"no {what} at {path}: give the path of {kind}") from None
    except (OSError, UnicodeDecodeError) as reason:
        raise error(f"{path} cannot be read ({reason}): a {what} is a YAML text file") from reason


def parse_yaml(text: str, origin: str, error: type[StudyError]) -> Any:
    """What YAML text holds; `error` for text that is not YAML, or gives a key twice."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as reason:
        where = getattr(reason, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise error(f"{origin} is not valid YAML{line}: {getattr(reason, 'problem', reason)}") from reason
    except (ValueError, RecursionError) as reason:  # a date that does not exist, a thousand brackets
        raise error(f"{origin} is not valid YAML: {reason}") from reason


def parse_json(text: str, origin: str, error: type[StudyError]) -> Any:
    """What JSON text holds; `error` for text that is not JSON, or gives a key twice.

    A reader of its own: YAML takes the `1e-5` that JSON writers print for a word.
    """
    try:
        data = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse)
        _require_text(json.dumps(data, ensure_ascii=False))
        return data
    except (ValueError, RecursionError) as reason:
        raise error(f"{origin} is not valid JSON: {reason}") from reason


def _require_text(value: str) -> None:
    """ValueError for half a character: an escape can write it, no file or database can hold it."""
    value.encode()


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} is given twice")
        found[key] = value
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
