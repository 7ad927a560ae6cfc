"""The tables of `mergetune scorers`: what each scorer measures, and what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from basics.messages import counted
from basics.quantities import size
from optimizer.cli.common import escaped
from optimizer.cli.views.tables import FoldingTable
from scorers.kind import ScorerKind
from scorers.weights.needs import Need


def kinds_table(kinds: Mapping[str, ScorerKind]) -> FoldingTable:
    """Show what each kind measures, and its options."""
    table = FoldingTable("scorers")
    table.head("kind")
    table.head("description")
    for name, kind in kinds.items():
        info = kind.info
        better = "higher" if info.direction == "maximize" else "lower"
        scope = (
            "each image" if info.scope == "image" else f"the whole set, at least {counted(info.min_images, 'image')}"
        )
        low, high = info.range
        options = ", ".join(kind.settings.model_fields) or "none"
        details = f"{better} is better; {low:g} to {high:g}, unit {info.unit:g}; scores {scope}; options: {options}"
        table.add_row(name, f"{escaped(info.summary)}\n[dim]{escaped(details)}[/]", end_section=True)
    return table


def needs_table(kinds: Mapping[str, ScorerKind], cache_dir: Path) -> FoldingTable:
    """Show what each kind needs without options, whether it is here, its size and its licence.

    Args:
        cache_dir: folder of downloaded files.
    """
    table = FoldingTable("what scorers need")
    for head in ("kind", "needs", "here"):
        table.head(head)
    for name, kind in kinds.items():
        needs = kind.needs(None)
        for index, need in enumerate(needs):
            table.add_row(
                name if index == 0 else "",
                f"{escaped(need.title)}\n[dim]{escaped(_details(need))}[/]",
                "[green]yes[/]" if need.is_here(cache_dir) else "no",
                end_section=index == len(needs) - 1,
            )
        if not needs:
            table.add_row(name, "nothing", "[green]yes[/]", end_section=True)
    return table


def _details(need: Need) -> str:
    """Return size, licence and source on two lines: an address is long, and is copied."""
    facts = ", ".join(filter(None, ["" if need.size_bytes is None else size(need.size_bytes), need.licence]))
    return f"{facts}\n{need.source}" if facts else need.source
