"""The gains of a study's best merge by group of prompts, on the terminal and as JSON values."""

from __future__ import annotations

from optimizer.cli.common import console, escaped, print_notes
from optimizer.cli.views.tables import FoldingTable
from optimizer.report.groups import ByGroup, gains_by_group
from optimizer.report.results import Results
from optimizer.trial.gain_text import gain_text
from optimizer.trial.objective import SINGLE


def print_groups(results: Results) -> None:
    """Print the gains by group where prompts have one: those of the final where it judged the merge, else the search's.

    A parent alone has none.
    """
    if results.shown.origin.parent is not None:
        return
    found = gains_by_group(results, held_out=results.is_held_out)
    if found.names:
        console.print(_table(results, found))
        print_notes(found.notes)


def _table(results: Results, found: ByGroup) -> FoldingTable:
    where = "held out" if found.held_out else "in the search"
    table = FoldingTable(f"gains of trial {results.shown.number} by group, {where} (95 % interval)")
    table.head("group")
    for head in ("prompts", "images"):
        table.head(head, justify="right")
    for name in found.names:
        table.head("gain" if name == SINGLE else escaped(name), justify="right")
    for each in found.groups:
        told = [each.gains.get(name) for name in found.names]
        cells = ("-" if gain is None else f"{gain_text(gain)} over {gain.parent}" for gain in told)
        table.add_row(escaped(each.name), str(each.prompts), str(each.items), *cells)
    return table
