"""The nodes of a graph of ComfyUI, the links between them, and the values that nodes hold or make of others.

A value may come from another node. Some only hold one, or pass it on; the text nodes of ComfyUI (comfy_extras/
nodes_string.py) are computed, except those with a regular expression. Any other is remembered by its kind: what it
makes of its inputs is not known, and the first of them that looks like the value is taken for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from studies.spec.published.settings import MOST_CHARACTERS, PublishedError

DEPTH: Final = 100  # links that are followed one after the other
SHOWN: Final = 80  # characters of a node's kind or a file's name
VALUE_KEYS: Final = ("value", "seed", "noise_seed", "int", "float", "string", "text", "number")
# Nodes that hold a value, or pass one on.
HOLDING: Final = frozenset(
    {
        "PrimitiveBoolean", "PrimitiveFloat", "PrimitiveInt", "PrimitiveNode", "PrimitiveString",
        "PrimitiveStringMultiline", "Reroute", "FloatConstant", "INTConstant", "StringConstant",
        "StringConstantMultiline", "Float Literal", "Int Literal", "String Literal", "Seed", "CR Seed", "CR Text",
        "Seed (rgthree)", "easy seed", "ShowText|pysssss",
    }
)  # fmt: skip

Node = Mapping[str, Any]


def inputs_of(node: Node) -> Mapping[str, Any]:
    """Return the inputs of a node by their names."""
    found = node.get("inputs")
    return found if isinstance(found, Mapping) else {}


def kind_of(node: Node) -> str:
    """Return the kind of a node, shortened."""
    return str(node.get("class_type", "a node without a kind"))[:SHOWN]


def _concatenated(first: str, second: str, between: str) -> str:
    return between.join((first, second))


def _trimmed(text: str, mode: str) -> str:
    return {"Left": text.lstrip, "Right": text.rstrip}.get(mode, text.strip)()


def _in_case(text: str, mode: str) -> str:
    cases = {
        "UPPERCASE": text.upper, "lowercase": text.lower, "Capitalize": text.capitalize, "Title Case": text.title,
    }  # fmt: skip
    return cases.get(mode, text.strip)()


def _replaced(text: str, found: str, by: str) -> str:
    if len(text) + text.count(found) * len(by) > MOST_CHARACTERS:
        raise PublishedError(f"its StringReplace node makes a text of more than {MOST_CHARACTERS:,} characters")
    return text.replace(found, by)


# Kind -> the names of its inputs, and what it makes of their values, which must be texts.
_TEXTS: Final[Mapping[str, tuple[tuple[str, ...], Callable[..., str]]]] = {
    "StringConcatenate": (("string_a", "string_b", "delimiter"), _concatenated),
    "StringReplace": (("string", "find", "replace"), _replaced),
    "StringTrim": (("string", "mode"), _trimmed),
    "CaseConverter": (("string", "mode"), _in_case),
}


class Nodes:
    """The nodes of a graph by their ids.

    Args:
        graph: as ComfyUI writes it.
        read: kinds of nodes of which all is read elsewhere.
    """

    def __init__(self, graph: Mapping[str, Any], read: frozenset[str]) -> None:
        self._graph, self._read = graph, read | HOLDING
        self._computed: dict[int, Any] = {}  # of nodes that have been computed, by their identity
        self.not_known: dict[str, None] = {}  # kinds of the nodes that gave values and are not known, in order

    def value(self, node: Node, key: str, depth: int = 0) -> Any:
        """Return an input's value, which may be that of another node.

        Raises:
            PublishedError: a text grows beyond any prompt.
        """
        found = inputs_of(node).get(key)
        target = self._linked(found)
        if target is None or depth > DEPTH:
            return None if isinstance(found, list) else found
        if kind_of(target) in _TEXTS:
            return self._text(target, depth + 1)
        known = next((name for name in (key, *VALUE_KEYS, "") if name in inputs_of(target)), None)
        if kind_of(target) not in self._read:
            self.not_known[kind_of(target)] = None
        return None if known is None else self.value(target, known, depth + 1)

    def _text(self, node: Node, depth: int) -> Any:
        """Return what a text node makes of its inputs; None if one is no text.

        Each is computed once: nodes that take another twice would double the work at every step.
        """
        if id(node) not in self._computed:
            self._computed[id(node)] = None  # what a node gets that is linked to itself
            names, compute = _TEXTS[kind_of(node)]
            values = [self.value(node, name, depth) for name in names]
            text = compute(*values) if all(isinstance(value, str) for value in values) else None
            if text is not None and len(text) > MOST_CHARACTERS:
                raise PublishedError(
                    f"its {kind_of(node)} node makes a text of more than {MOST_CHARACTERS:,} characters"
                )
            self._computed[id(node)] = text
        return self._computed[id(node)]

    def first(self, node: Node, *keys: str) -> Any:
        """Return the value of the first of some inputs that a node has."""
        return next((self.value(node, key) for key in keys if key in inputs_of(node)), None)

    def target(self, node: Node, *keys: str) -> Node | None:
        """Return the node that the first of some inputs which is a link leads to."""
        return next((found for key in keys if (found := self._linked(inputs_of(node).get(key))) is not None), None)

    def chain(self, node: Node, *keys: str) -> Iterator[Node]:
        """Yield the nodes that one link after the other leads to.

        Args:
            node: where the links begin.
            keys: of the inputs that are followed; that of a Reroute node is empty.
        """
        for _ in range(DEPTH):
            target = self.target(node, *keys)
            if target is None:
                return
            yield target
            node = target

    def _linked(self, link: Any) -> Node | None:
        if isinstance(link, list) and len(link) == 2:
            node = self._graph.get(str(link[0]))
            return node if isinstance(node, Mapping) else None
        return None
