"""What the gains of a final say: whether a merge is better than its parents, and whether a scorer was gamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from optimizer.trial.objective import SINGLE, Objective
from studies.records.finals import Final, Finalist
from studies.records.values import Gain


def is_ahead(gain: Gain) -> bool:
    """Return whether it is ahead of the parent, however unsure that is."""
    return gain.value > 0


def is_surely_better(gain: Gain) -> bool:
    """Return whether it is surely better than the parent: the whole interval is above zero."""
    return gain.low is not None and gain.low > 0


def is_surely_worse(gain: Gain) -> bool:
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
    if not is_ahead(gain):
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
        and is_ahead(candidate.in_sample[name])
        and is_surely_worse(candidate.held_out[name])
    ]
    if undone:
        return f"its gain in the search is a loss {losses(candidate.held_out, undone)} on renders that it never saw"
    if not objective.terms or SINGLE not in candidate.held_out:
        return None
    lost = [term.scorer for term in objective.terms if is_surely_worse(candidate.held_out[term.scorer])]
    in_sample = candidate.in_sample.get(SINGLE)
    gained = is_ahead(candidate.held_out[SINGLE]) or (in_sample is not None and is_ahead(in_sample))
    if not (gained and lost):
        return None
    return f"the objective gains while it surely loses {losses(candidate.held_out, lost)}"


def flaws(final: Final, objective: Objective) -> Iterator[str]:
    """Yield what failed in a final, then which candidates look gamed; one line each."""
    for finalist in final.finalists:
        if finalist.failure is not None:
            yield f"trial {finalist.number} ({finalist.origin}) failed in the final: {finalist.failure}"
    for candidate in final.candidates:
        if (reason := suspicion(candidate, objective)) is not None:
            yield f"trial {candidate.number} looks gamed: {reason}"


def losses(gains: Mapping[str, Gain], names: Sequence[str]) -> str:
    """Name the parents to which a merge loses, each with its scores: `to parent A in sharpness, to parent B in fid`."""
    by_parent: dict[str, list[str]] = {}
    for name in names:
        by_parent.setdefault(gains[name].parent, []).append("the objective" if name == SINGLE else name)
    return ", ".join(f"to parent {parent} in {' and '.join(lost)}" for parent, lost in by_parent.items())
