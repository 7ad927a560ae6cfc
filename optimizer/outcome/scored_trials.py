"""Trials of another study that are copied to a new one with their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from optimizer.runtime.plan import Plan
from optimizer.search.probes import Probe
from optimizer.search.sampler import distributions
from optimizer.trial.objective import Objective, Scores
from optimizer.trial.ranking import best_trials, parent_trials
from studies.files.artifacts import Artifacts, Features, TrialFiles
from studies.records.copied_trials import CopiedTrial, CopiedTrials
from studies.records.values import StoredTrial, TrialResult
from studies.spec.study import StudySpec
from studies.spec.warm_start import NamedRecipe
from studies.system.database_url import redacted


@dataclass(frozen=True, kw_only=True)
class ScoredTrial:
    """A trial of the other study with the scores that it has in the new one."""

    trial: StoredTrial  # of the other study
    probe: Probe  # what it is in the new study
    scores: Scores  # of the new study's scorers
    pixels_sha256: tuple[str, ...]
    files: TrialFiles  # of the other study
    renders: Mapping[int, str]  # item -> file of a render that is still there
    has_contact_sheet: bool  # whether it is still there
    features: Callable[[], Features]


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What a new study takes from another one."""

    study: str  # its name
    scored: tuple[ScoredTrial, ...]  # by number
    again: tuple[NamedRecipe, ...]  # merges to render anew, best first
    notes: tuple[str, ...]  # what the user should know, one line each

    def written_into(self, spec: StudySpec) -> StudySpec:
        """Return the spec with the merges to render anew. With it, the other study is not needed again."""
        settings = spec.warm_start
        if settings is None:
            return spec
        storage = None if settings.storage is None else redacted(settings.storage)  # for people
        completed = settings.model_copy(update={"again": self.again, "storage": storage})
        return spec.model_copy(update={"warm_start": completed})

    def copied_trials(self, plan: Plan, artifacts: Artifacts) -> CopiedTrials:
        """Return the trials with the objectives of the new study, ready to be stored with it.

        Args:
            plan: of the new study, with the units of its scores.
            artifacts: of the new study.
        """
        objective = plan.objective
        trials = [replace(scored.trial, objectives=objective.values(scored.scores.means)) for scored in self.scored]
        with_renders = _with_renders(trials, objective, plan.spec.render.keep)
        copied = [
            self._copied(scored, trial, stores_renders=trial.number in with_renders)
            for scored, trial in zip(self.scored, trials, strict=True)
        ]
        return CopiedTrials(copied, distributions(plan.space), artifacts, plan.spec.suite)

    def _copied(self, scored: ScoredTrial, trial: StoredTrial, *, stores_renders: bool) -> CopiedTrial:
        """Return a scored trial as a trial of the new study.

        Args:
            trial: the same with the new study's objectives.
        """
        return CopiedTrial(
            origin=scored.probe.origin,
            source=f"{self.study} trial {trial.number}",
            recipe=scored.probe.recipe,
            params=scored.probe.params,
            result=TrialResult(
                objectives=trial.objectives,
                image_scores={name: tuple(map(float, values)) for name, values in scored.scores.by_item.items()},
                set_scores=dict(scored.scores.by_set),
                pixels_sha256=scored.pixels_sha256,
                seconds=trial.seconds,
                machine=trial.machine,
                batch_limits=trial.batch_limits,
            ),
            files=scored.files,
            renders=scored.renders if stores_renders else {},
            has_contact_sheet=scored.has_contact_sheet,
            features=scored.features,
            worker_id=trial.worker_id,
            started_at=trial.started_at,
            finished_at=trial.finished_at,
        )


def _with_renders(trials: Sequence[StoredTrial], objective: Objective, keep: str) -> frozenset[int]:
    """Return the numbers of the trials whose renders are copied: those that a worker would store."""
    if keep == "all":
        return frozenset(trial.number for trial in trials)
    chosen = () if keep == "none" else (*parent_trials(trials).values(), *best_trials(trials, objective))
    return frozenset(trial.number for trial in chosen)
