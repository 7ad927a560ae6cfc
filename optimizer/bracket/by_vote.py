"""People who vote on a page as the judge of a bracket: one pair of pictures of a match after another, under no name.

Every picture of a match is voted on once, by whoever is there; then the side with more votes goes on. The first vote on
a picture counts. So that people who vote at once rarely do so on the same one, a picture that was shown to somebody is
shown again only once all that are left were shown, the longest ago first.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from dataclasses import replace
from typing import Final, cast

import numpy as np

from basics.messages import counted
from optimizer.bracket.judging import Ahead, Judgement, ShownMatch
from optimizer.bracket.tree import BracketMatch
from optimizer.bracket.votes_file import MatchVote, VotesFile
from optimizer.rendering.contact_sheet import to_picture
from optimizer.trial.share_interval import wilson_interval
from optimizer.voting.questions import Question, QuestionKind
from studies.files.png import picture_png
from studies.records.votes import Verdict

LOOK_SECONDS: Final = 1.0  # between two looks for Ctrl-C, which a longer wait would miss on some systems
UPPER, LOWER, UNDECIDED = "upper", "lower", "undecided"


class VoteJudge:
    """The votes on a bracket's matches: a judge for the bracket, and questions for a page.

    Args:
        votes: as they were before; new ones are added.
        random: where chance comes from.
    """

    kind: Final[QuestionKind] = "pair"
    name: Final = "bracket"
    explanation: Final = "Two renders of one prompt and seed, from two checkpoints: nobody is told which."
    waiting: Final = "the next pictures are not rendered yet: this page looks again by itself"

    def __init__(self, votes: VotesFile, random: np.random.Generator | None = None) -> None:
        self._votes = votes
        self._random = np.random.default_rng() if random is None else random
        self._changed = threading.Condition()  # it also guards all that follows
        self._shown: ShownMatch | None = None  # the match that is voted on
        self._decided: set[BracketMatch] = set()  # since the start

    @property
    def identity(self) -> str:
        """A digest of what the bracket depends on."""
        return self._votes.identity

    # ------------------------------------------------------------------------------------ the judge

    def judge(self, shown: ShownMatch) -> Judgement:
        """Wait until every picture of a match was voted on, and count."""
        with self._changed:
            self._shown = shown
            while self._open_items():
                self._changed.wait(LOOK_SECONDS)
            self._shown = None
            self._decided.add(shown.match)
            return _judgement(self._counts(shown))

    def _counts(self, shown: ShownMatch) -> Counter[str]:
        return Counter(_preferred(vote) for vote in self._given(shown))

    def _given(self, shown: ShownMatch) -> list[MatchVote]:
        return [vote for vote in self._votes.votes.values() if vote.match == shown.match and vote.verdict is not None]

    def _open_items(self) -> list[int]:
        """Return the items of the present match on which nobody has voted yet."""
        if self._shown is None:
            return []
        voted = {vote.item for vote in self._given(self._shown)}
        return [item for item in range(len(self._shown.upper.images)) if item not in voted]

    # ----------------------------------------------------------------------------------- the page

    def ask(self, person: str) -> Question | None:
        """Return a pair of the present match on which nobody has voted yet; None between matches."""
        with self._changed:
            items = self._open_items()
            if self._shown is None or not items:
                return None
            vote = MatchVote(
                token=secrets.token_hex(16),
                person=person,
                match=self._shown.match,
                item=self._next_item(items),
                swapped=bool(self._random.integers(2)),
            )
            self._votes.put(vote)
            return self._question(vote, self._shown)

    def _next_item(self, items: list[int]) -> int:
        """Choose among open items: one that was not shown yet, else that which was shown longest ago."""
        shown = [vote.item for vote in self._votes.votes.values() if self._is_present(vote) and vote.item in items]
        unseen = [item for item in items if item not in shown]
        if unseen:
            return unseen[self._random.integers(len(unseen))]
        return max(items, key=shown[::-1].index)  # how many were shown since

    def _is_present(self, vote: MatchVote) -> bool:
        return self._shown is not None and vote.match == self._shown.match

    def image(self, token: str, side: str) -> bytes | None:
        """Return a picture of the present match: see `Questions`."""
        with self._changed:
            vote, shown = self._votes.votes.get(token), self._shown
        if vote is None or shown is None or vote.match != shown.match:
            return None
        at = shown.upper if (side == "left") != vote.swapped else shown.lower
        return picture_png(to_picture(at.images[vote.item]))

    def answer(self, token: str, answer: str) -> bool:
        """Store a vote; False where its match is decided or not known, or somebody else has voted on its picture."""
        with self._changed:
            vote = self._votes.votes.get(token)
            if vote is None or self._is_over(vote) or self._is_taken(vote):
                return vote is not None and vote.verdict == answer  # sent again: it was stored
            order = vote.order or self._votes.last_order + 1
            self._votes.put(replace(vote, verdict=cast("Verdict", answer), order=order))
            self._changed.notify_all()
            return True

    def undo(self, person: str) -> Question | None:
        """Take back the last vote of a person in the present match; None where there is none."""
        with self._changed:
            shown = self._shown
            own = [] if shown is None else [vote for vote in self._given(shown) if vote.person == person]
            if shown is None or not own:
                return None
            vote = replace(max(own, key=lambda each: each.order), verdict=None, order=0)
            self._votes.put(vote)
            return self._question(vote, shown)

    def _is_over(self, vote: MatchVote) -> bool:
        """Return whether a match is decided. After a restart, one may be voted on before it is shown again."""
        return vote.match in self._decided or (self._shown is not None and vote.match != self._shown.match)

    def _is_taken(self, vote: MatchVote) -> bool:
        """Return whether there is a vote on the same picture already."""
        picture = (vote.match, vote.item)
        voted = (each for each in self._votes.votes.values() if each.verdict is not None and each.token != vote.token)
        return any((each.match, each.item) == picture for each in voted)

    def _question(self, vote: MatchVote, shown: ShownMatch) -> Question:
        items = shown.suite.items()
        left = len(self._open_items())
        progress = f"round {shown.match.round}: {counted(left, 'picture')} of {len(items)} left in this match"
        return Question(token=vote.token, prompt=items[vote.item].prompt, progress=progress)


def _preferred(vote: MatchVote) -> str:
    if vote.verdict not in ("left", "right"):
        return UNDECIDED
    return UPPER if (vote.verdict == "left") != vote.swapped else LOWER


def _judgement(counts: Counter[str]) -> Judgement:
    """Return who is ahead, with the difference of the shares of votes as the lead."""
    upper, lower = counts[UPPER], counts[LOWER]
    scores = {"votes": (float(upper), float(lower))}
    decided = upper + lower
    if not decided:
        return Judgement(ahead=None, scores=scores)
    low, high = wilson_interval(upper, decided)
    ahead: Ahead | None = None if upper == lower else "upper" if upper > lower else "lower"
    return Judgement(ahead=ahead, lead=(upper - lower) / decided, low=2 * low - 1, high=2 * high - 1, scores=scores)
