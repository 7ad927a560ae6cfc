"""The gain in every group of prompts: what the merge shown is better at, and what it is worse at.

Only scores of single images have a part in it: a score of a whole set, such as FID, cannot be told by group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optimizer.report.results import Results
from optimizer.trial.by_prompt import basis_of
from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import difference, difference_interval, terms_of
from optimizer.trial.objective import SINGLE, Term
from optimizer.trial.repeats import first_of_each, positions_once
from optimizer.trial.stored_scores import scores_of
from search_spaces.blocks import Architecture
from studies.records.values import Gain, StoredTrial

OTHERS = "no group"  # of the prompts without one


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGains:
    """The prompts of a group, and how much better the merge shown is on them."""

    group: str | None  # None: prompts without a group
    prompts: int
    items: int
    gains: Mapping[str, Gain]  # by objective; none of those in which no image of the group has a score

    @property
    def name(self) -> str:
        """The group as it is shown."""
        return OTHERS if self.group is None else self.group


@dataclass(frozen=True, slots=True, kw_only=True)
class ByGroup:
    """The gains of the merge shown, group by group, each over the parent that is better on the whole suite."""

    held_out: bool  # whether on renders that the search never saw
    names: tuple[str, ...]  # objectives with a gain in some group
    left_out: tuple[str, ...]  # scorers of sets in the objectives
    groups: tuple[GroupGains, ...]  # in the order of the prompts; empty where no prompt has a group

    @property
    def notes(self) -> Iterator[str]:
        """What a reader should know of it, one sentence each."""
        if self.left_out:
            yield f"without {', '.join(self.left_out)}: a score of a whole set cannot be told by group"
        alone = [each.name for each in self.groups if any(map(_over_images, each.gains.values()))]
        if alone:
            yield f"intervals over the images of a single prompt, which say nothing about others: {', '.join(alone)}"


def _over_images(gain: Gain) -> bool:
    return gain.basis == "images" and gain.low is not None


def gains_by_group(results: Results, *, held_out: bool) -> ByGroup:
    """Compare the trial shown with the better parent in every group of prompts.

    Args:
        held_out: whether on the final's suite or the search's.
    """
    suite = results.suite(held_out=held_out)
    every = terms_of(results.objective, results.infos)
    names = (SINGLE,) if results.objective.terms else results.objective.names
    terms = {name: _of_images(results, every[name]) for name in names}
    compared = {name: _compared(results, name, held_out=held_out) for name in names if terms[name]}
    items, groups = suite.items(), []
    for group in (*suite.groups, *([None] if suite.groups and any(item.group is None for item in items) else [])):
        own = [item for item in items if item.group == group]
        chosen = [position for position in _once(results, held_out=held_out) if items[position].group == group]
        gains = {
            name: gain
            for name, sides in compared.items()
            if sides is not None and (gain := _gain(sides, chosen, terms[name])) is not None
        }
        prompts = len({item.prompt for item in own})
        groups.append(GroupGains(group=group, prompts=prompts, items=len(own), gains=gains))
    return ByGroup(
        held_out=held_out,
        names=tuple(name for name in names if any(name in each.gains for each in groups)),
        left_out=tuple(dict.fromkeys(t.scorer for name in names for t in every[name] if t not in terms[name])),
        groups=tuple(groups),
    )


_Sides = tuple[Evidence, Evidence, str]
"""The trial shown, the parent that it is compared with, and that parent's letter."""


def _of_images(results: Results, terms: Sequence[Term]) -> tuple[Term, ...]:
    return tuple(term for term in terms if results.infos[term.scorer].scope == "image")


def _once(results: Results, *, held_out: bool) -> list[int]:
    """Return the items of a suite that render an image for the first time."""
    suite = results.suite(held_out=held_out)
    items = range(len(suite.items()))
    first = first_of_each(suite, Architecture(results.shown.recipe.architecture))
    return list(items) if first is None else positions_once(items, first)


def _compared(results: Results, name: str, *, held_out: bool) -> _Sides | None:
    """Return the two trials whose scores give a gain; None where it is not known."""
    gain = results.gains_on(held_out=held_out).get(name)
    if gain is None or gain.parent not in results.parents:
        return None
    own = _evidence(results, results.shown, held_out=held_out)
    parent = _evidence(results, results.parents[gain.parent], held_out=held_out)
    return None if own is None or parent is None else (own, parent, gain.parent)


def _evidence(results: Results, trial: StoredTrial, *, held_out: bool) -> Evidence | None:
    by_item = results.scores(trial, held_out=held_out).by_item
    items = results.suite(held_out=held_out).items()
    if not by_item or any(len(values) != len(items) for values in by_item.values()):
        return None
    return Evidence(items=len(items), scores=scores_of(items, by_item, {}))


def _gain(sides: _Sides, chosen: Sequence[int], terms: Sequence[Term]) -> Gain | None:
    """Return the gain on some items by those of the scorers that look at them; None where none does."""
    one, other, letter = sides
    own, parent = one.part(chosen), other.part(chosen)
    known = tuple(term for term in terms if own.knows((term,)) and parent.knows((term,)))
    if not known:
        return None
    low, high = difference_interval(own, parent, known)
    return Gain(value=difference(own, parent, known), low=low, high=high, parent=letter, basis=basis_of(own, known))
