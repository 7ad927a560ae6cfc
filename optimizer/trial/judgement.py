"""What the gains of a final say: whether a merge is better than its parents, and whether a scorer was gamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final as Constant

from optimizer.trial.constraints import Bound, feasible_or_all
from optimizer.trial.objective import SINGLE, Objective
from studies.records.finals import Final, Finalist
from studies.records.values import Gain

AWAITS_VOTES: Constant = "the final waits for votes on pictures that the search never saw, so nothing is chosen yet"


def is_ahead(gain: Gain) -> bool:
    """Return whether it is ahead of the parent, however unsure that is."""
    return gain.value > 0


def is_surely_better(gain: Gain) -> bool:
    """Return whether it is surely better than the parent: the whole interval is above zero."""
    return gain.low is not None and gain.low > 0


def is_surely_worse(gain: Gain) -> bool:
    """Return whether it is surely worse than the parent: the whole interval is below zero."""
    return gain.high is not None and gain.high < 0


def surely_loses(name: str, gain: Gain, objective: Objective) -> bool:
    """Return whether a gain is surely a loss that counts: distance to a parent compared with is none, as all have it.

    Args:
        name: of the objective or score.
    """
    return is_surely_worse(gain) and not objective.is_compared(name, gain.parent)


def doubt(final: Final, objective: Objective) -> str | None:
    """Say why the best merge may be no better than a parent; None where the final found that it surely is.

    Several objectives have no best merge to doubt.
    """
    if final.awaits_votes:
        return AWAITS_VOTES
    if not objective.terms:
        return None
    if final.winner is None:
        if any(candidate.failure is None for candidate in final.candidates):
            return f"in the final no merge keeps the constraints ({objective.constraints.in_words()})"
        return "every merge failed in the final, so none is known to be better than a parent"
    gain = final.winner.held_out[SINGLE]
    if not is_ahead(gain):
        parent = better_parent(final, objective)
        if parent is not None and (breach := held_out_breach(parent, objective)) is not None:
            return f"in the final parent {gain.parent} is ahead of it, but {breach}"
        return f"in the final no merge beats parent {gain.parent}: parent {gain.parent} is the better model"
    return luck(gain, f"trial {final.winner.number}")


def luck(gain: Gain, name: str) -> str | None:
    """Say that a merge's gain in the final may be luck; None where it surely is not, or has no interval.

    Args:
        name: what the merge is called.
    """
    if gain.low is None or is_surely_better(gain):
        return None
    return f"in the final the interval of {name}'s gain over parent {gain.parent} includes 0, so it may be luck"


def better_parent(final: Final, objective: Objective) -> Finalist | None:
    """Return the parent that is better in the objective of a final; None where none could be scored there.

    It is the one that the winner is compared with. Where no merge could be chosen, ties go to the earlier parent, and
    one that breaks the constraints comes after one that keeps them.
    """
    scored = {parent.origin.name: parent for parent in final.parents if SINGLE in parent.objectives}
    means = {letter: parent.constrained_means for letter, parent in scored.items()}
    known = [scored[letter] for letter in feasible_or_all(means, objective.constraints)]
    if final.winner is not None:
        against = final.winner.held_out[SINGLE].parent
        return next((parent for parent in known if parent.origin.parent == against), None)
    return max(known, key=lambda parent: parent.objectives[SINGLE], default=None)


def choose(finalists: Sequence[Finalist], objective: Objective) -> int | None:
    """Return the number of the best merge; None where all failed, none keeps the constraints, or there is no best."""
    able = [
        finalist
        for finalist in finalists
        if not finalist.is_parent
        and finalist.failure is None
        and objective.constraints.keeps(finalist.constrained_means)
    ]
    if not objective.terms or not able:
        return None
    return max(able, key=lambda finalist: finalist.objectives[SINGLE]).number  # the first of equals


def suspicion(candidate: Finalist, objective: Objective) -> str | None:
    """Say why a candidate's gain looks like a gamed scorer; None where it does not."""
    undone = [
        name
        for name in objective.names
        if name in candidate.held_out
        and name in candidate.in_sample
        and is_ahead(candidate.in_sample[name])
        and surely_loses(name, candidate.held_out[name], objective)
    ]
    if undone:
        return f"its gain in the search is a loss {losses(candidate.held_out, undone)} on renders that it never saw"
    if not objective.terms or SINGLE not in candidate.held_out:
        return None
    lost = [
        term.scorer for term in objective.terms if surely_loses(term.scorer, candidate.held_out[term.scorer], objective)
    ]
    in_sample = candidate.in_sample.get(SINGLE)
    gained = is_ahead(candidate.held_out[SINGLE]) or (in_sample is not None and is_ahead(in_sample))
    if not (gained and lost):
        return None
    return f"the objective gains while it surely loses {losses(candidate.held_out, lost)}"


def held_out_breach(finalist: Finalist, objective: Objective) -> str | None:
    """Say which constraints a trial breaks in the final, with the interval; None where it keeps them all."""
    broken = objective.constraints.broken(finalist.constrained_means)
    if not broken:
        return None
    return f"breaks the constraints in the final: {', '.join(_held_out(finalist, bound) for bound in broken)}"


def held_out_constraints(finalist: Finalist, objective: Objective) -> str | None:
    """Say how far inside the constraints a trial is in the final, with intervals; None where there are none."""
    told = [
        _held_out(finalist, bound) for bound in objective.constraints.bounds if bound.scorer in finalist.constrained
    ]
    return ", ".join(told) or None


def _held_out(finalist: Finalist, bound: Bound) -> str:
    """Return a mean with its interval and its bound: `fidelity 0.83 (0.79 to 0.87; at least 0.8, not surely)`."""
    mean, limit = finalist.constrained[bound.scorer], bound.words.removeprefix(f"{bound.scorer} ")
    if mean.low is None or mean.high is None:
        return f"{bound.scorer} {mean.value:.4g} ({limit})"
    surely = "" if (bound.excess(mean.low) <= 0) == (bound.excess(mean.high) <= 0) else ", not surely"
    return f"{bound.scorer} {mean.value:.4g} ({mean.low:.4g} to {mean.high:.4g}; {limit}{surely})"


def flaws(final: Final, objective: Objective) -> Iterator[str]:
    """Yield what failed in a final, who breaks the constraints there, and which candidates look gamed; a line each."""
    for finalist in final.finalists:
        if finalist.failure is not None:
            yield f"trial {finalist.number} ({finalist.origin}) failed in the final: {finalist.failure}"
    for candidate in final.candidates:
        if (breach := held_out_breach(candidate, objective)) is not None:
            yield f"trial {candidate.number} {breach}"
    for candidate in final.candidates:
        if (reason := suspicion(candidate, objective)) is not None:
            yield f"trial {candidate.number} looks gamed: {reason}"


def losses(gains: Mapping[str, Gain], names: Sequence[str]) -> str:
    """Name the parents to which a merge loses, each with its scores: `to parent A in sharpness, to parent B in fid`."""
    by_parent: dict[str, list[str]] = {}
    for name in names:
        by_parent.setdefault(gains[name].parent, []).append("the objective" if name == SINGLE else name)
    return ", ".join(f"to parent {parent} in {' and '.join(lost)}" for parent, lost in by_parent.items())
