"""The kinds of scorers of this folder.

No torch here: the command line lists scorers without it.
"""

from __future__ import annotations

from typing import Final

from scorers.config import ScorerSettings
from scorers.kind import ScorerKind, by_name
from scorers.protocol import ScorerInfo

VOTED: Final = "preference"  # the kind whose score comes from people's votes

PREFERENCE = ScorerInfo(
    name=VOTED,
    label="preference",
    summary="what people prefer, by their votes in `mergetune study vote`, in log-odds; 0 is the average trial",
    direction="maximize",
    unit=0.2,  # 55 of 100 votes, as for PickScore
    range=(-20.0, 20.0),
    scope="set",
)


class PreferenceSettings(ScorerSettings):
    """Options of the scorer of votes, which has none."""


KINDS = by_name(
    ScorerKind(info=PREFERENCE, settings=PreferenceSettings, builder="scorers.votes.preference:build"),
)
