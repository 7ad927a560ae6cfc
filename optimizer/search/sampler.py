"""The sampler that proposes the next trial. It depends on nothing but the database.

A new one is made for every trial, seeded by the study's seed and the trial's number. So an interrupted study goes on
exactly as if it had not been interrupted, and a sampler's state never has to be saved.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
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

SAMPLERS: Mapping[SamplerName, Callable[..., BaseSampler]] = {
    "depth": DepthGPSampler,
    "gp": GPSampler,
    "tpe": TPESampler,
    "cmaes": CmaEsSampler,
    "nsgaii": NSGAIISampler,
    "qmc": QMCSampler,
    "random": RandomSampler,
}
SINGLE_OBJECTIVE = ("cmaes",)
REFINING = ("depth",)
MADE_UP = 12  # trials: more than samplers draw at random before they begin to model
COUNTING = ("qmc",)  # counts its proposals in the study, so that asking twice is not the same as asking once
PROPOSAL_KEY = "mergetune:proposal"


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    return {parameter.name: FloatDistribution(parameter.low, parameter.high) for parameter in space.parameters}


def make_sampler(settings: SamplerSettings, space: SearchSpace, number: int, objectives: int) -> BaseSampler:
    """The sampler for one trial.

    Args:
        space: handed to the sampler that knows more of it than Optuna does.

    Raises:
        SpecError: options the sampler does not take, or several objectives for one that knows a single one.
    """
    if objectives > 1 and settings.name in SINGLE_OBJECTIVE:
        raise SpecError(
            f"sampler {settings.name} knows a single objective, the study has {objectives}: "
            "use depth, gp, tpe or nsgaii"
        )
    if space.settings.begins_coarse and settings.name not in REFINING:
        raise SpecError(
            f"granularity auto is for the sampler that can split sections by itself, {' or '.join(REFINING)}, "
            f"and the spec names {settings.name}: use granularity blocks or sections with it"
        )
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    options, maker = dict(settings.options), SAMPLERS[settings.name]
    if settings.name == "depth":  # mixes in the trial's number itself
        seed, maker = settings.seed, partial(DepthGPSampler, space)
    elif settings.name == "qmc":  # a sequence: the same scramble in every trial, the position is the trial's number
        seed, options = settings.seed, {"scramble": True, "warn_asynchronous_seeding": False} | options
    try:
        with warnings.catch_warnings():  # the user chose the sampler and its options by name
            warnings.simplefilter("ignore", ExperimentalWarning)
            return maker(seed=seed, **options)
    except (TypeError, ValueError) as error:
        given = dict(settings.options)
        raise SpecError(f"sampler {settings.name} cannot be made with options {given}: {error}") from error


def check_options(settings: SamplerSettings, space: SearchSpace, objectives: int) -> None:
    """Let the sampler propose on made-up trials: Optuna's samplers accept options of wrong types and fail later.

    Raises:
        SpecError: as `make_sampler`, or what the sampler made of its options.
    """
    make_sampler(settings, space, 0, objectives)
    if not settings.options:
        return
    generator, ranges = np.random.default_rng(0), distributions(space)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(directions=["maximize"] * objectives, sampler=ProbesFirst(settings, space, ()))
        for _ in range(MADE_UP):
            params = {row.name: float(generator.uniform(row.low, row.high)) for row in space.parameters}
            values = generator.normal(size=objectives).tolist()
            study.add_trial(create_trial(params=params, distributions=ranges, values=values))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study.ask().relative_params  # noqa: B018 - asked for only now
    except Exception as error:  # whatever it stumbles over
        given = dict(settings.options)
        raise SpecError(f"sampler {settings.name} cannot propose with options {given}: {error}") from error
    finally:
        optuna.logging.set_verbosity(before)


def samples_jointly(settings: SamplerSettings, objectives: int) -> bool:
    """Whether the sampler proposes all parameters together; random never does, TPE as its option says."""
    if settings.name == "tpe":
        return bool(settings.options.get("multivariate", objectives == 1))
    return settings.name != "random"


class ProbesFirst(BaseSampler):
    """Hands out the probe of a trial's number, or else what the study's sampler proposes.

    Nothing is enqueued: which probe a trial is follows from its number, so workers cannot take one twice, and
    an interrupted probe is the same probe when it is run again.

    Args:
        taken: trials of another study that this one began with; the probes come after them.
    """

    def __init__(self, settings: SamplerSettings, space: SearchSpace, probes: Sequence[Probe], taken: int = 0) -> None:
        self._settings, self._probes, self._search_space = settings, probes, space
        self._taken = taken
        self._space = distributions(space)
        self._inner: BaseSampler | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space; Optuna's own inference would wait for a finished trial."""
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._inner = None
        if trial.number < self._taken + len(self._probes):
            return dict(self._probes[trial.number - self._taken].params or {})
        if PROPOSAL_KEY in trial.system_attrs:  # interrupted before its parameters were stored
            return dict(json.loads(trial.system_attrs[PROPOSAL_KEY]))
        proposal = self._propose(study, trial)
        attributes = proposal.attributes()
        if self._settings.name in COUNTING:
            attributes[PROPOSAL_KEY] = json.dumps(proposal.params)
        storage = study._storage  # noqa: SLF001 - Optuna's own samplers keep their state this way
        for key, text in attributes.items():
            storage.set_trial_system_attr(trial._trial_id, key, text)  # noqa: SLF001
        return dict(proposal.params)

    def _propose(self, study: Study, trial: FrozenTrial) -> Proposal:
        """Propose a value for every parameter, so that nothing is drawn after the proposal is stored."""
        self._inner = make_sampler(self._settings, self._search_space, trial.number, len(study.directions))
        self._inner.before_trial(study, trial)
        if isinstance(self._inner, DepthGPSampler):
            return self._inner.propose(study, trial)
        proposal = self._inner.sample_relative(study, trial, self._joint_space(self._inner, study, trial))
        for name, distribution in self._space.items():
            if name not in proposal:
                proposal[name] = self._inner.sample_independent(study, trial, name, distribution)
        return Proposal(params=proposal)

    def _joint_space(self, inner: BaseSampler, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What the sampler proposes together.

        Optuna's inference takes what all past trials have in common. That is nothing as soon as a parent outside
        the space was tried, and TPE and QMC would fall back to one parameter at a time, for good.
        """
        inferred = inner.infer_relative_search_space(study, trial)  # also prepares TPE's groups
        if not samples_jointly(self._settings, len(study.directions)):
            return inferred
        return {name: row for name, row in self._space.items() if not row.single()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self._inner is None:
            self._inner = make_sampler(self._settings, self._search_space, trial.number, len(study.directions))
        return self._inner.sample_independent(study, trial, param_name, param_distribution)
