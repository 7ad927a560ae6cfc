"""The scores of a trial as comparisons with other trials need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optimizer.trial.objective import Scores, Term
from scorers.errors import SuiteImagesError

Resampled = Callable[[NDArray[np.int64]], float]  # indices of items -> their set score


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The scores of a trial, and what the standard errors of its set scores need."""

    items: int  # number of scored images
    scores: Scores
    resampled: Mapping[str, Resampled] = field(default_factory=dict)  # set scorer -> score of some of the items
    _left_out: dict[tuple[str, bytes], NDArray[np.float64]] = field(default_factory=dict)  # cache of `leaving_out`
    _parts: dict[tuple[int, ...], Evidence] = field(default_factory=dict)  # cache of `part`

    @property
    def lacking(self) -> frozenset[str]:
        """The set scorers whose features are not known: they have a score of all items, but none of some of them."""
        return frozenset(self.scores.by_set) - self.resampled.keys()

    def members(self, scorer: str) -> NDArray[np.int64]:
        """Return the positions of the items that a set scorer looks at."""
        return self.scores.members.get(scorer, np.arange(self.items))

    def leaving_out(self, scorer: str, clusters: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the set score without the items of each cluster in turn. It is computed once per trial.

        Args:
            clusters: [items], the number of the cluster that an item belongs to.

        Returns:
            [clusters that the scorer looks at], by number.
        """
        key = scorer, clusters.tobytes()
        if key not in self._left_out:
            members = self.members(scorer)
            own = clusters[members]
            scores = [self.resampled[scorer](members[own != cluster]) for cluster in np.unique(own)]
            self._left_out[key] = np.array(scores)
        return self._left_out[key]

    def part(self, items: Sequence[int]) -> Evidence:
        """Return the evidence of some of the items, given by their indices here; set scores are computed anew.

        Those whose features are not known are left out.
        """
        if tuple(items) not in self._parts:
            self._parts[tuple(items)] = self._part(np.array(items, dtype=np.int64))
        return self._parts[tuple(items)]

    def _part(self, chosen: NDArray[np.int64]) -> Evidence:
        scores = self.scores
        looked_at = {name: np.flatnonzero(np.isin(chosen, members)) for name, members in scores.members.items()}
        return Evidence(
            items=len(chosen),
            scores=Scores(
                by_item={name: values[chosen] for name, values in scores.by_item.items()},
                by_set=self._sets_of(chosen, looked_at),
                weights=None if scores.weights is None else scores.weights[chosen],
                prompts=None if scores.prompts is None else scores.prompts[chosen],
                members=looked_at,
            ),
            resampled={name: _resampled_part(score, chosen) for name, score in self.resampled.items()},
        )

    def _sets_of(self, chosen: NDArray[np.int64], looked_at: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
        """Compute the set scores of some items anew; one that cannot be computed of so few is left out."""
        found = {}
        for name in self.scores.by_set:
            if name in self.resampled and (name not in looked_at or looked_at[name].size):
                with suppress(SuiteImagesError):
                    found[name] = self.resampled[name](chosen[looked_at.get(name, slice(None))])
        return found

    def knows(self, terms: Sequence[Term]) -> bool:
        """Return whether every scorer of a sum looks at some of these items."""
        means = self.scores.means
        return all(term.scorer in means for term in terms)


def _resampled_part(score: Resampled, chosen: NDArray[np.int64]) -> Resampled:
    return lambda draw: score(chosen[draw])
