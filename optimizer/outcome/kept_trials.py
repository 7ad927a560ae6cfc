"""Trials of another study that a new one takes over with their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from optimizer.runtime.plan import Plan
from optimizer.search.probes import Probe
from optimizer.search.sampler import distributions
from optimizer.trial.objective import Objective, Scores
from optimizer.trial.ranking import best_trials, parent_trials
from studies.files.artifacts import Artifacts, Features, TrialFiles
from studies.records.takeover import CopiedTrials, TakenTrial
from studies.records.values import StoredTrial, TrialResult
from studies.spec.study import StudySpec
from studies.spec.warm_start import NamedRecipe
from studies.system.database_url import redacted


@dataclass(frozen=True, kw_only=True)
class KeptTrial:
    """A trial of the other study with the scores that it has in the new one."""

    trial: StoredTrial  # of the other study
    probe: Probe  # what it is in the new study
    scores: Scores  # of the new study's scorers
    pixels_sha256: tuple[str, ...]
    files: TrialFiles  # of the other study
    renders: tuple[int, ...]  # items whose renders were kept and are still there
    has_contact_sheet: bool  # whether it is still there
    features: Callable[[], Features]


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What another study gives."""

    study: str  # its name
    kept: tuple[KeptTrial, ...]  # by number
    again: tuple[NamedRecipe, ...]  # merges to render anew, best first
    notes: tuple[str, ...]  # what the user should know, one line each

    def written_into(self, spec: StudySpec) -> StudySpec:
        """Return the spec with the merges to render anew, so that the other study is not needed again."""
        settings = spec.warm_start
        if settings is None:
            return spec
        storage = None if settings.storage is None else redacted(settings.storage)  # for people
        completed = settings.model_copy(update={"again": self.again, "storage": storage})
        return spec.model_copy(update={"warm_start": completed})

    def takeover(self, plan: Plan, artifacts: Artifacts) -> CopiedTrials:
        """Give the kept trials the objectives of the new study, ready to be stored with it.

        Args:
            plan: of the new study, with the units of its scores.
            artifacts: of the new study.
        """
        objective = plan.objective
        trials = [replace(kept.trial, objectives=objective.values(kept.scores.means)) for kept in self.kept]
        with_renders = _with_renders(trials, objective, plan.spec.render.keep)
        taken = [
            self._taken(kept, trial, keeps_renders=trial.number in with_renders)
            for kept, trial in zip(self.kept, trials, strict=True)
        ]
        return CopiedTrials(taken, distributions(plan.space), artifacts)

    def _taken(self, kept: KeptTrial, trial: StoredTrial, *, keeps_renders: bool) -> TakenTrial:
        """A kept trial as a trial of the new study.

        Args:
            trial: the same with the new study's objectives.
        """
        return TakenTrial(
            origin=kept.probe.origin,
            source=f"{self.study} trial {trial.number}",
            recipe=kept.probe.recipe,
            params=kept.probe.params,
            result=TrialResult(
                objectives=trial.objectives,
                image_scores={name: tuple(map(float, values)) for name, values in kept.scores.by_item.items()},
                set_scores=dict(kept.scores.by_set),
                pixels_sha256=kept.pixels_sha256,
                seconds=trial.seconds,
                machine=trial.machine,
            ),
            files=kept.files,
            renders=kept.renders if keeps_renders else (),
            sheet=kept.has_contact_sheet,
            features=kept.features,
            worker_id=trial.worker_id,
            started_at=trial.started_at,
            finished_at=trial.finished_at,
        )


def _with_renders(trials: Sequence[StoredTrial], objective: Objective, keep: str) -> frozenset[int]:
    """Numbers of the trials whose renders stay as files, as a worker would keep them."""
    if keep == "all":
        return frozenset(trial.number for trial in trials)
    chosen = () if keep == "none" else (*parent_trials(trials).values(), *best_trials(trials, objective))
    return frozenset(trial.number for trial in chosen)
