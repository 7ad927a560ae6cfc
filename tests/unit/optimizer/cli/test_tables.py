"""Names in tables are never cut, whatever the width, and stand whole where nobody's terminal is the limit."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from optimizer.cli.views.tables import LEAST_WIDTH, FoldingTable

NAMES = (
    "anime-portraits-with-a-very-long-name-that-nobody-would-type.v2",
    "वनराज का चित्र और उसका बहुत लम्बा नाम",
    "clip_score_of_the_second_network",
    "/srv/models/checkpoints/sdxl/very/deep/down/photoreal-final-fixed-2.safetensors",
)


def shown(width: int, *, terminal: bool, columns: int = 7) -> str:
    """A table whose columns and cells are names, as it is printed."""
    table = FoldingTable("names")
    heads = [NAMES[index % len(NAMES)] for index in range(columns)]
    for head in heads:
        table.head(head)
    table.add_row(*heads[::-1])
    with StringIO() as text:
        console = Console(file=text, width=width, force_terminal=terminal, color_system=None, soft_wrap=True)
        console.print(table)
        return text.getvalue()


def letters(text: str) -> list[str]:
    return sorted(re.sub(r"[\s─-╿]", "", text))  # without the frame


@pytest.mark.parametrize("width", [1, 20, 40, 80, 132])
def test_a_terminal_shows_every_letter_in_its_width(width: int) -> None:
    text = shown(width, terminal=True)
    assert "…" not in text
    assert letters(text) == letters("names" + 2 * "".join(NAMES[index % len(NAMES)] for index in range(7)))
    if width >= 2 * LEAST_WIDTH:
        assert max(map(cell_len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [40, 80])
def test_elsewhere_a_name_stands_on_one_line(width: int) -> None:
    lines = shown(width, terminal=False).splitlines()
    assert all(sum(name in line for line in lines) == 2 for name in NAMES)


def test_columns_stand_beside_each_other_where_there_is_room_for_them() -> None:
    assert len(shown(40, terminal=True, columns=2).splitlines()) < len(shown(20, terminal=True, columns=2).splitlines())
    assert "┏" in shown(40, terminal=True, columns=2)
    assert "┏" not in shown(40, terminal=True, columns=7)
