"""The votes on a bracket's matches, as a JSON file in its folder that is replaced whole after every vote.

A pair gets its entry when it is shown, as in a study's database: so a vote that is sent again after a restart is
stored, and counts once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from basics.digests import json_digest
from basics.files import replace_file
from optimizer.bracket.identity import BracketIdentity
from optimizer.bracket.tree import BracketMatch
from optimizer.errors import BracketError
from studies.records.votes import Verdict

VOTES_FILE: Final = "votes.json"  # in the bracket's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchVote:
    """A pair of a match's pictures that was shown, and what the person said of it."""

    token: str
    person: str
    match: BracketMatch
    item: int  # index in the round's suite
    swapped: bool  # whether the upper checkpoint stood on the right
    verdict: Verdict | None = None  # None: not given yet, or taken back
    order: int = 0  # of the vote among all, from 1


@dataclass(kw_only=True)
class VotesFile:
    """The votes of one bracket. Whoever changes it holds a lock of their own."""

    path: Path
    identity: str  # a digest of what the bracket depends on
    votes: dict[str, MatchVote] = field(default_factory=dict)  # by token, the last one that was shown or changed last

    def put(self, vote: MatchVote) -> None:
        """Add or replace a vote, and write the file.

        Raises:
            OSError: it cannot be written, and the vote is as it was.
        """
        votes = {token: each for token, each in self.votes.items() if token != vote.token} | {vote.token: vote}
        data = {"identity": self.identity, "votes": [asdict(each) for each in votes.values()]}
        replace_file(self.path, json.dumps(data, indent=1).encode())
        self.votes = votes

    @property
    def last_order(self) -> int:
        """The number of the last vote; 0 before the first."""
        return max((vote.order for vote in self.votes.values()), default=0)


def read_votes(folder: Path, identity: BracketIdentity, *, anew: bool) -> VotesFile:
    """Read the votes of a bracket; none, where they are of another one.

    Args:
        anew: whether to forget them.

    Raises:
        BracketError: the file is damaged.
        OSError: it cannot be read.
    """
    file = VotesFile(path=folder / VOTES_FILE, identity=json_digest(asdict(identity)))
    if anew or not file.path.exists():
        return file
    try:
        data: Mapping[str, object] = json.loads(file.path.read_text(encoding="utf-8"))
        if data["identity"] == file.identity:
            votes = TypeAdapter(tuple[MatchVote, ...]).validate_python(data["votes"])
            file.votes = {vote.token: vote for vote in votes}
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise BracketError(
            f"{file.path} is damaged, and was written by mergetune: remove it, and vote again"
        ) from error
    return file
