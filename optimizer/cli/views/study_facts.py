"""A study's results as data: what `study show --json` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optimizer.report.groups import gains_by_group
from optimizer.report.results import Results, results_with
from optimizer.search.stopping import stored_end
from optimizer.trial.best import best_of, load_results
from optimizer.trial.objective import Objective
from optimizer.trial.ranking import is_feasible
from optimizer.trial.stored_scores import trial_scores
from studies.recipe.recipe import Step
from studies.records.finals import Final
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredTrial


def study_facts(records: StudyRecords, weights: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return a study's spec, parents, trials, best and final as JSON values; numbers that are not finite are None.

    Args:
        weights: of the objectives, for the choice of the best of a front.

    Raises:
        WeightsError: as `best_of`.
    """
    study, (trials, final) = records.study, load_results(records)
    objective = Objective.of_study(study)
    best, end = best_of(trials, final, objective, weights), stored_end(records, trials)
    return {
        "study": study.name,
        "key": study.key,
        "status": study.status,
        "priority": study.priority,
        "created_at": study.created_at,
        "ended": None if end is None else end.reason,
        "budget": study.spec.budget.model_dump(mode="json"),
        "parents": [
            {"letter": each.letter, "path": str(each.path), "sha256": each.sha256, "bytes": each.bytes}
            for each in study.parents
        ],
        "objectives": dict(zip(objective.names, objective.directions, strict=True)),
        "constraints": {
            name: constraint.model_dump(mode="json") for name, constraint in study.spec.constraints.items()
        },
        "best": None
        if best is None
        else {
            "trial": best.trial.number,
            "merge": None if best.merge is None else best.merge.number,
            "by": best.by,
            "held_out": best.held_out,
            "gains": _gains(best.gains),
            "caveat": best.caveat,
            "refusal": best.refusal,
        },
        "groups": None if best is None else _groups(results_with(records, objective, trials, final, best)),
        "trials": [_trial(records, trial, objective) for trial in trials],
        "final": None if final is None else _final(final, objective),
    }


def _groups(results: Results) -> dict[str, Any]:
    """Return the gains of the best merge by group of prompts, in the search and held out; nothing without groups."""
    return {
        where: [
            {"group": each.group, "prompts": each.prompts, "images": each.items, "gains": _gains(each.gains)}
            for each in gains_by_group(results, held_out=held_out).groups
        ]
        for where, held_out in (("search", False), ("held_out", True))
    }


def _trial(records: StudyRecords, trial: StoredTrial, objective: Objective) -> dict[str, Any]:
    scored = trial.state == "complete"
    return {
        "number": trial.number,
        "origin": str(trial.origin),
        "source": trial.source,
        "state": trial.state,
        "reason": trial.reason,
        "estimated": trial.estimated,
        "rendered": trial.rendered,
        "objectives": _finite(trial.objectives),
        "feasible": is_feasible(trial, objective) if scored else None,
        "scores": _finite(trial_scores(records, trial).means) if scored else {},
        "errors": _finite(trial.errors),
        "gains": _gains(trial.gains),
        "seconds": _finite(trial.seconds),
        "started_at": trial.started_at,
        "finished_at": trial.finished_at,
        "steps": [_numbers(step) for step in trial.recipe.steps],
    }


def _numbers(step: Step) -> dict[str, dict[str, float]]:
    """Return slot -> place -> number."""
    return {
        slot.name: {place: numbers[index] for place, numbers in step.values}
        for index, slot in enumerate(step.operation.slots)
    }


def _final(final: Final, objective: Objective) -> dict[str, Any]:
    return {
        "created_at": final.created_at,
        "votes": final.votes,
        "finalists": [
            {
                "trial": each.number,
                "origin": str(each.origin),
                "objectives": _finite(each.objectives),
                "feasible": None if each.failure else objective.constraints.keeps(each.constrained_means),
                "constrained": {
                    name: {"value": _number(mean.value), "low": _number(mean.low), "high": _number(mean.high)}
                    for name, mean in each.constrained.items()
                },
                "in_sample": _gains(each.in_sample),
                "held_out": _gains(each.held_out),
                "chosen": each.chosen,
                "failure": each.failure,
            }
            for each in final.finalists
        ],
    }


def _gains(gains: Mapping[str, Gain]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "value": _number(gain.value),
            "low": _number(gain.low),
            "high": _number(gain.high),
            "over": gain.parent,
            "basis": gain.basis,
        }
        for name, gain in gains.items()
    }


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
