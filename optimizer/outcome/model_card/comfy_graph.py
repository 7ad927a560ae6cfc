"""A graph of ComfyUI's nodes, in the format in which its editor saves and opens workflows (LiteGraph, version 0.4)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# Pixels on the editor's canvas.
COLUMN: Final = 380
WIDTH: Final = 300
GAP: Final = 60
HEAD: Final = 40
ROW: Final = 26


@dataclass(frozen=True, slots=True)
class Output:
    """What a node gives out."""

    node: int
    slot: int
    kind: str  # MODEL, CLIP or VAE


class Graph:
    """A graph that nodes are added to, each after those that it takes its inputs from."""

    def __init__(self) -> None:
        self._nodes: list[dict[str, Any]] = []
        self._links: list[tuple[int, int, int, int, int, str]] = []  # id, node and slot from, node and slot to, kind
        self._columns: dict[int, int] = {}  # node -> its column
        self._bottoms: dict[int, int] = {}  # column -> where it ends

    def add(
        self,
        kind: str,
        inputs: Mapping[str, Output] | None = None,
        values: Sequence[str | float] = (),
        outputs: Sequence[str] = (),
    ) -> tuple[Output, ...]:
        """Add a node, and return what it gives out.

        Args:
            kind: the node's class.
            inputs: what is linked, by the names of the class, in its order.
            values: of all other inputs, in the order of the class.
            outputs: the kinds of what it gives out, in the order of the class.
        """
        number = len(self._nodes) + 1
        taken = [self._link(name, output, number, slot) for slot, (name, output) in enumerate((inputs or {}).items())]
        self._nodes.append(
            {
                "id": number,
                "type": kind,
                **self._place(number, list((inputs or {}).values()), max(len(taken), len(outputs)) + len(values)),
                "flags": {},
                "order": number - 1,
                "mode": 0,
                "inputs": taken,
                "outputs": [
                    {"name": name, "type": name, "links": [], "slot_index": slot} for slot, name in enumerate(outputs)
                ],
                "properties": {"Node name for S&R": kind},
                "widgets_values": list(values),
            }
        )
        return tuple(Output(number, slot, name) for slot, name in enumerate(outputs))

    def to_json(self) -> str:
        """Return the workflow as a file's text."""
        return json.dumps(
            {
                "last_node_id": len(self._nodes),
                "last_link_id": len(self._links),
                "nodes": self._nodes,
                "links": self._links,
                "groups": [],
                "config": {},
                "extra": {},
                "version": 0.4,
            },
            indent=1,
            allow_nan=False,
        )

    def _link(self, name: str, output: Output, number: int, slot: int) -> dict[str, Any]:
        link = len(self._links) + 1
        self._links.append((link, output.node, output.slot, number, slot, output.kind))
        self._nodes[output.node - 1]["outputs"][output.slot]["links"].append(link)
        return {"name": name, "type": output.kind, "link": link}

    def _place(self, number: int, inputs: Sequence[Output], rows: int) -> dict[str, Any]:
        """Return a node's position and size: right of what it takes its inputs from, below what is there already."""
        column = max((self._columns[each.node] + 1 for each in inputs), default=0)
        top, height = self._bottoms.get(column, 0), HEAD + ROW * rows
        self._columns[number] = column
        self._bottoms[column] = top + height + GAP
        return {"pos": [column * COLUMN, top], "size": [WIDTH, height]}
