"""A person as the judge of a bracket: both checkpoints' pictures side by side, under no name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from basics.files import replace_file
from optimizer.bracket.judging import Ahead, Judgement, ShownMatch
from optimizer.rendering.contact_sheet import comparison_sheet, row_captions
from studies.files.png import picture_png

Vote = Literal["left", "right", "equal"]
ROWS: Final = 8  # of a sheet, beyond which its pictures stand in two tables side by side


@dataclass(frozen=True, kw_only=True)
class EyeJudge:
    """Somebody who looks at a sheet and says which side is better."""

    folder: Path  # of the sheets
    ask: Callable[[Path, ShownMatch], Vote]
    """Is given a sheet and its match, and waits for the answer. A name would sway it, so it shows none."""

    def judge(self, shown: ShownMatch) -> Judgement:
        """Draw the sheet of a match, and ask.

        Raises:
            OSError: the sheet cannot be written.
        """
        swapped = is_swapped(shown)
        vote = self.ask(self._sheet(shown, swapped=swapped), shown)
        if vote == "equal":
            return Judgement(ahead=None)
        ahead: Ahead = "lower" if (vote == "left") == swapped else "upper"
        return Judgement(ahead=ahead)

    def _sheet(self, shown: ShownMatch, *, swapped: bool) -> Path:
        sides = (shown.lower, shown.upper) if swapped else (shown.upper, shown.lower)
        items = shown.suite.items()
        columns = [("left", sides[0].images), ("right", sides[1].images)]
        title = f"round {shown.match.round}: left or right?"
        sheet = comparison_sheet(title, columns, row_captions(items), tables=1 if len(items) <= ROWS else 2)
        path = self.folder / f"round-{shown.match.round}-{shown.match.upper}-{shown.match.lower}.png"
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, picture_png(sheet))
        return path


def is_swapped(shown: ShownMatch) -> bool:
    """Return whether the upper checkpoint stands on the right: by chance, but the same whenever it is asked."""
    sides = f"{shown.match.round} {shown.upper.contestant.sha256} {shown.lower.contestant.sha256}"
    return hashlib.sha256(sides.encode()).digest()[0] % 2 == 1
