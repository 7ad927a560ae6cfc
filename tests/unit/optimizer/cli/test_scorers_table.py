"""The table of what scorers need, in a narrow terminal and in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from optimizer.cli.views.scorers import needs_table
from scorers.registry import BUILTIN_KINDS


@pytest.mark.parametrize("terminal", [True, False])
def test_a_need_is_told_in_short_lines_and_its_address_whole_where_it_is_copied(terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, no_color=True, legacy_windows=False)
    console.print(needs_table({"hps": BUILTIN_KINDS["hps"], "fid": BUILTIN_KINDS["fid"]}, Path("/nowhere")))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for needed in ("hps", "Apache-2.0", "option 'reference'"):
        assert needed in shown
    assert terminal or "https://huggingface.co/xswu/HPSv2" in shown
    lines = [line for line in shown.splitlines() if "\x1b" not in line]
    assert max(map(len, lines)) <= (80 if terminal else 160)
