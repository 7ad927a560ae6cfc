"""Who proposes the next trial: on Optuna's real storages, closed and opened again as a killed study would be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState, create_trial
from slow_cases import slow_but

from optimizer.search.probes import Probe, make_probes
from optimizer.search.sampler import ProbesFirst, check_options, distributions, make_sampler
from search_spaces.blocks import Architecture
from search_spaces.settings import SpaceSettings
from search_spaces.slots import Slot
from search_spaces.space import SearchSpace
from studies.errors import SpecError
from studies.recipe.blueprint import Blueprint
from studies.recipe.recipe import Operation, Parent
from studies.spec.search import SamplerName, SamplerSettings
from studies.spec.study import StudySpec

NAMES: tuple[SamplerName, ...] = get_args(SamplerName)
TRIALS = 14
B = Slot(name="B", kind="ratio", default=0.5)
BLUEPRINT = Blueprint(
    architecture=Architecture.SD15,
    parents=tuple(Parent(letter=letter, name=letter, sha256=letter * 64) for letter in "AB"),
    operations=(Operation(method="weighted_sum", inputs=("A", "B")),),
)
Values = Mapping[str, float]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    """Four parameters: the text encoder, IN, MID and OUT."""
    return SearchSpace.build(SpaceSettings(granularity="sections"), Architecture.SD15, (B,))


def probes_in(space: SearchSpace) -> tuple[Probe, ...]:
    """Parent A, parent B (outside the space: the VAE is A's), three uniform ratios and one profile."""
    spec = StudySpec.model_validate(
        {
            "study": "s",
            "parents": ["/a.safetensors", "/b.safetensors"],
            "suite": {"prompts": ["cat"]},
            "scorers": {"sharpness": None},
            "probes": {"profiles": 1},
        },
        context={"base_dir": Path("/")},
    )
    probes = make_probes(spec, space, BLUEPRINT, frozenset())
    assert [probe.params is None for probe in probes] == [False, True, False, False, False, False]
    return probes


def hill(params: Values) -> float:
    """A smooth landscape with its top inside the space."""
    return 3 - sum((value - 0.2 - 0.1 * index) ** 2 for index, value in enumerate(params.values()))


def suggest(trial: Trial, space: SearchSpace) -> dict[str, float]:
    return {row.name: trial.suggest_float(row.name, row.low, row.high) for row in space.parameters}


def one_trial(study: optuna.Study, space: SearchSpace, probes: Sequence[Probe]) -> dict[str, float] | None:
    """What a worker does, without the rendering."""
    trial = study.ask()
    if trial.number < len(probes) and probes[trial.number].params is None:
        study.tell(trial.number, state=TrialState.PRUNED)
        return None
    params = suggest(trial, space)
    values = [hill(params), -hill({name: 1 - value for name, value in params.items()})]
    study.tell(trial.number, values[: len(study.directions)])
    return params


def create(storage: BaseStorage, objectives: int = 1) -> None:
    directions = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
    optuna.create_study(storage=storage, study_name="s", directions=directions[:objectives])


def in_one_go(
    settings: SamplerSettings, space: SearchSpace, probes: Sequence[Probe], trials: int = TRIALS, objectives: int = 1
) -> list[dict[str, float] | None]:
    storage = InMemoryStorage()
    create(storage, objectives)
    study = study_of(storage, ProbesFirst(settings, space, probes))
    return [one_trial(study, space, probes) for _ in range(trials)]


def study_of(storage: BaseStorage, sampler: BaseSampler) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=storage, sampler=sampler)


@contextmanager
def opened(path: Path) -> Iterator[RDBStorage]:
    storage = RDBStorage(f"sqlite:///{path}")
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


class TestProbesFirst:
    def test_the_first_trials_are_the_probes_by_number(self, space: SearchSpace) -> None:
        probes = probes_in(space)
        found = in_one_go(SamplerSettings(name="random"), space, probes)
        assert found[: len(probes)] == [probe.params for probe in probes]
        assert all(params is not None for params in found[len(probes) :])

    def test_probes_come_after_the_copied_trials(self, space: SearchSpace) -> None:
        probes, storage = probes_in(space), InMemoryStorage()
        create(storage)
        study = study_of(storage, ProbesFirst(SamplerSettings(name="random"), space, probes, copied=len(probes) + 1))
        known = [probe.params or probes[0].params for probe in (*probes, probes[0])]
        for params in known:
            study.add_trial(create_trial(value=0.0, params=dict(params or {}), distributions=distributions(space)))
        for probe in probes:
            trial = study.ask()
            if probe.params is not None:
                assert suggest(trial, space) == probe.params
            study.tell(trial, 0.0)
        assert suggest(study.ask(), space) not in [probe.params for probe in probes]

    def test_two_workers_take_no_probe_twice(self, space: SearchSpace, tmp_path: Path) -> None:
        probes = probes_in(space)
        with opened(tmp_path / "a.db") as storage, opened(tmp_path / "a.db") as second:
            create(storage)
            workers = [
                study_of(each, ProbesFirst(SamplerSettings(name="random"), space, probes)) for each in (storage, second)
            ]
            trials = [workers[index % 2].ask() for index in range(len(probes))]
            assert [trial.number for trial in trials] == list(range(len(probes)))
            for trial, probe in zip(trials, probes, strict=True):
                if probe.params is not None:
                    assert suggest(trial, space) == probe.params

    def test_a_trial_without_parameters_stays_without(self, space: SearchSpace) -> None:
        probes, storage = probes_in(space), InMemoryStorage()
        create(storage)
        study = study_of(storage, ProbesFirst(SamplerSettings(), space, probes))
        for _ in range(2):
            one_trial(study, space, probes)
        assert study.trials[1].params == {}
        assert study.trials[1].state == TrialState.PRUNED


class TestEverySampler:
    @pytest.mark.parametrize("name", slow_but(NAMES, "depth", "tpe"))
    def test_it_goes_on_after_every_interruption_as_if_there_had_been_none(
        self, name: SamplerName, space: SearchSpace, tmp_path: Path
    ) -> None:
        settings, probes = SamplerSettings(name=name, seed=4), probes_in(space)
        found = []
        for number in range(TRIALS):
            with opened(tmp_path / "a.db") as storage:
                if number == 0:
                    create(storage)
                study = study_of(storage, ProbesFirst(settings, space, probes))
                found.append(one_trial(study, space, probes))
        assert found == in_one_go(settings, space, probes)
        asked = [params for params in found[len(probes) :] if params is not None]
        assert len(asked) == TRIALS - len(probes)
        assert len({tuple(params.values()) for params in asked}) == len(asked)
        bounds = distributions(space)
        assert all(bounds[key]._contains(value) for params in asked for key, value in params.items())

    @pytest.mark.parametrize("name", [name for name in NAMES if name != "gp"])
    def test_another_seed_proposes_something_else(self, name: SamplerName, space: SearchSpace) -> None:
        probes = probes_in(space)
        one, other = (
            in_one_go(SamplerSettings(name=name, seed=seed), space, probes, trials=len(probes) + 2) for seed in (1, 2)
        )
        assert one[: len(probes)] == other[: len(probes)]
        assert all(a != b for a, b in zip(one[len(probes) :], other[len(probes) :], strict=True))

    @pytest.mark.parametrize("name", [name for name in NAMES if name != "cmaes"])
    def test_it_takes_several_objectives(self, name: SamplerName, space: SearchSpace) -> None:
        found = in_one_go(SamplerSettings(name=name), space, probes_in(space), trials=12, objectives=2)
        assert len([params for params in found if params is not None]) == 11

    @pytest.mark.parametrize("name", ["tpe", "cmaes", "qmc"])
    def test_a_parent_without_parameters_does_not_stop_it_from_proposing_all_at_once(
        self, name: SamplerName, space: SearchSpace
    ) -> None:
        """Optuna would take the parameters common to all past trials: none."""
        probes, storage = probes_in(space), InMemoryStorage()
        create(storage)
        study = study_of(storage, ProbesFirst(SamplerSettings(name=name), space, probes))
        for _ in range(TRIALS):
            one_trial(study, space, probes)
        written = {"tpe": "tpe:relative_params", "cmaes": "cma:", "qmc": "qmc"}[name]
        attributes = study._storage.get_study_system_attrs(study._study_id) | study.trials[-1].system_attrs
        assert [key for key in attributes if key.startswith(written)]

    def test_qmc_fills_the_space_evenly_even_when_no_parent_is_in_it(self) -> None:
        narrow = SpaceSettings(granularity="sections", bounds={"*": (0.25, 0.75)})
        space = SearchSpace.build(narrow, Architecture.SD15, (B,))
        probes = tuple(probe for probe in _outside(space) if probe.params is None)
        found = in_one_go(SamplerSettings(name="qmc"), space, probes, trials=len(probes) + 8)[len(probes) :]
        for row in space.parameters:
            eighths = sorted(int((params[row.name] - 0.25) * 16) for params in found if params is not None)
            assert eighths == list(range(8))

    def test_workers_that_ask_before_any_trial_is_finished_get_other_merges(self, space: SearchSpace) -> None:
        storage = InMemoryStorage()
        create(storage)
        study = study_of(storage, ProbesFirst(SamplerSettings(name="qmc"), space, ()))
        asked = [suggest(study.ask(), space) for _ in range(3)]
        assert len({tuple(params.values()) for params in asked}) == 3

    def test_gp_climbs(self, space: SearchSpace) -> None:
        probes = probes_in(space)
        found = in_one_go(SamplerSettings(name="gp"), space, probes, trials=17)
        random = in_one_go(SamplerSettings(name="random"), space, probes, trials=17)
        assert max(hill(row) for row in found[-3:] if row) > max(hill(row) for row in random if row)


def _outside(space: SearchSpace) -> tuple[Probe, ...]:
    spec = StudySpec.model_validate(
        {
            "study": "s",
            "parents": ["/a.safetensors", "/b.safetensors"],
            "suite": {"prompts": ["cat"]},
            "scorers": {"sharpness": None},
            "probes": {"uniform": [], "profiles": 0},
        },
        context={"base_dir": Path("/")},
    )
    return make_probes(spec, space, BLUEPRINT, frozenset())


class TestInterruptedTrials:
    @pytest.mark.parametrize("name", [name for name in NAMES if name != "gp"])
    def test_a_trial_taken_again_gets_the_parameters_it_was_to_have(
        self, name: SamplerName, space: SearchSpace
    ) -> None:
        """Cut off before its parameters, which are stored all at once, were in the database."""
        settings, probes = SamplerSettings(name=name, seed=9), probes_in(space)
        expected = in_one_go(settings, space, probes)[-1]
        storage = InMemoryStorage()
        create(storage)
        study = study_of(storage, ProbesFirst(settings, space, probes))
        for _ in range(TRIALS - 1):
            one_trial(study, space, probes)
        assert study.ask().relative_params == expected

        later = study_of(storage, ProbesFirst(settings, space, probes))
        again = Trial(later, study.trials[-1]._trial_id)
        assert suggest(again, space) == expected

    def test_an_interrupted_probe_is_the_same_probe(self, space: SearchSpace) -> None:
        probes, storage = probes_in(space), InMemoryStorage()
        create(storage)
        study = study_of(storage, ProbesFirst(SamplerSettings(), space, probes))
        for _ in range(3):
            study.ask()
        again = Trial(study, study.trials[2]._trial_id)
        assert suggest(again, space) == probes[2].params


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("gp", {"nonsense": 1}),
            ("depth", {"nonsense": 1}),
            ("depth", {"candidates": 3}),
            ("depth", {"seed": 3}),
            ("depth", {"space": None}),
            ("tpe", {"seed": 3}),
            ("qmc", {"qmc_type": "lattice"}),
            ("nsgaii", {"population_size": 1}),
        ],
    )
    def test_what_a_sampler_does_not_take_is_refused(
        self, name: SamplerName, options: dict[str, Any], space: SearchSpace
    ) -> None:
        with pytest.raises(SpecError, match=f"sampler {name} does not take the options"):
            make_sampler(SamplerSettings(name=name, options=options), space, 0, 1)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("gp", {"n_startup_trials": "12"}),
            ("gp", {"independent_sampler": "random"}),
            ("tpe", {"n_ei_candidates": "24"}),
            ("cmaes", {"popsize": "8"}),
        ],
    )
    def test_options_of_wrong_types_are_refused_before_the_study_begins(
        self, name: SamplerName, options: dict[str, Any], space: SearchSpace
    ) -> None:
        """Optuna takes them, and would fail when the probes are done."""
        with pytest.raises(SpecError, match=f"sampler {name} fails with the options"):
            check_options(SamplerSettings(name=name, options=options), space, 1)

    def test_one_objective_samplers_refuse_several(self, space: SearchSpace) -> None:
        with pytest.raises(SpecError, match="cmaes takes a single objective, but the study has 2"):
            make_sampler(SamplerSettings(name="cmaes"), space, 0, 2)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("tpe", {"n_startup_trials": 3, "multivariate": True, "group": True}),
            ("tpe", {"multivariate": False, "n_startup_trials": 3}),
            ("cmaes", {"with_margin": True}),
            ("gp", {"n_startup_trials": 30}),
            ("depth", {"n_startup_trials": 4, "candidates": 100}),
            ("qmc", {"qmc_type": "halton"}),
        ],
    )
    def test_options_reach_the_sampler_without_warnings(
        self, name: SamplerName, options: dict[str, Any], space: SearchSpace
    ) -> None:
        found = in_one_go(SamplerSettings(name=name, options=options), space, probes_in(space), trials=9)
        assert found != in_one_go(SamplerSettings(name=name, seed=1), space, probes_in(space), trials=9)

    def test_every_trial_has_its_own_random_numbers(self, space: SearchSpace) -> None:
        found = in_one_go(SamplerSettings(name="random"), space, (), trials=6)
        values = [value for params in found if params for value in params.values()]
        assert len(set(values)) == 24


def test_the_space_in_optunas_terms(space: SearchSpace) -> None:
    assert list(distributions(space)) == ["text_encoder", "IN", "MID", "OUT"]
    assert all(row == optuna.distributions.FloatDistribution(0, 1) for row in distributions(space).values())
