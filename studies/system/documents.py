"""Strict readers for YAML and JSON that people write: no code, no repeated key, one-line errors."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml

from basics import foreign
from studies.errors import StudyError
from studies.system.yaml_errors import fault_in

DOCUMENT_BYTES: Final = 1_000_000  # hundreds of times those of a large spec
MOST_VALUES: Final = 100_000  # of a document, each counted as often as aliases repeat it; 30,000 take a second
DEPTH: Final = 50


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses code, repeated keys, values that contain themselves, and more than people write."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._values = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._values, self._depth = self._values + 1, self._depth + 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._depth > DEPTH:
            raise yaml.composer.ComposerError(None, None, f"values are nested more than {DEPTH} deep", mark)
        if self._values > MOST_VALUES:
            raise yaml.composer.ComposerError(None, None, f"it has more than {MOST_VALUES:,} values", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        root: yaml.Node | None = super().get_single_node()
        if root is not None and _count_values(root, {}) > MOST_VALUES:
            problem = f"it has more than {MOST_VALUES:,} values once its aliases (*name) are written out"
            raise yaml.constructor.ConstructorError(None, None, problem, root.start_mark)
        return root

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, yaml.Mark] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                first = seen.setdefault(key.value, key.start_mark)
                if first is not key.start_mark:
                    problem = f"{key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, first, problem, key.start_mark)
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str):
            _require_text(value)
        return value


def read_text(path: Path, what: str, kind: str, error: type[StudyError]) -> str:
    """Return a text file's content.

    Args:
        what: what the file is, for messages: "spec".
        kind: what kind of file it should be, for messages: "a study's YAML file".
        error: the class of the errors.

    Raises:
        StudyError: as `error`: the file is missing, unreadable or not text.
    """
    if path.is_dir():
        raise error(f"{path} is a folder: a {what} is a YAML text file")
    try:
        content = foreign.read_bytes(path, DOCUMENT_BYTES)
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")  # some editors begin with a mark
    except FileNotFoundError:
        raise error(f"no {what} at {path}: give the path of {kind}") from None
    except (OSError, ValueError) as reason:
        raise error(f"{path} cannot be read ({reason}): a {what} is a YAML text file") from reason


def parse_yaml(text: str, origin: str, error: type[StudyError]) -> Any:
    """Parse YAML text.

    Raises:
        StudyError: as `error`: it is not YAML, or a key is given twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as reason:
        fault = fault_in(reason, text)
        if fault is None:
            raise error(f"{origin} is not valid YAML: {' '.join(str(reason).split())}") from reason
        where = f"line {fault.line}, column {fault.column}"
        raise error(f"{origin} is not valid YAML in {where}: {fault.words}") from reason
    except (ValueError, RecursionError) as reason:  # a date that does not exist, a thousand brackets
        raise error(f"{origin} is not valid YAML: {reason}; put a text that looks like a date in quotes") from reason


def yaml_tree(text: str) -> yaml.Node | None:
    """Return what YAML text consists of, with where each part is written; None if it is empty.

    Raises:
        yaml.YAMLError, RecursionError: `parse_yaml` refuses it.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """Return how many values a node has with all within it.

    Args:
        counts: id of a node -> its values; 0 while they are counted.

    Raises:
        yaml.YAMLError: it contains itself.
    """
    if counts.get(id(node)) == 0:
        raise yaml.constructor.ConstructorError(None, None, "a value contains itself", node.start_mark)
    if id(node) not in counts:
        counts[id(node)] = 0
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            inner = [each for pair in node.value for each in pair]
        counts[id(node)] = 1 + sum(_count_values(each, counts) for each in inner)
    return counts[id(node)]


def parse_json(text: str, origin: str, error: type[StudyError]) -> Any:
    """Parse JSON text. The YAML reader will not do: it takes `1e-5`, as JSON writers print numbers, for a text.

    Raises:
        StudyError: as `error`: it is not JSON, or a key is given twice.
    """
    try:
        data = foreign.parse_json(text)
        _require_text(json.dumps(data, ensure_ascii=False))
        return data
    except ValueError as reason:
        raise error(f"{origin} is not valid JSON: {reason}") from reason


def _require_text(value: str) -> None:
    """Refuse a lone surrogate: an escape can write half a character, but no file or database can store it.

    Raises:
        ValueError: the text contains one.
    """
    value.encode()
