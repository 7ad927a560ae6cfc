"""When a coarse search splits a section: against functions whose best merge in every subspace is known."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from optimizer.search.depth.features import Geometry
from optimizer.search.depth.refine import SPLIT_FACTOR, SubspaceAcquisition, section_to_split
from optimizer.search.depth.ties import SPLIT_KEY, Ties
from optimizer.search.probes import Probe
from optimizer.search.sampler import ProbesFirst, make_sampler
from search_spaces.blocks import Architecture, blocks, section_of
from search_spaces.settings import SpaceSettings
from search_spaces.slots import Slot
from search_spaces.space import SearchSpace
from studies.errors import SpecError
from studies.spec.search import SamplerName, SamplerSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from botorch.acquisition.acquisition import AcquisitionFunction
    from botorch.models import SingleTaskGP

B = Slot(name="B", kind="ratio", default=0.5)
SPACE = SearchSpace.build(SpaceSettings(granularity="auto"), Architecture.SD15, (B,))
TIES = Ties.of(SPACE, Geometry.of(SPACE))
ORDER = blocks(Architecture.SD15)
SECTION = np.array(["TEXT", *(section_of(block) for block in ORDER)])  # of each parameter
Floats = NDArray[np.float64]


class Bowl(AcquisitionFunction):  # type: ignore[misc]
    """A log promise that falls with the squared distance from one merge."""

    def __init__(self, target: Floats) -> None:
        point = torch.zeros(1, len(target), dtype=torch.double)
        super().__init__(model=SingleTaskGP(point, point[:, :1], outcome_transform=None))
        self.target = torch.from_numpy(target)

    def forward(self, x: Tensor) -> Tensor:
        return -((x[..., 0, :] - self.target) ** 2).sum(dim=-1)


def loss(target: Floats, section: str) -> float:
    """What a section loses by having one ratio: the squared distance from its mean."""
    members = target[section == SECTION]
    return float(((members - members.mean()) ** 2).sum())


def split_for(target: Floats, split: list[str]) -> str | None:
    free = np.random.default_rng(0).uniform(size=(32, len(TIES.subspace(split).geometry.names)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return section_to_split(Bowl(target), TIES, split, free)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.3), st.floats(0.0, 0.3), st.sampled_from([[], ["IN"], ["OUT"]]))
def test_the_section_that_raises_the_promise_most_is_split_if_by_enough(
    seed: int, reach_in: float, reach_out: float, split: list[str]
) -> None:
    generator = np.random.default_rng(seed)
    reach = np.where(SECTION == "IN", reach_in, np.where(SECTION == "OUT", reach_out, 0.4))
    target = 0.5 + reach * generator.uniform(-1, 1, len(SECTION))
    losses = {section: loss(target, section) for section in ("IN", "OUT") if section not in split}
    assume(all(abs(value - math.log(SPLIT_FACTOR)) > 1e-3 for value in losses.values()))
    assume(len(losses) < 2 or abs(losses["IN"] - losses["OUT"]) > 1e-3)
    best = max(losses, key=losses.__getitem__)
    assert split_for(target, split) == (best if losses[best] > math.log(SPLIT_FACTOR) else None)


def test_nothing_is_left_to_split_in_the_end() -> None:
    assert split_for(np.linspace(0, 1, 26), ["IN", "OUT"]) is None


def test_a_lifted_function_is_the_function_of_the_lifted_merge() -> None:
    bowl, subspace = Bowl(np.linspace(0, 1, 26)), TIES.subspace(["IN"])
    free = np.random.default_rng(0).uniform(size=(5, len(subspace.geometry.names)))
    restricted = SubspaceAcquisition(bowl, subspace)(torch.from_numpy(free)[:, None])
    assert torch.allclose(restricted, bowl(torch.from_numpy(subspace.embed(free))[:, None]))


# ---------------------------------------------------------------------------------- in whole searches

FAST = SamplerSettings(name="depth", options={"candidates": 64, "n_startup_trials": 4})
Params = dict[str, float]


def slope(params: Params) -> float:
    """Best where IN rises from 0 to 1 over its blocks."""
    return -sum((params[f"IN{at:02}"] - at / 11) ** 2 for at in range(12))


def searched(trials: int, *, interrupted: bool = False, directions: int = 1, probes: tuple[Probe, ...] = ()) -> Any:
    """A study over SPACE; `interrupted` makes the sampler anew and asks every trial twice."""
    study = optuna.create_study(directions=["maximize"] * directions, sampler=ProbesFirst(FAST, SPACE, probes))
    for _ in range(trials):
        trial = study.ask()
        if interrupted:
            study.sampler = ProbesFirst(FAST, SPACE, probes)
            trial = optuna.trial.Trial(study, trial._trial_id)
        params = {row.name: trial.suggest_float(row.name, row.low, row.high) for row in SPACE.parameters}
        study.tell(trial, [slope(params), -params["M00"]][:directions])
    return study


def splits(study: Any) -> list[dict[str, int]]:
    return [json.loads(row.system_attrs[SPLIT_KEY]) for row in study.trials]


def is_tied(params: Params, section: str) -> bool:
    return len({params[block] for block in ORDER if section_of(block) == section}) == 1


@pytest.fixture(scope="module")
def study() -> Any:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return searched(13)


def test_a_search_begins_coarse_and_every_trial_keeps_the_ties_that_are_left(study: Any) -> None:
    assert splits(study)[0] == {}
    for row, split in zip(study.trials, splits(study), strict=True):
        for section in ("IN", "OUT"):
            assert is_tied(row.params, section) == (section not in split), row.number


def test_a_section_that_is_split_stays_so_and_is_known_by_its_trial(study: Any) -> None:
    known: dict[str, int] = {}
    for number, split in enumerate(splits(study)):
        assert known.items() <= split.items()
        assert all(at == number for section, at in split.items() if section not in known)
        known = split
    assert known


def test_an_interrupted_search_is_the_same_search(study: Any) -> None:
    again = searched(13, interrupted=True)
    assert splits(again) == splits(study)
    assert [row.params for row in again.trials] == [row.params for row in study.trials]


def test_several_objectives_are_searched_coarse_to_fine_too() -> None:
    found = searched(7, directions=2)
    assert all(
        is_tied(row.params, "IN") == ("IN" not in split) for row, split in zip(found.trials, splits(found), strict=True)
    )


@pytest.mark.parametrize("name", ["gp", "tpe", "cmaes", "nsgaii", "qmc", "random"])
def test_samplers_that_cannot_split_refuse_auto(name: SamplerName) -> None:
    told = f"granularity auto needs a sampler that can split sections, depth, and the spec names {name}"
    with pytest.raises(SpecError, match=told):
        make_sampler(SamplerSettings(name=name), SPACE, 0, 1)
