"""The table of `mergetune study votes`."""

from __future__ import annotations

from basics.messages import counted
from optimizer.cli.common import console, escaped
from optimizer.cli.views.tables import FoldingTable
from optimizer.voting.preferred_trials import PreferredTrial, PreferredTrials
from studies.records.values import StoredStudy
from studies.system.advice import advised


def print_preferred_trials(study: StoredStudy, url: str, searched: PreferredTrials, in_final: PreferredTrials) -> None:
    """Print which trials people prefer, by the search's pictures and by the final's.

    Args:
        url: of the database.
    """
    if not (searched.rows or in_final.rows):
        command = advised(f'study vote "{study.name}"', url)
        console.print(escaped(f"nobody has voted on {study.name} yet: {command}"), soft_wrap=True)
        return
    for name, preferred in ((study.name, searched), (f"{study.name}, the final", in_final)):
        if preferred.rows:
            console.print(_table(name, preferred))


def _table(name: str, preferred: PreferredTrials) -> FoldingTable:
    over = next((row.over for row in preferred.rows if row.over is not None), None)
    given = f"{counted(preferred.votes, 'vote')}, {counted(preferred.ratings, 'rating')}"
    if not preferred.ratings:
        given = counted(preferred.votes, "vote")
    table = FoldingTable(escaped(f"{name}: {given} by {', '.join(preferred.people)}"))
    table.head("trial", justify="right")
    table.head("what")
    table.head("votes", justify="right")
    table.head("lead, log-odds" if over is None else escaped(f"lead over {over}, log-odds"), justify="right")
    table.head("95 %", justify="right")
    table.head("preferred")
    if preferred.ratings:
        table.head("rating")
    for row in preferred.rows:
        cells = [str(row.number), escaped(row.name), str(row.votes), *_lead(row), _preferred(row)]
        table.add_row(*cells, *([_rating(row)] if preferred.ratings else []))
    return table


def _lead(row: PreferredTrial) -> tuple[str, str]:
    if row.lead is None:
        return "", ""
    return f"{row.lead.value:+.2f}", f"{row.lead.low:+.2f} to {row.lead.high:+.2f}"


def _preferred(row: PreferredTrial) -> str:
    """Return the votes between a trial and the better parent, in words."""
    if row.tally is None or not row.tally.count:
        return ""
    decided, interval = row.tally.preferred + row.tally.other, row.tally.interval
    undecided = f", {row.tally.undecided} undecided" if row.tally.undecided else ""
    if interval is None:
        return f"0 of 0{undecided}"
    low, high = interval
    return f"{row.tally.preferred} of {decided} ({100 * low:.0f} to {100 * high:.0f} %){undecided}"


def _rating(row: PreferredTrial) -> str:
    """Return the mean of a trial's ratings, in words."""
    if row.rating is None:
        return ""
    of = f" of {counted(row.rating.count, 'rating')}"
    if row.rating.interval is None:
        return f"{row.rating.value:.1f}{of}"
    low, high = row.rating.interval
    return f"{row.rating.value:.1f} ({low:.1f} to {high:.1f}){of}"
