"""What intervals are over: a suite's prompts or, where that is not possible, its images.

Whoever trusts a merge will write other prompts. Seeds of one prompt share that prompt's effect, so many seeds of few
prompts say little about other prompts: each prompt's images are averaged first, and the spread of these means counts.

A score that looks at a single prompt says nothing about others. Its interval is over that prompt's images, and covers
other seeds of it alone.

Notation: *cluster*, a prompt or an image, whichever the interval is over. An array `clusters` [items] has the number of
the cluster that each item belongs to, from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optimizer.trial.evidence import Evidence
from optimizer.trial.objective import Term
from optimizer.trial.weighted import Values
from studies.records.values import Basis

Numbers = NDArray[np.int64]


def prompt_numbers(prompts: Sequence[str]) -> Numbers:
    """Return the number of each item's prompt, [items], from 0; a text that is written twice is one prompt."""
    known = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return np.array([known[prompt] for prompt in prompts], dtype=np.int64)


def basis_of(evidence: Evidence, terms: Sequence[Term]) -> Basis:
    """Return what the interval of a sum of scores is over: prompts, unless one of them looks at a single prompt."""
    prompts = evidence.scores.prompts
    if prompts is None:
        return "prompts"
    seen = [_seen(evidence, term.scorer) for term in terms]
    return basis_of_lines(seen, prompts)


def basis_of_lines(seen: Sequence[NDArray[np.bool_]], prompts: Numbers) -> Basis:
    """Return what the interval of a sum of means is over: see `basis_of`.

    Args:
        seen: [items] of each, whether it looks at an item.
        prompts: [items].
    """
    several = all(np.unique(prompts[each]).size > 1 for each in seen)
    return "prompts" if several else "images"


def cluster_numbers(basis: Basis, prompts: Numbers | None, items: int) -> Numbers:
    """Return the number of the cluster that each item belongs to, [items]."""
    if basis == "images" or prompts is None:
        return np.arange(items)
    return np.unique(prompts, return_inverse=True)[1].astype(np.int64)


def by_cluster(values: Values, weights: Values | None, clusters: Numbers) -> tuple[Values, Values | None]:
    """Average a score's items within each cluster.

    The weighted mean of the clusters' means is that of the items.

    Args:
        values: [items], NaN where the score leaves an item out.
        weights: [items]; None: all count alike.

    Returns:
        The clusters' means, NaN where all items are left out, and their weights: [clusters] each.
    """
    count = int(clusters.max(initial=-1)) + 1
    if count == clusters.size:  # one item each: not a bit changes
        order = np.argsort(clusters)
        return values[order], None if weights is None else weights[order]
    present = ~np.isnan(values)
    weight = np.where(present, 1.0 if weights is None else weights / weights.max(), 0.0)
    totals = np.bincount(clusters, weight, minlength=count).astype(np.float64)
    sums = np.bincount(clusters, weight * np.where(present, values, 0.0), minlength=count)
    counted = totals > 0
    means: Values = np.where(counted, sums / np.where(counted, totals, 1.0), np.nan)
    return means, totals


def _seen(evidence: Evidence, scorer: str) -> NDArray[np.bool_]:
    values = evidence.scores.by_item.get(scorer)
    if values is not None:
        return ~np.isnan(values)
    return np.isin(np.arange(evidence.items), evidence.members(scorer))
