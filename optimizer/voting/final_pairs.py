"""Which pair of renders of a final is shown next.

A final asks which merge is the best, and how far it is ahead of the better parent. So one of a pair is a merge drawn
from those that may be the best (Thompson sampling). In every other vote, on average, the second is a parent drawn from
those that may be the better one; else it is the merge against which a vote tells most: see pairs.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from optimizer.preference.model import Preference
from optimizer.voting.pairs import Pair, have_items_in_common, information, laid_out
from studies.records.votes import Vote


def choose_final_pair(
    preference: Preference,
    items: Mapping[int, frozenset[int]],
    parents: Collection[int],
    shown: Sequence[Vote],
    random: np.random.Generator,
) -> Pair | None:
    """Choose the next pair; None where no merge has a render of an item of which another finalist has one.

    Args:
        items: number of a finalist of `preference` -> the held-out items of which its render is there.
        parents: the numbers of those that are parents alone.
        shown: pairs of the final that were shown before, to anybody.
        random: where chance comes from; it also decides who stands on the left.
    """
    numbers = preference.numbers
    comparable = have_items_in_common(numbers, items)
    is_parent = np.array([number in parents for number in numbers])
    able = comparable.any(axis=1) & ~is_parent
    if not able.any():
        return None
    drawn = random.multivariate_normal(preference.mean, preference.covariance, method="eigh")
    first = int(np.argmax(np.where(able, drawn, -np.inf)))
    others = [comparable[first] & is_parent, comparable[first] & ~is_parent]
    told = [drawn, information(preference, first)]
    against = int(random.random() < 0.5)
    if not others[against].any():
        against = 1 - against
    second = int(np.argmax(np.where(others[against], told[against], -np.inf)))
    return laid_out((numbers[first], numbers[second]), items, shown, random)
