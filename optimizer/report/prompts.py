"""The gain of every prompt: where the merge shown is better than the better parent, and where it is worse.

Only scores of single images have a part in it. A score of a whole set, such as FID, cannot be told by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.report.results import Results
from optimizer.trial.gains import terms_of
from optimizer.trial.objective import SINGLE, Term
from studies.spec.suite import SuiteItem


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemGain:
    """One image of the suite, and how much better it scores than the parent's."""

    item: SuiteItem
    gain: float | None  # None: nobody scores it by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptGain:
    """One prompt of the suite with its images."""

    number: int  # counted from 1, as in the names of files
    gain: float | None  # the mean over its images
    items: tuple[ItemGain, ...]  # in the suite's order

    @property
    def prompt(self) -> str:
        """The text, which all of its images share."""
        return self.items[0].item.prompt

    @property
    def negative(self) -> str:
        """The negative prompt, which all of its images share; empty: none."""
        return self.items[0].item.negative


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptGains:
    """All prompts of the suite, those with the lowest gain first."""

    score: str | None  # the objective or scorer by which they are compared; None if none scores single images
    left_out: tuple[str, ...]  # set scorers of that objective
    parent: str | None  # letter of the parent compared with
    prompts: tuple[PromptGain, ...]

    @property
    def known(self) -> int:
        """How many have a gain."""
        return sum(each.gain is not None for each in self.prompts)

    @property
    def lost(self) -> tuple[PromptGain, ...]:
        """Those on which the parent scores higher, the worst first."""
        return tuple(each for each in self.prompts if each.gain is not None and each.gain < 0)


def prompt_gains(results: Results, *, held_out: bool) -> PromptGains:
    """Compare the trial shown with the better parent, prompt by prompt.

    With several objectives the first that scores single images counts.

    Args:
        held_out: whether on the final's suite or the search's.
    """
    suite = results.suite(held_out=held_out)
    items, numbers = suite.items(), suite.prompt_numbers()
    name, terms, left_out = _score(results)
    gain = None if name is None else results.gains_on(held_out=held_out).get(name)
    differences: Sequence[float] = [math.nan] * len(items)
    if gain is not None and gain.parent in results.parents:
        own = results.scores(results.shown, held_out=held_out)
        parent = results.scores(results.parents[gain.parent], held_out=held_out)
        differences = _differences(own.by_item, parent.by_item, terms, len(items))
    grouped: dict[int, list[ItemGain]] = {}
    for number, item, difference in zip(numbers, items, differences, strict=True):
        of_item = ItemGain(item=item, gain=None if math.isnan(difference) else difference)
        grouped.setdefault(number, []).append(of_item)
    prompts = [
        PromptGain(number=number, gain=_mean([each.gain for each in own]), items=tuple(own))
        for number, own in grouped.items()
    ]
    return PromptGains(
        score=name if any(each.gain is not None for each in prompts) else None,
        left_out=left_out,
        parent=None if gain is None else gain.parent,
        prompts=tuple(sorted(prompts, key=_by_gain)),
    )


def _score(results: Results) -> tuple[str | None, tuple[Term, ...], tuple[str, ...]]:
    """Return by which score prompts are compared, its terms of single images, and the scorers of sets in it."""
    infos = results.infos
    every = terms_of(results.objective, infos)
    for name in (SINGLE,) if results.objective.terms else results.objective.names:
        terms = tuple(term for term in every[name] if infos[term.scorer].scope == "image")
        if terms:
            return name, terms, tuple(term.scorer for term in every[name] if term not in terms)
    return None, (), ()


def _differences(
    own: Mapping[str, Sequence[float]], parent: Mapping[str, Sequence[float]], terms: Sequence[Term], count: int
) -> list[float]:
    """Return by how much the trial is better, item by item; NaN where no scorer looks at it."""
    parts = [
        term.factor * (np.array(own[term.scorer]) - np.array(parent[term.scorer]))
        for term in terms
        if len(own.get(term.scorer, ())) == len(parent.get(term.scorer, ())) == count
    ]
    if not parts:
        return [math.nan] * count
    stacked = np.stack(parts)
    return [float(each) for each in np.where(np.isnan(stacked).all(axis=0), np.nan, np.nansum(stacked, axis=0))]


def _mean(gains: Sequence[float | None]) -> float | None:
    known = [gain for gain in gains if gain is not None]
    return sum(known) / len(known) if known else None


def _by_gain(prompt: PromptGain) -> tuple[bool, float, int]:
    return prompt.gain is None, prompt.gain or 0.0, prompt.number
