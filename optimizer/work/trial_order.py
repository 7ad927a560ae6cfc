"""The order of a study's trials: by its number a trial is a copy, a probe, or a merge that the sampler proposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from optuna.study import Study

from optimizer.runtime.setup import Runtime
from optimizer.search.probes import Probe, without
from optimizer.search.sampler import ProbesFirst
from search_spaces.space import SearchSpace
from studies.recipe.blueprint import Blueprint
from studies.records.values import StoredTrial
from studies.spec.search import SamplerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOrder:
    """The order of a study's trials: copies come first, then the probes, then the sampler's."""

    space: SearchSpace
    blueprint: Blueprint
    settings: SamplerSettings
    probes: tuple[Probe, ...]  # those that are not among the copied trials
    copied: int  # trials from another study that this one began with: the first numbers

    @classmethod
    def of(cls, runtime: Runtime, trials: Sequence[StoredTrial]) -> Self:
        """Make the order of trials of a study that is ready to run.

        Args:
            trials: every trial that was started.
        """
        copies = [trial for trial in trials if trial.source is not None]
        return cls(
            space=runtime.plan.space,
            blueprint=runtime.blueprint,
            settings=runtime.spec.sampler,
            probes=without(runtime.probes, {trial.recipe.digest for trial in copies}),
            copied=len(copies),
        )

    def sampler(self, current: Callable[[Study], Study] | None = None, *, smoothed: bool = False) -> ProbesFirst:
        """Make the sampler that Optuna asks for parameters.

        Args:
            current: as `ProbesFirst` takes it.
            smoothed: as `ProbesFirst` takes it.
        """
        return ProbesFirst(self.settings, self.space, self.probes, self.copied, current, smoothed=smoothed)

    def probe(self, number: int) -> Probe | None:
        """Return the probe for a trial's number; None where the sampler proposes the trial."""
        index = number - self.copied
        return self.probes[index] if index < len(self.probes) else None

    def has_parameters(self, number: int) -> bool:
        """Return whether a trial lies in the search space, so that a sampler can learn from it."""
        probe = self.probe(number)
        return probe is None or probe.params is not None
