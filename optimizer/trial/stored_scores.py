"""The scores of a trial as they are stored, with what each image counts for in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from optimizer.trial.by_prompt import prompt_numbers
from optimizer.trial.objective import Scores
from studies.records.stored_renders import load_renders, load_scores
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.spec.suite import SuiteItem, SuiteSettings


def trial_scores(records: StudyRecords, trial: StoredTrial) -> Scores:
    """Read the scores of a trial of a study."""
    by_item, by_set = load_scores(records, trial)
    return scores_of(rendered_items(records, trial), by_item, by_set)


def rendered_items(records: StudyRecords, trial: StoredTrial) -> tuple[SuiteItem, ...]:
    """Return the items of the suite that a complete trial has rendered, in their order."""
    items = records.study.spec.suite.items()
    if not trial.estimated:
        return items
    return tuple(items[render.item] for render in load_renders(records, trial))


def suite_scores(suite: SuiteSettings, by_item: Mapping[str, Sequence[float]], by_set: Mapping[str, float]) -> Scores:
    """Return the scores of a whole suite."""
    return scores_of(suite.items(), by_item, by_set)


def scores_of(
    items: Sequence[SuiteItem], by_item: Mapping[str, Sequence[float]], by_set: Mapping[str, float]
) -> Scores:
    """Return the scores of some items.

    Args:
        by_item: scorer -> a value for each of them; NaN where it leaves one out.
        by_set: set scorer -> the value of those that it looks at.
    """
    looked_at = {
        name: np.array([position for position, item in enumerate(items) if name not in item.without], dtype=np.int64)
        for name in by_set
    }
    return Scores(
        by_item={name: np.array(values, dtype=np.float64) for name, values in by_item.items()},
        by_set=dict(by_set),
        weights=np.array([item.weight for item in items]),
        prompts=prompt_numbers([item.prompt for item in items]),
        members={name: positions for name, positions in looked_at.items() if positions.size < len(items)},
    )
