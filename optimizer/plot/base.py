"""The merge from which a plot begins: a parent, a uniform ratio, or a trial of a study."""

from __future__ import annotations

import re
from dataclasses import dataclass

from basics.messages import counted
from optimizer.errors import PlotError
from optimizer.plot.axes import number_of
from optimizer.trial.best import load_best
from optimizer.trial.objective import Objective
from search_spaces.blocks import places
from search_spaces.slots import beyond_usual
from search_spaces.space import SearchSpace
from studies.recipe.adoption import numbers_of
from studies.recipe.blueprint import Blueprint, NumbersByPlace, alone_numbers
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.system.advice import advised, quoted

BEST = "best"
_TRIAL = re.compile(r"trial[\s:#-]*(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The merge from which a plot begins."""

    label: str
    parent: str | None  # the letter, where it is a parent alone
    numbers: NumbersByPlace | None  # None: the merge's steps do not yield it

    @property
    def varied(self) -> NumbersByPlace:
        """The numbers, some of which an axis changes.

        Raises:
            PlotError: there are none.
        """
        if self.numbers is None:
            raise PlotError(
                f"--base: the steps of this merge do not yield {self.label}, so its numbers cannot be varied: name "
                "another base, such as 0.5"
            )
        return self.numbers


def uniform_ratio(space: SearchSpace) -> float:
    """Return the ratio of the merge of equal parts: 0.5 of two parents."""
    return 1 / (1 + len(space.ratio_slots))


def read_base(
    text: str, space: SearchSpace, blueprint: Blueprint, records: StudyRecords | None, objective: Objective
) -> Base:
    """Return the base that a text names: a parent's letter, a ratio, `trial 7`, or `best`.

    Args:
        records: the study; None for a spec, which has no trials.

    Raises:
        PlotError: the text names none, or the study has no such trial.
    """
    letters = [parent.letter for parent in blueprint.parents]
    if text.strip().upper() in letters:
        return parent_base(text.strip().upper(), space, blueprint)
    ratio = number_of(text)
    if ratio is not None:
        return _uniform_base(ratio, space)
    found = _TRIAL.fullmatch(text.strip())
    if found is None and text.strip().lower() != BEST:
        raise PlotError(
            f"--base: expected one of {', '.join(letters)}, a ratio such as 0.5, trial N or best, got {text!r}"
        )
    if records is None:
        raise PlotError(
            f"--base {text}: a spec has no trials: name a study instead of it, or {letters[0]} or 0.5 as base"
        )
    trial = _best(records, objective) if found is None else _trial(int(found[1]), records)
    return _trial_base(trial, space, blueprint)


def parent_base(letter: str, space: SearchSpace, blueprint: Blueprint) -> Base:
    """Return a parent alone, without LoRAs."""
    numbers = alone(letter, space, blueprint)
    return Base(label=f"parent {letter} ({blueprint.parent(letter).name})", parent=letter, numbers=numbers)


def alone(letter: str, space: SearchSpace, blueprint: Blueprint) -> NumbersByPlace | None:
    """Return the numbers with which a merge is one parent alone, in every place; None where its steps do not yield it.

    Parameters of methods have no effect then, and take the space's numbers.
    """
    ratios = alone_numbers(blueprint.operations, [parent.letter for parent in blueprint.parents], letter)
    if ratios is None:
        return None
    usual = space.profile_numbers(dict.fromkeys(places(space.architecture), 0.0))
    own = (*ratios, *(0.0 for _ in blueprint.loras))
    return {
        place: tuple(fallback if number is None else number for number, fallback in zip(own, numbers, strict=True))
        for place, numbers in usual.items()
    }


def _uniform_base(ratio: float, space: SearchSpace) -> Base:
    """Return the merge of the space that is closest to one ratio everywhere, as the probes of a study are made."""
    far = beyond_usual("ratio", ratio)
    if far is not None:
        raise PlotError(f"--base: a ratio of {ratio:g} is {far}")
    params = space.nearest(space.profile_numbers(dict.fromkeys(places(space.architecture), ratio)))
    return Base(label=f"uniform {ratio:.3g}", parent=None, numbers=space.numbers_by_place(params))


def _best(records: StudyRecords, objective: Objective) -> StoredTrial:
    best = load_best(records, objective)
    if best is None:
        raise PlotError(
            f"the study {records.study.name} has no complete trial yet, so there is no best: name a base, such as "
            "--base A or --base 0.5"
        )
    return best.trial


def _trial(number: int, records: StudyRecords) -> StoredTrial:
    trials = {trial.number: trial for trial in load_trials(records)}
    if number not in trials:
        raise PlotError(
            f"--base: {records.study.name} has no trial {number}: it has {counted(len(trials), 'trial')} "
            f"(see `{advised(f'study show {quoted(records.study.name)} --trials', records.database.url)}`)"
        )
    return trials[number]


def _trial_base(trial: StoredTrial, space: SearchSpace, blueprint: Blueprint) -> Base:
    if trial.origin.parent is not None:
        return parent_base(trial.origin.parent, space, blueprint)
    return Base(label=trial.name, parent=None, numbers=numbers_of(trial.recipe, blueprint))
