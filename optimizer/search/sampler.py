"""The sampler that proposes the next trial. It depends on nothing but the database.

Every trial gets a new sampler, seeded by the study's seed and the trial's number. So an interrupted study continues
exactly as if it had not been interrupted, and no sampler's state has to be saved.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, create_trial

from optimizer.search.depth.sampler import DepthGPSampler
from optimizer.search.probes import Probe
from optimizer.search.proposal import Proposal
from search_spaces.space import SearchSpace
from studies.errors import SpecError
from studies.spec.search import SamplerName, SamplerSettings
from studies.spec.study import StudySpec

SAMPLERS: Mapping[SamplerName, Callable[..., BaseSampler]] = {
    "depth": DepthGPSampler,
    "gp": GPSampler,
    "tpe": TPESampler,
    "cmaes": CmaEsSampler,
    "nsgaii": NSGAIISampler,
    "qmc": QMCSampler,
    "random": RandomSampler,
}
SINGLE_OBJECTIVE = ("cmaes",)  # samplers that cannot optimise several objectives
SPLITTING = ("depth",)  # samplers that can split sections, as `granularity: auto` needs
TEST_TRIALS = 12  # more than samplers draw at random before they begin to model
UNCONSTRAINED = ("cmaes", "qmc", "random")  # samplers that do not look at constraints
STATEFUL = ("qmc",)  # samplers that count their proposals in the study, so asking twice gives two proposals
PROPOSAL_KEY = "mergetune:proposal"
"""System attribute of a trial: the parameters that a stateful sampler proposed, as JSON."""


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the distribution of each parameter of the space, as Optuna needs it."""
    return {parameter.name: FloatDistribution(parameter.low, parameter.high) for parameter in space.parameters}


def make_sampler(settings: SamplerSettings, space: SearchSpace, number: int, objectives: int) -> BaseSampler:
    """Make the sampler for one trial.

    Args:
        settings: which sampler, its seed and its options.
        space: for the depth-aware sampler, which needs more than Optuna's distributions.
        number: of the trial.
        objectives: how many the study has.

    Raises:
        SpecError: the sampler does not take these options, cannot optimise several objectives, or cannot split
            sections and the space has `granularity: auto`.
    """
    if objectives > 1 and settings.name in SINGLE_OBJECTIVE:
        raise SpecError(
            f"sampler {settings.name} takes a single objective, but the study has {objectives}: "
            "use depth, gp, tpe or nsgaii"
        )
    if space.settings.begins_coarse and settings.name not in SPLITTING:
        raise SpecError(
            f"granularity auto needs a sampler that can split sections, {' or '.join(SPLITTING)}, "
            f"and the spec names {settings.name}: use granularity blocks or sections with it"
        )
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    options, maker = dict(settings.options), SAMPLERS[settings.name]
    if settings.name == "depth":  # it derives each trial's random numbers from seed and number itself
        seed, maker = settings.seed, partial(DepthGPSampler, space)
    elif (
        settings.name == "qmc"
    ):  # one sequence: all trials share its seed, and the trial's number is the position in it
        seed, options = settings.seed, {"scramble": True, "warn_asynchronous_seeding": False} | options
    try:
        with warnings.catch_warnings():  # the user chose the sampler and its options by name
            warnings.simplefilter("ignore", ExperimentalWarning)
            return maker(seed=seed, **options)
    except (TypeError, ValueError) as error:
        given = dict(settings.options)
        raise SpecError(f"sampler {settings.name} does not take the options {given}: {error}") from error


def check_options(settings: SamplerSettings, space: SearchSpace, objectives: int) -> None:
    """Try the options: let the sampler propose, because Optuna's samplers accept wrong types and fail later.

    Raises:
        SpecError: as `make_sampler`, or the sampler fails with its options.
    """
    make_sampler(settings, space, 0, objectives)
    if not settings.options:
        return
    generator, ranges = np.random.default_rng(0), distributions(space)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(directions=["maximize"] * objectives, sampler=ProbesFirst(settings, space, ()))
        for _ in range(TEST_TRIALS):
            params = {
                parameter.name: float(generator.uniform(parameter.low, parameter.high))
                for parameter in space.parameters
            }
            values = generator.normal(size=objectives).tolist()
            study.add_trial(create_trial(params=params, distributions=ranges, values=values))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study.ask().relative_params  # noqa: B018 - this property makes the sampler propose
    except Exception as error:  # a wrong option may raise anything
        given = dict(settings.options)
        raise SpecError(f"sampler {settings.name} fails with the options {given}: {error}") from error
    finally:
        optuna.logging.set_verbosity(verbosity)


def constraint_notes(spec: StudySpec) -> Iterator[str]:
    """Yield one line that the sampler does not look at the constraints of a spec; nothing where it does."""
    if spec.constraints and spec.sampler.name in UNCONSTRAINED:
        yield (
            f"constraints: sampler {spec.sampler.name} proposes merges as if there were none; they decide about the "
            "best trial and the final all the same; use depth, gp, tpe or nsgaii to search within them"
        )


def samples_jointly(settings: SamplerSettings, objectives: int) -> bool:
    """Return whether the sampler proposes all parameters jointly; random never does, TPE by its option."""
    if settings.name == "tpe":
        return bool(settings.options.get("multivariate", objectives == 1))
    return settings.name != "random"


class ProbesFirst(BaseSampler):
    """A sampler that first proposes the study's probes, then what the sampler of its settings proposes.

    Probes are not enqueued. A trial's number decides which probe it is, so two workers cannot take the same one, and
    an interrupted probe is the same probe when it runs again.

    Args:
        copied: number of trials copied from another study; the probes follow them.
        current: gives the study with the values that its trials have now; None: they are those that Optuna has.
        smoothed: whether these values are smoothed already, as those of votes are.
    """

    def __init__(
        self,
        settings: SamplerSettings,
        space: SearchSpace,
        probes: Sequence[Probe],
        copied: int = 0,
        current: Callable[[Study], Study] | None = None,
        *,
        smoothed: bool = False,
    ) -> None:
        self._settings, self._probes, self._search_space = settings, probes, space
        self._copied, self._current, self._smoothed = copied, current, smoothed
        self._space = distributions(space)
        self._inner: BaseSampler | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space; Optuna's own inference would wait for a complete trial."""
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._inner = None
        if trial.number < self._copied + len(self._probes):
            return dict(self._probes[trial.number - self._copied].params or {})
        if PROPOSAL_KEY in trial.system_attrs:  # interrupted before its parameters were stored
            return dict(json.loads(trial.system_attrs[PROPOSAL_KEY]))
        proposal = self._propose(study, trial)
        attributes = proposal.attributes()
        if self._settings.name in STATEFUL:
            attributes[PROPOSAL_KEY] = json.dumps(proposal.params)
        storage = study._storage  # noqa: SLF001 - Optuna's own samplers keep their state this way
        for key, text in attributes.items():
            storage.set_trial_system_attr(trial._trial_id, key, text)  # noqa: SLF001
        return dict(proposal.params)

    def _propose(self, study: Study, trial: FrozenTrial) -> Proposal:
        """Propose values for all parameters at once, so that nothing is drawn after the proposal is stored."""
        self._inner = make_sampler(self._settings, self._search_space, trial.number, len(study.directions))
        if self._current is not None and self._settings.name not in STATEFUL:  # these look at no value
            study = self._current(study)
        self._inner.before_trial(study, trial)
        if isinstance(self._inner, DepthGPSampler):
            return self._inner.propose(study, trial, smoothed=self._smoothed)
        proposal = self._inner.sample_relative(study, trial, self._joint_space(self._inner, study, trial))
        for name, distribution in self._space.items():
            if name not in proposal:
                proposal[name] = self._inner.sample_independent(study, trial, name, distribution)
        return Proposal(params=proposal)

    def _joint_space(self, inner: BaseSampler, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that the sampler proposes jointly.

        Optuna infers the parameters that all past trials have in common. A parent outside the space has none, so TPE
        and QMC would sample each parameter independently from then on.
        """
        inferred = inner.infer_relative_search_space(study, trial)  # also prepares TPE's groups
        if not samples_jointly(self._settings, len(study.directions)):
            return inferred
        return {name: distribution for name, distribution in self._space.items() if not distribution.single()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self._inner is None:
            self._inner = make_sampler(self._settings, self._search_space, trial.number, len(study.directions))
        return self._inner.sample_independent(study, trial, param_name, param_distribution)
