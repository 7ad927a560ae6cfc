"""A bracket on the terminal: its progress, its matches, and the question to a person who judges it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from basics.messages import counted
from optimizer.cli.common import console, escaped, fail
from optimizer.cli.views.questions import answer

if TYPE_CHECKING:
    from optimizer.bracket.by_eye import Vote
    from optimizer.bracket.contestants import Contestant
    from optimizer.bracket.judging import MatchResult, ShownMatch
    from optimizer.bracket.play import BracketWatch
    from optimizer.bracket.setup import BracketPlan

VOTES: Final[Mapping[str, Vote]] = {
    **dict.fromkeys(("left", "l"), "left"),
    **dict.fromkeys(("right", "r"), "right"),
    **dict.fromkeys(("equal", "e"), "equal"),
}


def vote_named(text: str) -> Vote:
    """Return the vote that an answer means.

    Raises:
        ValueError: it means none.
    """
    vote = VOTES.get(text.casefold())
    if vote is None:
        raise ValueError(f"answer left, right or equal (l, r, e); got {text!r}")
    return vote


@dataclass(frozen=True)
class BracketView:
    """The progress of one bracket."""

    plan: BracketPlan
    bar: Progress

    @classmethod
    @contextmanager
    def shown(cls, plan: BracketPlan) -> Iterator[BracketView]:
        """Show a progress bar as long as the block lasts."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            bar.add_task("", visible=False)
            yield cls(plan, bar)

    @property
    def watch(self) -> BracketWatch:
        """What the bracket calls."""
        from optimizer.bracket.play import BracketWatch

        return BracketWatch(
            started=self._started,
            rendering=self._rendering,
            rendered=lambda done: self.bar.update(self.bar.task_ids[0], completed=done),
            judging=lambda: self.bar.update(self.bar.task_ids[0], visible=False),
            decided=self._decided,
        )

    def _started(self, number: int, matches: int, checkpoints: int) -> None:
        from optimizer.bracket.board import round_title, settings_of

        title = round_title(number, len(self.plan.rounds))
        what = f"{counted(matches, 'match', 'matches')} of {counted(checkpoints, 'checkpoint')}"
        console.print(escaped(f"{title}: {what}; {settings_of(self.plan.suites[number - 1])}"))

    def _rendering(self, number: int, contestant: Contestant) -> None:
        self.bar.start()  # after questions it is stopped
        total = len(self.plan.suites[number - 1].items())
        description = escaped(f"round {number}: {contestant.name}")
        self.bar.reset(self.bar.task_ids[0], description=description, total=total, visible=True)

    def _decided(self, result: MatchResult) -> None:
        from optimizer.bracket.board import verdict

        match = result.match
        other = match.lower if result.winner == match.upper else match.upper
        winner, loser = (self.plan.contestant(number).name for number in (result.winner, other))
        console.print(f"  [bold]{escaped(winner)}[/] beats {escaped(loser)}: {escaped(verdict(result))}")

    def ask(self, sheet: Path, shown: ShownMatch) -> Vote:
        """Ask a person which side of a sheet is better; ends the command where nobody answers."""
        if self.bar.live.is_started:
            self.bar.stop()
        console.print(f"round {shown.match.round}: look at {escaped(str(sheet))}")
        try:
            return answer("which side is better: left, right or equal?", vote_named)
        except typer.Abort:
            fail("nobody answers: what was judged is kept, and the same command asks on from here")
