"""Record what follows from stored scores: gains over the parents, standard errors, and notes for the dashboard."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch

from basics.messages import counted
from basics.texts import shortened
from optimizer.errors import OptimizerError, StorageError
from optimizer.observe.trial_notes import trial_note
from optimizer.runtime.plan import Plan
from optimizer.search.depth.ties import Split, split_of
from optimizer.trial.constraints import feasible_or_all
from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import gains, standard_errors, terms_of
from optimizer.trial.objective import Scores
from optimizer.trial.ranking import parent_trials
from optimizer.trial.repeats import first_of_each, positions_once
from optimizer.trial.scoring import Scoring
from optimizer.trial.stored_scores import trial_scores
from studies.files.artifacts import Artifacts
from studies.records import stored_renders, stored_trials
from studies.records.cached_reads import CachedTrials
from studies.records.optuna_studies import optuna_study_id
from studies.records.optuna_tables import store_note
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

_log = logging.getLogger(__name__)


class GainRecorder:
    """A recorder of what follows from stored scores. It needs the database and the artifact store alone.

    Args:
        plan: the study's own, with the units of its scores.
        scoring: its scorers, by which set scores are drawn again.
    """

    def __init__(
        self,
        records: StudyRecords,
        cached_trials: CachedTrials,
        plan: Plan,
        scoring: Scoring,
        artifacts: Artifacts,
    ) -> None:
        self._records, self._artifacts = records, artifacts
        self._cached_trials = cached_trials
        self._plan, self._objective, self._scoring = plan, plan.objective, scoring
        self._optuna_id = optuna_study_id(records)
        self._first = first_of_each(plan.spec.suite, plan.space.architecture)
        self._lacking: set[int] = set()  # trials whose features were looked for, and are not there
        self._evidence: dict[int, Evidence] = {}  # of trials that others are compared with: parents and incumbents

    def stored_trial(self, number: int) -> StoredTrial:
        """Read a trial as it is stored now.

        Raises:
            OptimizerError: it is gone.
        """
        trial = stored_trials.load_trial(self._records, number)
        if trial is None:
            raise OptimizerError(f"trial {number} vanished from the database while it was being worked on")
        return trial

    def fill_gains(self, current: int | None = None) -> None:
        """Compare every finished trial with the feasible parents, or all where none is, once all parents have ended.

        Gains of an earlier version, whose intervals are over images, are computed anew. Where that needs features of
        the trial that are not in the artifact store, those in set scores stay as they are, or have no interval.

        Args:
            current: the trial whose note is written later.

        Raises:
            StorageError: features of a parent are not in the artifact store.
        """
        trials = self._cached_trials.trials()
        parents = parent_trials(trials)
        if len(parents) < len(self._records.study.parents) or any(
            trial.state == "running" for trial in parents.values()
        ):
            return
        finished = {letter: trial for letter, trial in parents.items() if trial.state == "complete"}
        if not finished:
            return
        means = {letter: trial.constrained for letter, trial in finished.items()}
        compared = feasible_or_all(means, self._objective.constraints)
        evidence = {letter: self._parent_evidence(finished[letter]) for letter in compared}
        lacking: dict[int, frozenset[str]] = {}
        for trial in trials:
            if trial.state == "complete" and not trial.has_gains and trial.number not in self._lacking:
                if missing := self._fill(trial, evidence):
                    lacking[trial.number] = missing
                if trial.number != current:  # its note was written before the parents had ended, or not at all
                    self.describe(self.stored_trial(trial.number))
        self._say_lacking(lacking)

    def _fill(self, trial: StoredTrial, parents: Mapping[str, Evidence]) -> frozenset[str]:
        """Store a trial's gains and standard errors, and return the set scorers whose features are missing."""
        items = list(range(len(self._plan.spec.suite.items())))
        if trial.estimated:
            items = [render.item for render in stored_renders.load_renders(self._records, trial)]
        own, objective, infos = self._load_evidence(trial), self._objective, self._plan.infos
        lacking = own.lacking
        if self._first is not None:
            once = positions_once(items, self._first)
            own, items = own.part(once), [items[each] for each in once]
        if trial.estimated or self._first is not None:
            parents = {letter: whole.part(items) for letter, whole in parents.items()}
        found, errors = gains(own, parents, objective, infos), standard_errors(own, objective, infos)
        for name, terms in terms_of(objective, infos).items():
            if lacking.isdisjoint(term.scorer for term in terms):
                continue
            if gain := trial.gains.get(name) or found.get(name):
                found[name] = replace(gain, basis=None)  # it is computed anew when the features are there again
            if name in trial.errors:
                errors[name] = trial.errors[name]
        stored_trials.store_gains(self._records, trial, found, errors)
        return lacking

    def _say_lacking(self, lacking: Mapping[int, frozenset[str]]) -> None:
        """Say in one line which trials' features are missing, and do not look for them again."""
        self._lacking |= lacking.keys()
        if lacking:
            _log.warning(
                "features of %s are not in %s for %s (%s): the intervals of these gains are not computed anew; restore "
                "the files from a backup, and the next worker does it",
                ", ".join(sorted(frozenset().union(*lacking.values()))),
                self._artifacts.location,
                counted(len(lacking), "trial"),
                shortened(", ".join(map(str, sorted(lacking)))),
            )

    def describe(self, trial: StoredTrial) -> None:
        """Write the trial's note for the dashboard."""
        means = trial_scores(self._records, trial).means
        trial_id = self._records.database.storage.get_trial_id_from_study_id_trial_number(self._optuna_id, trial.number)
        body = trial_note(self._plan, trial, means, self._split(trial_id), study_id=self._optuna_id, trial_id=trial_id)
        store_note(self._records.database, self._optuna_id, trial_id, body)

    def _split(self, trial_id: int) -> Split | None:
        """Return which sections were searched in blocks; None where there is nothing to split."""
        if not self._plan.space.settings.begins_coarse:
            return None
        return split_of(self._records.database.storage.get_trial(trial_id))

    def known_evidence(self, trial: StoredTrial) -> Evidence:
        """Read the evidence of a trial that others are compared with. It is read once."""
        if trial.number not in self._evidence:
            self._evidence[trial.number] = self._load_evidence(trial)
        return self._evidence[trial.number]

    def _parent_evidence(self, trial: StoredTrial) -> Evidence:
        """Read the evidence of a parent.

        Raises:
            StorageError: its features are not in the artifact store.
        """
        evidence = self.known_evidence(trial)
        if evidence.lacking:
            raise StorageError(
                f"features of {', '.join(sorted(evidence.lacking))} for trial {trial.number}, a parent, are not in "
                f"{self._artifacts.location}: name where the study's artifacts are with --artifacts"
            )
        return evidence

    def evidence(self, scores: Scores, features: Mapping[str, torch.Tensor]) -> Evidence:
        """Return what a comparison needs of a trial that is not stored yet."""
        return self._scoring.evidence(scores, features)

    def _load_evidence(self, trial: StoredTrial) -> Evidence:
        scores = trial_scores(self._records, trial)
        stored = self._artifacts.of_trial(self._records.study.key, trial.number, trial.worker_id).load_features()
        # A copied file may have more: features of scorers that this study has dropped.
        features = {name: torch.from_numpy(stored[name]) for name in scores.by_set if name in stored}
        return self._scoring.evidence(scores, features)
