"""Which pair of renders is shown next: one that is likely to matter, and whose answer is not known yet.

One trial of the pair is drawn from those that may be the best: a sample of the posterior is drawn, and its best trial
taken (Thompson sampling). The other is the one against which a vote tells most about their difference (mutual
information of the vote and the utilities; Houlsby et al. 2011, https://arxiv.org/abs/1112.5745).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optimizer.preference.model import Floats, Preference
from studies.records.votes import Vote

NODES: Final = 21  # of the quadrature over the difference of two utilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two renders of one item."""

    item: int
    left: int  # number of a trial
    right: int


def choose_pair(
    preference: Preference, items: Mapping[int, frozenset[int]], shown: Sequence[Vote], random: np.random.Generator
) -> Pair | None:
    """Choose the next pair; None where no two trials have a render of the same item.

    Args:
        items: number of a trial of `preference` -> the items of which its render is there.
        shown: pairs that were shown before, to anybody.
        random: where chance comes from; it also decides who stands on the left.
    """
    comparable = have_items_in_common(preference.numbers, items)
    if not comparable.any():
        return None
    able = comparable.any(axis=1)
    drawn = random.multivariate_normal(preference.mean, preference.covariance, method="eigh")
    first = int(np.argmax(np.where(able, drawn, -np.inf)))
    told = np.where(comparable[first], information(preference, first), -np.inf)
    second = int(np.argmax(told + 1e-9 * random.random(len(told))))
    return laid_out((preference.numbers[first], preference.numbers[second]), items, shown, random)


def have_items_in_common(numbers: Sequence[int], items: Mapping[int, frozenset[int]]) -> NDArray[np.bool_]:
    """Return which trials have a render of the same item [n, n]; False for a trial and itself."""
    return np.array([[bool(items[one] & items[two]) and one != two for two in numbers] for one in numbers])


def laid_out(
    pair: tuple[int, int], items: Mapping[int, frozenset[int]], shown: Sequence[Vote], random: np.random.Generator
) -> Pair:
    """Choose an item of two trials, and by chance who stands on the left."""
    left, right = pair if random.random() < 0.5 else pair[::-1]
    common = sorted(items[left] & items[right])
    return Pair(item=_least_shown(common, {left, right}, shown, random), left=left, right=right)


def information(preference: Preference, index: int) -> Floats:
    """Return how much a vote between one trial and each other tells of their utilities, in bits [n]; 0 for itself."""
    covariance = preference.covariance
    variances = np.diag(covariance) + covariance[index, index] - 2 * covariance[:, index]
    means = preference.mean - preference.mean[index]
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    differences = means[:, None] + np.sqrt(np.maximum(variances, 0.0))[:, None] * nodes
    chances = 0.5 * (1 + np.tanh(differences / 2))
    return np.asarray(_entropy(chances @ weights) - _entropy(chances) @ weights)


def _entropy(chance: Floats) -> Floats:
    """Return the entropy of a vote in bits."""
    inside = np.clip(chance, 1e-12, 1 - 1e-12)
    return np.asarray(-(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside)))


def _least_shown(items: Sequence[int], pair: set[int], shown: Sequence[Vote], random: np.random.Generator) -> int:
    """Return the item of which this pair was shown least often; of those, the one that was shown least often at all."""
    of_pair = Counter(vote.item for vote in shown if {vote.left, vote.right} == pair)
    of_all = Counter(vote.item for vote in shown)
    chance = random.permutation(len(items))
    order = sorted(range(len(items)), key=lambda place: (of_pair[items[place]], of_all[items[place]], chance[place]))
    return items[order[0]]
