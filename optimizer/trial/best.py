"""*Best*: the one trial that every list, table, picture, figure and export of a study means.

One objective: what the final chose, which is its winner or, where no merge beats the better parent there, that parent.
Without a final, or where trials have finished since, it is the best observed trial.

Several objectives: the front's knee or, with weights, the member with the largest weighted sum of scaled values. A
member that surely loses to the better parent in an objective is passed over while another does not. What the final
says of a member counts more than what the search says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final as Constant
from typing import Literal

from optimizer.trial.front import check_weights, front_order
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.ranking import best_trials
from optimizer.trial.repeats import counted_once, final_counted_once
from optimizer.trial.verdict import better_parent, doubt, is_better, is_worse
from studies.records.finals import Final, Finalist, load_final
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredTrial

By = Literal["final", "observed", "knee", "weights"]

REASONS: Constant[Mapping[By, str]] = {
    "final": "the final's choice",
    "observed": "best observed",
    "knee": "knee of the front",
    "weights": "chosen by weights",
}
SINCE: Constant = "(more trials have finished since)"


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best trial of a study, who says so, and what speaks against it."""

    trial: StoredTrial  # a parent's, where no merge is better
    merge: StoredTrial | None  # the best that is no parent: what has ratios to show, and what may be exported
    by: By
    gains: Mapping[str, Gain]  # of the trial over the better parent, by name; empty for a parent that the final chose
    held_out: bool  # whether the gains are those of the final rather than of the search
    caveat: str | None  # why it may be no better than a parent
    refusal: str | None  # why the merge is exported only if it is asked for: it lost to a parent, or failed
    passed_over: tuple[StoredTrial, ...] = ()  # better placed members of the front that surely lose to a parent

    @property
    def reason(self) -> str:
        """Who says that it is the best, in words."""
        return REASONS[self.by]

    @property
    def merge_is_best(self) -> bool:
        """Whether the best trial is a merge."""
        return self.merge is not None and self.merge.number == self.trial.number


def load_results(records: StudyRecords) -> tuple[list[StoredTrial], Final | None]:
    """Return a study's trials and its final as they are shown: see `counted_once`."""
    trials, final = counted_once(records, load_trials(records)), load_final(records)
    return trials, None if final is None else final_counted_once(records, final, trials)


def load_best(records: StudyRecords, objective: Objective) -> Best | None:
    """Return the best trial of a study as it is stored: see `best_of`."""
    trials, final = load_results(records)
    return best_of(trials, final, objective)


def best_of(
    trials: Sequence[StoredTrial],
    final: Final | None,
    objective: Objective,
    weights: Mapping[str, float] | None = None,
) -> Best | None:
    """Return what "best" means in a study; None while no trial of the full suite is complete.

    Ties go to the earlier trial.

    Args:
        trials: all of the study's, as `load_results` gives them.
        weights: of the objectives of a front; one without a weight has weight 0.

    Raises:
        WeightsError: weights for a single objective, of unknown objectives, negative, not finite or all zero.
    """
    if weights is not None:
        check_weights(weights, objective)
    members = best_trials(trials, objective)
    if not members:
        return None
    if len(objective.names) > 1:
        return _best_of_front(front_order(members, objective, weights), final, objective, weights)
    return _best_of_one(members[0], trials, final, objective)


def choice_of(final: Final) -> int | None:
    """Return the number of the trial that a final of one objective chose: a merge's, or that of the better parent.

    None where neither could be scored there.
    """
    if final.winner is not None and is_better(final.winner.held_out[SINGLE]):
        return final.winner.number
    parent = better_parent(final)
    return None if parent is None else parent.number


def objection(trial: StoredTrial, final: Final | None, objective: Objective) -> str | None:
    """Say what the final found against one merge: it failed there, or lost to a parent; None where it found nothing."""
    return _refusal(_finalist(final, trial), objective.names if objective.terms else ())


def judged_gains(trial: StoredTrial, final: Final | None) -> tuple[Mapping[str, Gain], bool]:
    """Return a trial's gains by name, and whether they are those of the final, which count more than the search's."""
    return _gains(trial, _finalist(final, trial))


# ------------------------------------------------------------------------------------------- one objective


def _best_of_one(
    observed: StoredTrial, trials: Sequence[StoredTrial], final: Final | None, objective: Objective
) -> Best:
    merges = best_trials([trial for trial in trials if trial.origin.parent is None], objective)
    merge = merges[0] if merges else None
    if final is None:
        return _observed(observed, merge, None, None)
    doubted = doubt(final, objective)
    if final.is_outdated(trials):
        return _observed(observed, merge, final, None if doubted is None else f"{doubted} {SINCE}")
    by_number = {trial.number: trial for trial in trials}
    number = choice_of(final)
    chosen = None if number is None else by_number.get(number)
    winner = None if final.winner is None else by_number.get(final.winner.number)
    if chosen is None:  # neither a merge nor a parent could be scored in the final
        return _observed(observed, merge, final, doubted)
    gains = final.winner.held_out if final.winner is not None and chosen is winner else {}
    return Best(
        trial=chosen,
        merge=winner or merge,
        by="final",
        gains=gains,
        held_out=True,
        caveat=doubted,
        refusal=None if gains else doubted,
    )


def _observed(trial: StoredTrial, merge: StoredTrial | None, final: Final | None, caveat: str | None) -> Best:
    finalist = _finalist(final, trial)
    gains, held_out = _gains(trial, finalist)
    refusal = _refusal(finalist, (SINGLE,))
    return Best(trial=trial, merge=merge, by="observed", gains=gains, held_out=held_out, caveat=caveat, refusal=refusal)


# ------------------------------------------------------------------------------------------- several objectives


def _best_of_front(
    ordered: Sequence[StoredTrial], final: Final | None, objective: Objective, weights: Mapping[str, float] | None
) -> Best:
    """Choose from the members of a front.

    Args:
        ordered: the members, best placed first.
    """
    names = [name for name in objective.names if weights is None or weights.get(name)]
    judged = [(trial, _finalist(final, trial)) for trial in ordered]
    sound = [trial for trial, finalist in judged if _loss(trial, finalist, names) is None]
    trial = (sound or ordered)[0]
    finalist = _finalist(final, trial)
    gains, held_out = _gains(trial, finalist)
    loss = _loss(trial, finalist, names)
    return Best(
        trial=trial,
        merge=next((each for each in (*sound, *ordered) if each.origin.parent is None), None),
        by="knee" if weights is None else "weights",
        gains=gains,
        held_out=held_out,
        caveat=None if loss is None else f"every member of the front loses somewhere: trial {trial.number} {loss}",
        refusal=_refusal(finalist, ()),
        passed_over=tuple(ordered[: ordered.index(trial)]),
    )


def _loss(trial: StoredTrial, finalist: Finalist | None, names: Sequence[str]) -> str | None:
    """Say in which objectives a member of a front surely loses to the better parent; None where in none."""
    if finalist is not None and finalist.failure is not None:
        return "failed in the final"
    gains, held_out = _gains(trial, finalist)
    lost = [name for name in names if name in gains and is_worse(gains[name])]
    if not lost:
        return None
    against = ", ".join(f"parent {gains[name].parent} in {name}" for name in lost)
    return f"surely loses to {against}{' in the final' if held_out else ''}"


# ------------------------------------------------------------------------------------------- what the final says


def _finalist(final: Final | None, trial: StoredTrial) -> Finalist | None:
    """Return what a final found of a merge; None where it took no part."""
    candidates = () if final is None else final.candidates
    return next((candidate for candidate in candidates if candidate.number == trial.number), None)


def _gains(trial: StoredTrial, finalist: Finalist | None) -> tuple[Mapping[str, Gain], bool]:
    """Return a trial's gains, and whether they are those of the final, which count more than the search's."""
    if finalist is not None and finalist.held_out:
        return finalist.held_out, True
    return trial.gains, False


def _refusal(finalist: Finalist | None, names: Sequence[str]) -> str | None:
    """Say why a merge is exported only if it is asked for; None where nothing speaks against it.

    Args:
        names: the objectives in which it must be better than the parent.
    """
    if finalist is None:
        return None
    if finalist.failure is not None:
        return f"trial {finalist.number} failed in the final: {finalist.failure}"
    behind = [name for name in names if not is_better(finalist.held_out[name])]
    if not behind:
        return None
    return f"trial {finalist.number} lost to parent {finalist.held_out[behind[0]].parent} in the final"
