"""The table of `mergetune study votes`."""

from __future__ import annotations

from basics.messages import counted
from optimizer.cli.common import console, escaped
from optimizer.cli.views.tables import FoldingTable
from optimizer.voting.standings import Standing, Standings
from studies.records.values import StoredStudy
from studies.system.advice import advised


def print_standings(study: StoredStudy, url: str, standings: Standings) -> None:
    """Print which trials people prefer.

    Args:
        url: of the database.
    """
    if not standings.rows:
        command = advised(f'study vote "{study.name}"', url)
        console.print(escaped(f"nobody has voted on {study.name} yet: {command}"), soft_wrap=True)
        return
    over = next((row.over for row in standings.rows if row.over is not None), None)
    table = FoldingTable(escaped(f"{study.name}: {counted(standings.votes, 'vote')} by {', '.join(standings.people)}"))
    table.head("trial", justify="right")
    table.head("what")
    table.head("votes", justify="right")
    table.head("lead, log-odds" if over is None else escaped(f"lead over {over}, log-odds"), justify="right")
    table.head("95 %", justify="right")
    table.head("preferred")
    for row in standings.rows:
        table.add_row(str(row.number), escaped(row.name), str(row.votes), *_lead(row), _preferred(row))
    console.print(table)


def _lead(row: Standing) -> tuple[str, str]:
    if row.lead is None:
        return "", ""
    return f"{row.lead.value:+.2f}", f"{row.lead.low:+.2f} to {row.lead.high:+.2f}"


def _preferred(row: Standing) -> str:
    """Return the votes between a trial and the better parent, in words."""
    if row.tally is None or not row.tally.count:
        return ""
    decided, interval = row.tally.preferred + row.tally.other, row.tally.interval
    undecided = f", {row.tally.undecided} undecided" if row.tally.undecided else ""
    if interval is None:
        return f"0 of 0{undecided}"
    low, high = interval
    return f"{row.tally.preferred} of {decided} ({100 * low:.0f} to {100 * high:.0f} %){undecided}"
