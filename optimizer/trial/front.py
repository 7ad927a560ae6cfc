"""The Pareto front of a study with several objectives: its hypervolume, its knee, and the order of its members.

Notation: values are [members, objectives] float64. *Signed* values have minimised objectives negated, so that more is
always better. *Scaled* values are signed values mapped to 0 (worst of the front) .. 1 (best) for each objective; an
objective in which all members are equal is 0 for all.

Hypervolume: the volume that the front dominates above a reference point (Zitzler and Thiele 1998). The reference is the
worst value among the parents in each objective.
Knee: the member farthest beyond the plane through the extremes, after scaling (Das 1999, "On characterizing the 'knee'
of the Pareto curve based on normal-boundary intersection").
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
from optimizer.trial.ranking import best_trials, complete_parents
from studies.records.values import StoredTrial

Values = NDArray[np.float64]
TIE_DIGITS = 9  # decimals of scaled distances and sums; values equal to these are ties, and the earlier trial wins


@dataclass(frozen=True, kw_only=True)
class Front:
    """The Pareto front: the complete trials that no other trial dominates."""

    members: tuple[StoredTrial, ...]  # by number
    knee: StoredTrial
    reference: Mapping[str, float] | None  # worst parent value of each objective; None while no parent is complete
    volume: float | None  # in the objectives' own units; None without a reference
    share: float | None  # volume / box from the reference to the best of each objective; None if the box is empty


def front_of(trials: Sequence[StoredTrial], objective: Objective) -> Front | None:
    """Compute the front of a study of several objectives; None while no trial is complete."""
    members = tuple(best_trials(trials, objective))
    if not members:
        return None
    parents = list(complete_parents(trials).values())
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
        reference=None if reference is None else _unsigned(reference, objective),
        volume=volume,
        share=share,
    )


def front_order(
    members: Sequence[StoredTrial], objective: Objective, weights: Mapping[str, float] | None = None
) -> list[StoredTrial]:
    """Sort the members of a front, the best placed first: by the distance beyond the plane of `knee`, or by weights.

    Ties go to the earlier member.

    Args:
        members: at least one.
        weights: see `weights_order`; None: the knee comes first.
    """
    values = _signed(members, objective)
    order = knee_order(values) if weights is None else weights_order(values, weights, objective)
    return [members[index] for index in order]


def check_weights(weights: Mapping[str, float], objective: Objective) -> None:
    """Refuse weights that cannot choose from this study's front.

    Raises:
        WeightsError: weights for a single objective, of unknown objectives, negative, not finite or all zero.
    """
    if len(objective.names) == 1:
        raise WeightsError(
            "weights choose from a front of several objectives, but this study has a single one: leave them out"
        )
    if unknown := sorted(weights.keys() - set(objective.names)):
        raise WeightsError(
            f"weights: expected objectives of this study ({', '.join(objective.names)}), got {unknown[0]!r}"
        )
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise WeightsError(f"weights: expected a number of 0 or more for {name!r}, got {weight:g}")
    if not any(weights.values()):
        raise WeightsError("weights: all are 0; give at least one objective a weight above 0")


def parse_weights(text: str) -> dict[str, float]:
    """Parse `clip_score=1,fid=0.5` into a mapping.

    Raises:
        WeightsError: the text has another form, a name occurs twice, or a weight is not a number.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.rpartition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (name and equals) or math.isnan(value):
            raise WeightsError(f"weights: expected NAME=NUMBER,NAME=NUMBER, got {text!r}")
        if name in weights:
            raise WeightsError(f"weights: {name!r} is given twice: remove one of the two")
        weights[name] = value
    return weights


# ------------------------------------------------------------------------------------- hypervolume and knee


def hypervolume(values: Values, reference: Values) -> float:
    """Compute the exact volume of the union of the boxes from the reference to each member.

    Args:
        values: [members, objectives], signed; members may dominate each other. A member that is not above the
            reference in every objective adds nothing.
        reference: [objectives], signed.
    """
    import torch

    with warnings.catch_warnings():  # BoTorch's dependencies use what newer versions of torch deprecate
        warnings.simplefilter("ignore", FutureWarning)
        from botorch.utils.multi_objective.hypervolume import Hypervolume
        from botorch.utils.multi_objective.pareto import is_non_dominated
    above = torch.from_numpy(values[(values > reference).all(axis=1)])
    if len(above) == 0:
        return 0.0
    return float(Hypervolume(torch.from_numpy(reference)).compute(above[is_non_dominated(above)]))


def scaled(values: Values) -> Values:
    """Scale signed values [members, objectives] to 0 (worst of the front) .. 1 (best) for each objective."""
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    return np.asarray((values - low) / np.where(span > 0, span, 1.0))


def knee(values: Values) -> int:
    """Return the index of the member farthest beyond the plane through the extremes, towards better values.

    The extremes are the members that are best in each objective. If they define no plane whose normal is positive in
    every objective (such as when one member is best in two of three), the plane with equal intercepts is used. On a
    front that bends inwards no member lies beyond the plane, and an extreme is returned. Ties go to the earlier member.

    Args:
        values: [members, objectives], signed, at least one member.
    """
    return int(knee_order(values)[0])


def knee_order(values: Values) -> NDArray[np.intp]:
    """Sort members by the distance beyond the plane of `knee`, the knee first; returns indices [members]."""
    points = scaled(values)[:, np.ptp(values, axis=0) > 0]
    if points.shape[1] == 0:
        return np.arange(len(values))
    distances = np.round((points - points[points[:, 0].argmax()]) @ _normal(points), TIE_DIGITS)
    return np.argsort(-distances, kind="stable")


def _normal(points: Values) -> Values:
    """Return the unit normal [objectives] of the plane through the extremes of scaled points, all entries positive."""
    extremes = points[points.argmax(axis=0)]
    sides = points.shape[1]
    equal = np.full(sides, 1 / math.sqrt(sides))
    if np.linalg.matrix_rank(extremes) < sides:
        return equal
    normal = np.linalg.solve(extremes, np.ones(sides))
    return np.asarray(normal / np.linalg.norm(normal)) if (normal > 0).all() else equal


def weights_order(values: Values, weights: Mapping[str, float], objective: Objective) -> NDArray[np.intp]:
    """Sort members by the weighted sum of scaled values [members, objectives], the largest first; returns [members]."""
    factors = np.array([weights.get(name, 0.0) for name in objective.names])
    return np.argsort(-np.round(scaled(values) @ (factors / factors.sum()), TIE_DIGITS), kind="stable")


def signed_values(values: Sequence[Mapping[str, float]], objective: Objective) -> Values:
    """Turn mappings from objective to value, at least one, into signed values [mappings, objectives]."""
    signs = np.array([1.0 if direction == "maximize" else -1.0 for direction in objective.directions])
    return np.asarray(np.array([[of_trial[name] for name in objective.names] for of_trial in values]) * signs)


def _signed(trials: Sequence[StoredTrial], objective: Objective) -> Values:
    return signed_values([trial.objectives for trial in trials], objective)


def _unsigned(signed: Values, objective: Objective) -> dict[str, float]:
    pairs = zip(objective.names, objective.directions, signed, strict=True)
    return {name: float(value if direction == "maximize" else -value) for name, direction, value in pairs}
