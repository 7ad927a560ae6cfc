"""Trials of another study that a new one begins with, as if they were its own: copied whole, or not at all.

Optuna's part is written first, and our tables in the transaction that makes the study. What a start that was cut off
left in Optuna's tables is not in ours, so the next start replaces it. Nothing points back to the other study, which may
be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import Connection

from studies.files.artifacts import SHEET, Artifacts, Features, TrialFiles, sheet_attributes
from studies.recipe.recipe import Recipe
from studies.records import tables
from studies.records.database import inserted_id
from studies.records.kept_renders import render_names
from studies.records.origins import Origin
from studies.records.stored_renders import insert_renders
from studies.records.stored_trials import columns_of_result
from studies.records.values import TrialResult
from studies.spec.suite import SuiteSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedTrial:
    """A finished trial of another study, with the objectives of the new one."""

    origin: Origin
    source: str  # "STUDY trial 12"
    recipe: Recipe
    params: Mapping[str, float] | None  # None: outside the search space
    result: TrialResult  # without files and contact sheet
    files: TrialFiles  # of the other study
    renders: Mapping[int, str] = field(default_factory=dict)  # item -> file of a render that is copied
    has_contact_sheet: bool = False  # which is then copied
    features: Callable[[], Features] = dict  # of set scorers
    worker_id: str
    started_at: float
    finished_at: float | None


class CopiedTrials:
    """The first trials of a new study, in their order: FirstTrials for `create_study`.

    Args:
        distributions: of the new study's parameters.
        artifacts: of the new study.
        suite: of the new study.
    """

    def __init__(
        self,
        trials: Sequence[CopiedTrial],
        distributions: Mapping[str, BaseDistribution],
        artifacts: Artifacts,
        suite: SuiteSettings,
    ) -> None:
        self._trials, self._distributions, self._artifacts = trials, dict(distributions), artifacts
        self._suite = suite

    def into_optuna(self, study: optuna.Study, key: str) -> None:
        """Copy files under the new study's key, and add the trials to Optuna's study."""
        for number, copied in enumerate(self._trials):
            self._copy_files(number, copied, self._files(key, number))
            study.add_trial(self._frozen(number, copied, key))

    def _files(self, key: str, number: int) -> TrialFiles:
        return self._artifacts.of_trial(key, number, self._trials[number].worker_id)

    def _copy_files(self, number: int, copied: CopiedTrial, files: TrialFiles) -> None:
        names = render_names(self._suite, number)
        for item, file in copied.renders.items():
            files.copy(file, copied.files, names[item])
        if copied.has_contact_sheet:
            files.copy(SHEET, copied.files)
        if features := copied.features():
            files.save_features(features)

    def _frozen(self, number: int, copied: CopiedTrial, key: str) -> FrozenTrial:
        """Return the trial as a worker tells it. A merge outside the space has no parameters to learn from."""
        attached = sheet_attributes(self._files(key, number).sheet_id, number) if copied.has_contact_sheet else None
        if copied.params is None:
            return create_trial(state=TrialState.PRUNED, system_attrs=attached)
        return create_trial(
            values=list(copied.result.objectives.values()),
            params=dict(copied.params),
            distributions=self._distributions,
            system_attrs=attached,
        )

    def into_tables(self, connection: Connection, study_id: int, key: str) -> None:
        """Add the trials to our tables."""
        for number, copied in enumerate(self._trials):
            files, names = self._files(key, number), render_names(self._suite, number)
            renders = {item: files.name(names[item]) for item in copied.renders}
            result = replace(
                copied.result, files=renders, contact_sheet=files.sheet_id if copied.has_contact_sheet else None
            )
            insert_renders(connection, _insert_trial(connection, study_id, number, copied, result), result)


def _insert_trial(connection: Connection, study_id: int, number: int, copied: CopiedTrial, result: TrialResult) -> int:
    return inserted_id(
        connection.execute(
            tables.trials.insert().values(
                study_id=study_id,
                number=number,
                origin=str(copied.origin),
                source=copied.source,
                recipe=copied.recipe.to_json(),
                recipe_digest=copied.recipe.digest,
                worker_id=copied.worker_id,
                attempt=1,
                **columns_of_result(result),
                started_at=copied.started_at,
                finished_at=copied.finished_at,
            )
        )
    )
