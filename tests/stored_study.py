"""Studies in a real database whose scores come from a formula: stored as a worker stores them, but without images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from optimizer.trial.objective import SINGLE, Objective
from search_spaces.blocks import Architecture
from studies.recipe.blueprint import Blueprint
from studies.recipe.recipe import Parent
from studies.records import stored_studies, stored_trials
from studies.records.database import Database
from studies.records.failures import Failure
from studies.records.finals import Final, Finalist
from studies.records.origins import Origin
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, ParentFile, TrialResult
from studies.spec.study import parse_spec

Score = Callable[[Mapping[str, float]], Mapping[str, tuple[float, ...]]]  # params -> scorer -> one value per item
SPEC = """
    study: {name}
    parents: [/models/a.safetensors, /models/b.safetensors]
    suite: {{prompts: [a cat, a dog, a fox, a bee]}}
    scorers: {{sharpness: , contrast: }}
    sampler: {{name: random}}
"""


def store_study(
    database: Database,
    name: str,
    score: Score,
    *,
    trials: int = 60,
    seed: int = 0,
    failed: tuple[int, ...] = (),
    outside: bool = False,
    **changes: Any,
) -> StudyRecords:
    """Store a study with parents A and B as its first trials, followed by random ones.

    Args:
        outside: whether parent B is outside the space, and reported to Optuna as a worker reports it then.
        changes: fields of the spec, as its YAML would give them.
    """
    spec = parse_spec(SPEC.format(name=name), base_dir=Path("/"))
    data = spec.model_dump(mode="json") | changes
    spec = type(spec).model_validate(data)
    files = [
        ParentFile(
            letter=letter, path=Path(f"/models/{letter.lower()}.safetensors"), sha256=letter, bytes=1, mtime_ns=0
        )
        for letter in "AB"
    ]
    infos = spec.infos
    objective = Objective.of(spec, infos)
    records = stored_studies.create_study(database, spec, files, objective.directions, objective.names)
    space = spec.search_space(Architecture.SD15)
    parents = tuple(Parent(letter=file.letter, name=file.path.stem, sha256=file.sha256) for file in files)
    blueprint = Blueprint(architecture=Architecture.SD15, parents=parents, operations=spec.operations)
    told = optuna.load_study(study_name=name, storage=database.storage)
    distributions: dict[str, BaseDistribution] = {
        row.name: FloatDistribution(row.low, row.high) for row in space.parameters
    }
    random = np.random.default_rng(seed)
    for number in range(trials):
        params = {row.name: float(random.uniform(row.low, row.high)) for row in space.parameters}
        if number < len(parents):
            params = dict.fromkeys(params, float(number))
        origin = Origin("parent", "AB"[number]) if number < len(parents) else Origin("sampler", "random")
        known = not (outside and number == 1)
        stored_trials.start_trial(records, number, origin, blueprint.recipe(space.numbers_by_place(params)), "w")
        if number in failed:
            stored_trials.fail_trial(records, number, "w", Failure(kind="degenerate", reason="black images"))
            state, values = TrialState.FAIL, None
        else:
            state, values = TrialState.COMPLETE, _record(records, number, objective, score(params))
        told.add_trial(  # at once: asked for, each of the parameters would be a transaction
            create_trial(
                state=state if known else TrialState.PRUNED,
                values=values if known else None,
                params=params if known else {},
                distributions=distributions if known else {},
                system_attrs={"fixed_params": params if known else {}},
            )
        )
    return records


def _record(
    records: StudyRecords, number: int, objective: Objective, scores: Mapping[str, tuple[float, ...]]
) -> list[float]:
    """Store a trial's scores, and return the objective's values."""
    values = objective.values({key: float(np.nanmean(items)) for key, items in scores.items()})
    result = TrialResult(
        objectives=values,
        image_scores=scores,
        set_scores={},
        pixels_sha256=tuple("0" * 64 for _ in next(iter(scores.values()))),
        seconds={"merge": 0.1},
        machine={},
    )
    stored_trials.finish_trial(records, number, "w", result)
    return list(values.values())


def final_of(gain: Gain | None, *, chosen: int, scores: Sequence[str], complete_trials: int) -> Final:
    """Return a final in which a trial was the best merge, with this gain in the objective and in each of the scores.

    Args:
        gain: None: the trial, which was the only candidate, failed.
    """
    parents = tuple(
        Finalist(number=number, origin=Origin("parent", letter), objectives={SINGLE: 1.0 + 0.1 * number})
        for number, letter in enumerate("AB")
    )
    candidate = Finalist(number=chosen, origin=Origin("sampler", "random"), failure="degenerate: black images")
    if gain is not None:
        candidate = Finalist(
            number=chosen,
            origin=Origin("sampler", "random"),
            objectives={SINGLE: 1.1 + gain.value},
            held_out=dict.fromkeys((SINGLE, *scores), gain),
            chosen=True,
        )
    return Final(suite_digest="0" * 64, complete_trials=complete_trials, finalists=(*parents, candidate))
