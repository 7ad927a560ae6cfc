"""Trials of another study that a new one begins with, as if they were its own: copied whole, or not at all.

Optuna's part is written first, our tables in the transaction that makes the study. What is left of a start that was cut
off has no row of ours: the next start makes it anew. Nothing points back to the other study, which may vanish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import Connection

from studies import tables
from studies.artifacts import Artifacts
from studies.recipe import Recipe
from studies.results import TrialResult, insert_renders, inserted_id


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenTrial:
    """A finished trial of another study, with the objectives of the new one. Paths are those of the other's files."""

    origin: str
    source: str  # "STUDY trial 12"
    recipe: Recipe
    params: Mapping[str, float] | None  # None: outside the search space
    result: TrialResult  # without files and sheet
    renders: Mapping[int, Path] = field(default_factory=dict)  # item -> PNG
    sheet: Path | None = None
    features: Path | None = None  # of set scorers
    worker_id: str
    started_at: float
    finished_at: float | None


class CopiedTrials:
    """A Takeover (see `results.create_study`): the first trials of a new study, in their order.

    Args:
        distributions: of the new study's parameters.
        artifacts: of the new study.
    """

    def __init__(
        self, trials: Sequence[TakenTrial], distributions: Mapping[str, BaseDistribution], artifacts: Artifacts
    ) -> None:
        self._trials, self._distributions, self._artifacts = trials, dict(distributions), artifacts
        self._sheets: list[str | None] = []  # artifact ids

    def into_optuna(self, study: optuna.Study) -> None:
        self._sheets = []
        for number, taken in enumerate(self._trials):
            sheet, attached = (None, None) if taken.sheet is None else self._artifacts.copy_sheet(number, taken.sheet)
            self._sheets.append(sheet)
            study.add_trial(self._frozen(taken, attached))

    def _frozen(self, taken: TakenTrial, attached: dict[str, Any] | None) -> FrozenTrial:
        """As a worker tells it: a merge outside the space has no parameters to learn from."""
        if taken.params is None:
            return create_trial(state=TrialState.PRUNED, system_attrs=attached)
        return create_trial(
            values=list(taken.result.objectives.values()),
            params=dict(taken.params),
            distributions=self._distributions,
            system_attrs=attached,
        )

    def into_tables(self, connection: Connection, study_id: int, key: str) -> None:
        for number, (taken, sheet) in enumerate(zip(self._trials, self._sheets, strict=True)):
            files = {item: self._artifacts.copy_render(key, number, item, path) for item, path in taken.renders.items()}
            if taken.features is not None:
                self._artifacts.copy_features(key, number, taken.features)
            result = replace(taken.result, files=files)
            insert_renders(connection, _insert_trial(connection, study_id, number, taken, sheet), result)


def _insert_trial(connection: Connection, study_id: int, number: int, taken: TakenTrial, sheet: str | None) -> int:
    return inserted_id(
        connection.execute(
            tables.trials.insert().values(
                study_id=study_id,
                number=number,
                origin=taken.origin,
                source=taken.source,
                recipe=taken.recipe.to_json(),
                recipe_digest=taken.recipe.digest,
                worker_id=taken.worker_id,
                attempt=1,
                state="complete",
                objectives=dict(taken.result.objectives),
                seconds=dict(taken.result.seconds),
                machine=dict(taken.result.machine),
                sheet=sheet,
                rendered=len(taken.result.pixels_sha256),
                started_at=taken.started_at,
                finished_at=taken.finished_at,
            )
        )
    )
