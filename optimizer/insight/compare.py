"""Comparison of two studies: the settings that differ, and their best trials, paired item by item if that is fair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import PromptError
from optimizer.trial.best import Best, best_of, load_results
from optimizer.trial.by_prompt import basis_of_lines
from optimizer.trial.objective import SINGLE, Objective, Scores
from optimizer.trial.repeats import first_of_each, positions_once
from optimizer.trial.standard_errors import mean_interval
from optimizer.trial.stored_scores import trial_scores
from optimizer.trial.weighted import grouped
from scorers.protocol import Direction, ScorerInfo
from search_spaces.blocks import Architecture
from studies.records.study_records import StudyRecords
from studies.records.values import Basis, StoredStudy, StoredTrial
from studies.spec.fingerprints import files_of_scorer, those_of_suite
from studies.spec.suite import SuiteItem

NOT_SETTINGS: Final = ("study", "budget")  # keys of the spec that are not compared: any two studies differ in them


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two studies."""

    study: StoredStudy
    objective: Objective
    infos: Mapping[str, ScorerInfo]
    trials: tuple[StoredTrial, ...]
    chosen: Best | None  # None while no trial is complete
    scores: Scores  # of the best trial; empty if there is none

    @property
    def best(self) -> StoredTrial | None:
        """The study's best trial."""
        return None if self.chosen is None else self.chosen.trial

    @property
    def means(self) -> dict[str, float]:
        """The best trial's mean score by each scorer."""
        return self.scores.means


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The paired difference of one score over the suite's items: the second study's best trial minus the first's."""

    name: str  # of a scorer, or "objective"
    direction: Direction
    difference: float
    low: float | None  # lower end of the 95 % interval; None for a single item
    high: float | None  # upper end
    items: int
    basis: Basis  # what the interval is over


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpaired:
    """A score that cannot be compared item by item, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StudyComparison:
    """Two studies and how they differ."""

    first: Side
    second: Side
    settings: Mapping[str, tuple[str, str]]  # dotted key of the spec -> the value in each study; only those that differ
    scores: tuple[Paired | Unpaired, ...]  # the objective, then every scorer that either study has
    other_parents: tuple[str, str] | None
    """Names of both studies' parents; None if they are the same files. With other parents, gains do not compare."""


def compare(first: Side, second: Side) -> StudyComparison:
    """Compare two studies."""
    return StudyComparison(
        first=first,
        second=second,
        settings=setting_differences(first.study, second.study),
        scores=tuple(paired_scores(first, second)),
        other_parents=_other_parents(first.study, second.study),
    )


def load_side(records: StudyRecords, objective: Objective, infos: Mapping[str, ScorerInfo]) -> Side:
    """Load a study with the scores of its best trial."""
    trials, final = load_results(records)
    chosen = best_of(trials, final, objective)
    scores = Scores(by_item={}, by_set={}) if chosen is None else trial_scores(records, chosen.trial)
    return Side(
        study=records.study, objective=objective, infos=infos, trials=tuple(trials), chosen=chosen, scores=scores
    )


# ------------------------------------------------------------------------------------------- settings


def setting_differences(first: StoredStudy, second: StoredStudy) -> dict[str, tuple[str, str]]:
    """Map each dotted key of the spec whose values differ to both values; parents differ by content, not by path."""
    ours, theirs = _flat_settings(first), _flat_settings(second)
    keys = [*ours, *(key for key in theirs if key not in ours)]
    return {
        key: (ours.get(key, "-"), theirs.get(key, "-")) for key in keys if ours.get(key, "-") != theirs.get(key, "-")
    }


def _flat_settings(study: StoredStudy) -> dict[str, str]:
    data = study.spec.as_asked.model_dump(mode="json", exclude=set(NOT_SETTINGS) | {"parents"})
    parents = {file.letter: f"{file.path.stem} ({file.sha256[:10]})" for file in study.parents}
    return dict(_flat({"parents": parents, **data}, ""))


def _flat(value: Any, key: str) -> list[tuple[str, str]]:
    """Flatten nested mappings into pairs of dotted key and text; empty values are left out."""
    if isinstance(value, Mapping):
        return [pair for name, inner in value.items() for pair in _flat(inner, f"{key}.{name}" if key else str(name))]
    if value is None or value == []:
        return []
    if isinstance(value, list):
        return [(key, ", ".join(str(entry) for entry in value))]
    return [(key, f"{value:g}" if isinstance(value, float) else str(value))]


def _other_parents(first: StoredStudy, second: StoredStudy) -> tuple[str, str] | None:
    ours, theirs = ({file.sha256 for file in study.parents} for study in (first, second))
    if ours == theirs:
        return None
    names = (", ".join(file.path.stem for file in study.parents) for study in (first, second))
    return next(names), next(names)


# --------------------------------------------------------------------------------------- paired scores


def paired_scores(first: Side, second: Side) -> list[Paired | Unpaired]:
    """Compare every score of the two best trials, paired if suite and scorer are the same."""
    names = list(dict.fromkeys([*first.study.spec.scorers, *second.study.spec.scorers]))
    objective: list[Paired | Unpaired] = []
    if first.objective.terms and second.objective.terms:
        objective.append(_paired_objective(first, second))
    return [*objective, *(_paired_scorer(name, first, second) for name in names)]


def why_no_pairs(first: Side, second: Side) -> str | None:
    """Return why no score of two studies can be paired; None if some can."""
    for side in (first, second):
        if side.best is None:
            return f"study {side.study.name!r} has no complete trial yet"
    if not _same_suite(first, second):
        return "the suites differ (prompts, seeds, sizes or how they are rendered), so no two images belong together"
    return None


def _same_suite(first: Side, second: Side) -> bool:
    """Return whether both studies, each with a best trial, render the same noise for the same prompts."""
    read = [those_of_suite(side.study.fingerprints) for side in (first, second)]
    if first.best is None or read[0] != read[1]:
        return False
    if first.study.suite_digest == second.study.suite_digest:
        return True
    from optimizer.rendering.sameness import same_renders  # it loads torch

    architecture = Architecture(first.best.recipe.architecture)
    try:
        return same_renders(first.study.spec.suite, second.study.spec.suite, architecture)
    except PromptError:  # the embeddings that they name are not on this machine
        return False


def why_not_paired(name: str, first: Side, second: Side) -> str | None:
    """Return why the values of one scorer cannot be paired; None if they can."""
    if (reason := why_no_pairs(first, second)) is not None:
        return reason
    for side in (first, second):
        if name not in side.study.spec.scorers:
            return f"study {side.study.name!r} does not have this scorer"
    if first.study.spec.scorers[name] != second.study.spec.scorers[name]:
        return "its settings differ"
    files = files_of_scorer(name)
    if first.study.fingerprints.get(files) != second.study.fingerprints.get(files):
        return "the files it reads (weights, references) differ"
    if _compared_files(name, first) != _compared_files(name, second):
        return "it compares with another model in each"
    if name not in first.scores.by_item or name not in second.scores.by_item:
        return "it is one number for the whole set of images, not one per image"
    one, other = first.study.spec.suite.items(), second.study.spec.suite.items()
    if [name in item.without for item in one] != [name in item.without for item in other]:
        return "other prompts are left out of it"
    if not np.array_equal(_relative_weights(one), _relative_weights(other)):
        return "the weights of the prompts differ"
    return None


def _compared_files(name: str, side: Side) -> tuple[str, ...]:
    """Return the sha256 of the parents with whose renders a scorer compares: its settings name them by letter."""
    sha256 = {file.letter: file.sha256 for file in side.study.parents}
    return tuple(sha256[letter] for letter in side.objective.compared.get(name, ()))


def _paired_scorer(name: str, first: Side, second: Side) -> Paired | Unpaired:
    if (reason := why_not_paired(name, first, second)) is not None:
        return Unpaired(name=name, reason=reason)
    differences = second.scores.by_item[name] - first.scores.by_item[name]
    return _paired(name, first.infos[name].direction, [differences], first)


def _paired_objective(first: Side, second: Side) -> Paired | Unpaired:
    """Pair the objective item by item, as the sum of its terms; both studies must have the same terms."""
    if (reason := why_no_pairs(first, second)) is not None:
        return Unpaired(name=SINGLE, reason=reason)
    if first.objective.terms != second.objective.terms:
        ours, theirs = first.objective.formula(), second.objective.formula()
        return Unpaired(name=SINGLE, reason=f"the studies have different objectives: {ours} and {theirs}")
    for term in first.objective.terms:
        if (reason := why_not_paired(term.scorer, first, second)) is not None:
            return Unpaired(name=SINGLE, reason=f"{term.scorer}: {reason}")
    differences = grouped(
        term.factor * (second.scores.by_item[term.scorer] - first.scores.by_item[term.scorer])
        for term in first.objective.terms
    )
    return _paired(SINGLE, "maximize", differences, first)


def _relative_weights(items: Sequence[SuiteItem]) -> NDArray[np.float64]:
    """Return the weights of items, the first being 1."""
    return np.array([item.weight / items[0].weight for item in items])


def _positions(side: Side) -> list[int]:
    """Return the items of a study with a best trial that render an image for the first time."""
    items = range(len(side.study.spec.suite.items()))
    first = (
        None if side.best is None else first_of_each(side.study.spec.suite, Architecture(side.best.recipe.architecture))
    )
    return list(items) if first is None else positions_once(items, first)


def _paired(name: str, direction: Direction, lines: Sequence[NDArray[np.float64]], side: Side) -> Paired:
    """Return the sum of some means of paired differences.

    Args:
        lines: [items] each, NaN where a scorer leaves one out.
        side: the study whose weights count.
    """
    positions, scores = _positions(side), side.scores
    chosen = [line[positions] for line in lines]
    weights = None if scores.weights is None else scores.weights[positions]
    prompts = np.arange(len(positions)) if scores.prompts is None else scores.prompts[positions]
    difference, low, high = mean_interval(chosen, weights, prompts)
    seen = [~np.isnan(line) for line in chosen]
    return Paired(
        name=name,
        direction=direction,
        difference=difference,
        low=low,
        high=high,
        items=int(np.any(seen, axis=0).sum()),
        basis=basis_of_lines(seen, prompts),
    )
