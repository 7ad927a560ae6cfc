"""What the gains of a final say: whether a merge is better than its parents, and whether a scorer was gamed."""

from __future__ import annotations

from optimizer.trial.objective import SINGLE, Objective
from studies.records.finals import Final, Finalist
from studies.records.values import Gain


def is_better(gain: Gain) -> bool:
    """Return whether it is better than the parent, however unsure that is."""
    return gain.value > 0


def is_worse(gain: Gain) -> bool:
    """Return whether it is surely worse than the parent: the whole interval is below zero."""
    return gain.high is not None and gain.high < 0


def doubt(final: Final, objective: Objective) -> str | None:
    """Say why the best merge may be no better than a parent; None where the final found that it surely is.

    Several objectives have no best merge to doubt.
    """
    if not objective.terms:
        return None
    if final.winner is None:
        return "every merge failed in the final, so none is known to be better than a parent"
    gain = final.winner.held_out[SINGLE]
    if not is_better(gain):
        return f"in the final no merge beats parent {gain.parent}: parent {gain.parent} is the better model"
    if gain.low is not None and gain.low <= 0:
        won = f"the gain of trial {final.winner.number}, its choice, over parent {gain.parent}"
        return f"in the final {won} reaches below 0, so it may be luck"
    return None


def better_parent(final: Final) -> Finalist | None:
    """Return the parent that is better in the objective of a final; None where none could be scored there.

    It is the one that the winner is compared with. Where every merge failed, ties go to the earlier parent.
    """
    known = [parent for parent in final.parents if SINGLE in parent.objectives]
    if final.winner is not None:
        against = final.winner.held_out[SINGLE].parent
        return next((parent for parent in known if parent.origin.parent == against), None)
    return max(known, key=lambda parent: parent.objectives[SINGLE], default=None)


def suspicion(candidate: Finalist, objective: Objective) -> str | None:
    """Say why a candidate's gain looks like a gamed scorer; None where it does not."""
    undone = [
        name
        for name in objective.names
        if name in candidate.held_out
        and name in candidate.in_sample
        and is_better(candidate.in_sample[name])
        and is_worse(candidate.held_out[name])
    ]
    if undone:
        what = ", ".join("the objective" if name == SINGLE else name for name in undone)
        parent = candidate.held_out[undone[0]].parent
        return f"its gain in {what} during the search is a loss against parent {parent} on renders it never saw"
    if not objective.terms or SINGLE not in candidate.held_out:
        return None
    lost = [term.scorer for term in objective.terms if is_worse(candidate.held_out[term.scorer])]
    in_sample = candidate.in_sample.get(SINGLE)
    gained = is_better(candidate.held_out[SINGLE]) or (in_sample is not None and is_better(in_sample))
    if not (gained and lost):
        return None
    parent = candidate.held_out[SINGLE].parent
    return f"the objective gains while {', '.join(lost)} surely loses against parent {parent}"
