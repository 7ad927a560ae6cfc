"""The Pareto front of a study of several objectives: its volume, its knee, and a member by weights.

Notation: values are [members, objectives] float64. *Signed* values are such that more is always better. *Scaled*
values are signed ones mapped per objective so that the front's worst is 0 and its best is 1; an objective in which
all members are equal is 0 for all.

Hypervolume: the volume that the front dominates above a reference point (Zitzler and Thiele 1998), here the worst
parent in every objective.
Knee: the member farthest beyond the plane through the extremes (Das 1999, "On characterizing the knee of the Pareto
curve"), after scaling.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import WeightsError
from optimizer.trial.objective import Objective
from optimizer.trial.ranking import best_trials, parent_trials
from studies.records.values import StoredTrial

Values = NDArray[np.float64]
TIE_DIGITS = 9  # of scaled distances and sums: closer ones are equal, and the earlier trial is taken


@dataclass(frozen=True, kw_only=True)
class Front:
    """The trials that no other trial beats in every objective."""

    members: tuple[StoredTrial, ...]  # by number
    knee: StoredTrial
    reference: Mapping[str, float] | None  # the worst parent's value per objective; None while no parent is complete
    volume: float | None  # in the objectives' own units; None without a reference
    share: float | None  # of the box between the reference and the best of every objective; None where that is empty


def front_of(trials: Sequence[StoredTrial], objective: Objective) -> Front | None:
    """The front of a study of several objectives; None while no trial is complete."""
    members = tuple(best_trials(trials, objective))
    if not members:
        return None
    parents = [row for row in parent_trials(trials).values() if row.state == "complete"]
    reference = _signed(parents, objective).min(axis=0) if parents else None
    volume = share = None
    if reference is not None:
        values = _signed(members, objective)
        volume = hypervolume(values, reference)
        box = float(np.prod(np.maximum(values.max(axis=0) - reference, 0.0)))
        share = volume / box if box > 0 else None
    return Front(
        members=members,
        knee=members[knee(_signed(members, objective))],
        reference=None if reference is None else _named(reference, objective),
        volume=volume,
        share=share,
    )


def chosen_trial(
    trials: Sequence[StoredTrial], objective: Objective, weights: Mapping[str, float] | None = None
) -> StoredTrial | None:
    """The one trial that is meant by "best"; None while no trial is complete.

    One objective: its best trial. Several: the front's knee or, with weights, the member with the largest weighted
    sum of scaled values; an objective without a weight counts nothing. Ties go to the earlier trial.

    Raises:
        WeightsError: weights for a single objective, of unknown objectives, negative, not finite or all zero.
    """
    if weights is not None:
        check_weights(weights, objective)
    members = best_trials(trials, objective)
    if not members:
        return None
    if len(objective.names) == 1:
        return members[0]
    values = _signed(members, objective)
    return members[knee(values) if weights is None else by_weights(values, weights, objective)]


def check_weights(weights: Mapping[str, float], objective: Objective) -> None:
    """Raises WeightsError for weights that say nothing about these objectives."""
    if len(objective.names) == 1:
        raise WeightsError("weights choose from the front of several objectives; this study has a single one")
    if unknown := sorted(weights.keys() - set(objective.names)):
        raise WeightsError(f"weights: {unknown[0]!r} is no objective of this study: {', '.join(objective.names)}")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise WeightsError(f"weights: expected a number of 0 or more for {name!r}, got {weight:g}")
    if not any(weights.values()):
        raise WeightsError("weights: all are 0; give at least one objective a weight above 0")


def parse_weights(text: str) -> dict[str, float]:
    """`clip_score=1,fid=0.5` as a mapping.

    Raises:
        WeightsError: another form, a name twice, or what is no number.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.rpartition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (name and equals) or math.isnan(value):
            raise WeightsError(f"weights: expected NAME=NUMBER,NAME=NUMBER, got {text!r}")
        if name in found:
            raise WeightsError(f"weights: {name!r} is given twice")
        found[name] = value
    return found


# ------------------------------------------------------------------------------------------- the numbers


def hypervolume(values: Values, reference: Values) -> float:
    """Exact volume of the union of the boxes from the reference to each member.

    Args:
        values: [members, objectives], signed; members may dominate each other. What is not above the reference in
            every objective adds nothing.
        reference: [objectives], signed.
    """
    import torch

    with warnings.catch_warnings():  # the library's own imports are deprecated by a newer torch
        warnings.simplefilter("ignore", FutureWarning)
        from botorch.utils.multi_objective.hypervolume import Hypervolume
        from botorch.utils.multi_objective.pareto import is_non_dominated
    above = torch.from_numpy(values[(values > reference).all(axis=1)])
    if len(above) == 0:
        return 0.0
    return float(Hypervolume(torch.from_numpy(reference)).compute(above[is_non_dominated(above)]))


def scaled(values: Values) -> Values:
    """Signed values [members, objectives], per objective from 0 (worst of the front) to 1 (best)."""
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    return np.asarray((values - low) / np.where(span > 0, span, 1.0))


def knee(values: Values) -> int:
    """Index of the member farthest beyond the plane through the extremes, towards better values.

    The extremes are the members best in each objective. Where they define no plane that falls in every objective
    (one member is best in two of several), the plane is the one with equal intercepts. On a front that bends inwards
    no member lies beyond it, and an extreme is returned. Ties go to the earlier member.

    Args:
        values: [members, objectives], signed, at least one member.
    """
    return int(knee_order(values)[0])


def knee_order(values: Values) -> NDArray[np.intp]:
    """Indices of the members, the knee first, then by how far they lie beyond the plane that `knee` tells of."""
    points = scaled(values)[:, np.ptp(values, axis=0) > 0]
    if points.shape[1] == 0:
        return np.arange(len(values))
    distances = np.round((points - points[points[:, 0].argmax()]) @ _normal(points), TIE_DIGITS)
    return np.argsort(-distances, kind="stable")


def _normal(points: Values) -> Values:
    """Unit normal [objectives] of the plane through the extremes of scaled points, all entries above zero."""
    extremes = points[points.argmax(axis=0)]
    sides = points.shape[1]
    equal = np.full(sides, 1 / math.sqrt(sides))
    if np.linalg.matrix_rank(extremes) < sides:
        return equal
    normal = np.linalg.solve(extremes, np.ones(sides))
    return np.asarray(normal / np.linalg.norm(normal)) if (normal > 0).all() else equal


def by_weights(values: Values, weights: Mapping[str, float], objective: Objective) -> int:
    """Index of the member with the largest weighted sum of scaled values [members, objectives]."""
    factors = np.array([weights.get(name, 0.0) for name in objective.names])
    return int(np.round(scaled(values) @ (factors / factors.sum()), TIE_DIGITS).argmax())


def signed_values(rows: Sequence[Mapping[str, float]], objective: Objective) -> Values:
    """Objective -> value mappings, at least one, as [rows, objectives]."""
    signs = np.array([1.0 if direction == "maximize" else -1.0 for direction in objective.directions])
    return np.asarray(np.array([[row[name] for name in objective.names] for row in rows]) * signs)


def _signed(rows: Sequence[StoredTrial], objective: Objective) -> Values:
    return signed_values([row.objectives for row in rows], objective)


def _named(signed: Values, objective: Objective) -> dict[str, float]:
    pairs = zip(objective.names, objective.directions, signed, strict=True)
    return {name: float(value if direction == "maximize" else -value) for name, direction, value in pairs}
