"""What follows from stored scores: gains over the parents, standard errors, and the trials' notes in the dashboard."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from optimizer.errors import OptimizerError, StorageError
from optimizer.observe.trial_notes import trial_note
from optimizer.runtime.plan import Plan
from optimizer.search.depth.ties import Split, split_of
from optimizer.trial.gains import Evidence, gains, standard_errors
from optimizer.trial.objective import ScoreSheet
from optimizer.trial.ranking import parent_trials
from optimizer.trial.scoring import Scoring
from studies.files.artifacts import Artifacts
from studies.records import stored_renders, stored_trials
from studies.records.cached_reads import CachedTrials
from studies.records.database import Database
from studies.records.optuna_tables import store_note
from studies.records.values import StoredStudy, StoredTrial


class GainRecorder:
    """Completes the trials of one study, from the database and the artifact store alone.

    Args:
        plan: the study's own, with the units of its scores.
        scoring: its scorers, by which set scores are drawn again.
    """

    def __init__(
        self,
        database: Database,
        study: StoredStudy,
        cached: CachedTrials,
        plan: Plan,
        scoring: Scoring,
        artifacts: Artifacts,
    ) -> None:
        self._database, self._study, self._artifacts = database, study, artifacts
        self._cached = cached
        self._plan, self._objective, self._scoring = plan, plan.objective, scoring
        self._optuna_id = database.storage.get_study_id_from_name(study.name)
        self._evidence: dict[int, Evidence] = {}  # of trials that others are compared with: parents and incumbents

    def row(self, number: int) -> StoredTrial:
        """A trial that was begun, as it is stored now."""
        row = stored_trials.load_trial(self._database, self._study, number)
        if row is None:
            raise OptimizerError(f"trial {number} vanished from the database while it was being worked on")
        return row

    def fill_gains(self, current: int | None = None) -> None:
        """Compare every finished trial with the parents, as soon as all parents are in.

        Args:
            current: the trial whose note is written later.
        """
        rows = self._cached.trials()
        parents = parent_trials(rows)
        if len(parents) < len(self._study.parents) or any(row.state == "running" for row in parents.values()):
            return
        finished = {letter: row for letter, row in parents.items() if row.state == "complete"}
        if not finished:
            return
        evidence = {letter: self.known_evidence(row) for letter, row in finished.items()}
        for row in rows:
            if row.state == "complete" and not row.gains:
                against = evidence
                if row.estimated:
                    items = [render.item for render in stored_renders.load_renders(self._database, row)]
                    against = {letter: whole.part(items) for letter, whole in evidence.items()}
                own, objective, infos = self._load_evidence(row), self._objective, self._plan.infos
                found, errors = gains(own, against, objective, infos), standard_errors(own, objective, infos)
                stored_trials.store_gains(self._database, row, found, errors)
                if row.number != current:  # its note was written before the parents were in, or not at all
                    self.describe(self.row(row.number))

    def describe(self, row: StoredTrial) -> None:
        """The trial's note in the dashboard."""
        by_item, by_set = stored_renders.load_scores(self._database, row)
        means = {name: float(np.mean(values)) for name, values in by_item.items()} | by_set
        trial_id = self._database.storage.get_trial_id_from_study_id_trial_number(self._optuna_id, row.number)
        body = trial_note(self._plan, row, means, self._split(trial_id), study_id=self._optuna_id, trial_id=trial_id)
        store_note(self._database, self._optuna_id, trial_id, body)

    def _split(self, trial_id: int) -> Split | None:
        """Which sections were searched in blocks; None where there is nothing to split."""
        if not self._plan.space.settings.begins_coarse:
            return None
        return split_of(self._database.storage.get_trial(trial_id))

    def known_evidence(self, row: StoredTrial) -> Evidence:
        """Of a trial that others are compared with, read once."""
        if row.number not in self._evidence:
            self._evidence[row.number] = self._load_evidence(row)
        return self._evidence[row.number]

    def evidence(self, sheet: ScoreSheet, features: Mapping[str, torch.Tensor]) -> Evidence:
        """What a comparison needs of a trial that is not stored yet."""
        return self._scoring.evidence(sheet, features)

    def _load_evidence(self, row: StoredTrial) -> Evidence:
        by_item, by_set = stored_renders.load_scores(self._database, row)
        sheet = ScoreSheet(by_item={name: np.array(values) for name, values in by_item.items()}, by_set=by_set)
        stored = self._artifacts.of_trial(self._study.key, row.number, row.worker_id).load_features()
        if missing := by_set.keys() - stored.keys():
            raise StorageError(
                f"features of {', '.join(sorted(missing))} for trial {row.number} are not in {self._artifacts.place}: "
                "name where the study's artifacts are with --artifacts"
            )
        # A file that was taken over may have more: features of scorers that this study has dropped.
        features = {name: torch.from_numpy(stored[name]) for name in by_set}
        return self._scoring.evidence(sheet, features)
