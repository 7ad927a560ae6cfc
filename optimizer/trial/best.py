"""*Best*: the one trial that every list, table, picture, figure and export of a study means.

One objective: what the final chose, which is its winner or, where no merge beats the better parent there, that parent.
Without a final, or where trials have finished since, it is the best observed trial. So it is while a final waits for
people's votes.

Several objectives: the front's knee or, with weights, the member with the largest weighted sum of scaled values. A
member that surely loses to the better parent in an objective is passed over while another does not. What the final
says of a member counts more than what the search says.

A trial that breaks the constraints is never the best while there is one that keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final as Constant
from typing import Literal

from optimizer.trial.front import check_weights, front_order
from optimizer.trial.judgement import (
    AWAITS_VOTES,
    better_parent,
    doubt,
    held_out_breach,
    is_ahead,
    losses,
    luck,
    surely_loses,
    suspicion,
)
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.ranking import best_trials, is_feasible
from optimizer.trial.repeats import counted_once, final_counted_once
from studies.records.finals import Final, Finalist, load_final
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredTrial

By = Literal["final", "observed", "knee", "weights", "sound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a trial counts as the best."""

    text: str
    short: str  # in a few letters, for a heading


REASONS: Constant[Mapping[By, Reason]] = {
    "final": Reason(text="the final's choice", short="final"),
    "observed": Reason(text="best observed", short="observed"),
    "knee": Reason(text="knee of the front", short="knee"),
    "weights": Reason(text="chosen by weights", short="weights"),
    "sound": Reason(text="first of the front that surely loses to no parent", short="no sure loss"),
}
BEST_MERGE: Constant = "best merge"  # where a parent is the best
SINCE: Constant = "(more trials have finished since)"


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best trial of a study, who says so, and what speaks against it."""

    trial: StoredTrial  # a parent's, where no merge is better
    merge: StoredTrial | None  # the best that is no parent: what has ratios to show, and what may be exported
    by: By
    gains: Mapping[str, Gain]  # of the trial over the better parent, by name; a parent has none over itself
    held_out: bool  # whether the gains are those of the final rather than of the search
    caveat: str | None  # why it, or the best merge where a parent is the best, may not be what was asked for
    refusal: str | None  # why the merge is exported only if it is asked for: a parent is better, or it breaks a bound
    passed_over: tuple[StoredTrial, ...] = ()  # better placed members of the front that surely lose to a parent

    @property
    def reason(self) -> str:
        """Who says that it is the best, in words."""
        return REASONS[self.by].text

    @property
    def merge_is_best(self) -> bool:
        """Whether the best trial is a merge."""
        return self.merge is not None and self.merge.number == self.trial.number

    def role(self, number: int) -> str:
        """Return what a trial is, as a heading says it: `best (final)` or `best merge`; empty for others."""
        if number == self.trial.number:
            return f"best ({REASONS[self.by].short})"
        return BEST_MERGE if self.merge is not None and number == self.merge.number else ""


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
        merge = _nearest_merge(trials, objective)
        best = _best_of_front(front_order(members, objective, weights), final, objective, weights, merge)
        waits = final is not None and final.awaits_votes and best.caveat is None
        return replace(best, caveat=AWAITS_VOTES) if waits else best
    return _best_of_one(members[0], trials, final, objective)


def choice_of(final: Final, objective: Objective) -> int | None:
    """Return the number of the trial that a final of one objective chose: a merge's, or that of the better parent.

    None where neither could be scored there, neither keeps the constraints, or the final waits for votes.
    """
    if final.awaits_votes:
        return None
    if final.winner is not None and is_ahead(final.winner.held_out[SINGLE]):
        return final.winner.number
    parent = better_parent(final, objective)
    if parent is not None and held_out_breach(parent, objective) is not None:
        return None if final.winner is None else final.winner.number
    return None if parent is None else parent.number


def role_in_final(final: Final, finalist: Finalist, objective: Objective) -> str:
    """Return what a trial is in a final: its choice, the best merge there, or nothing in particular (empty)."""
    if final.winner is None:
        return ""
    if finalist.number == choice_of(final, objective):
        return REASONS["final"].text
    return BEST_MERGE if finalist.chosen else ""


def judged_gains(trial: StoredTrial, final: Final | None) -> tuple[Mapping[str, Gain], bool]:
    """Return a trial's gains by name, and whether they are those of the final, which count more than the search's.

    One that failed in the final has none.
    """
    return _gains(trial, _finalist(final, trial))


def told_gains(trial: StoredTrial, best: Best, final: Final | None) -> tuple[Mapping[str, Gain], bool]:
    """Return the gains of a trial that is shown with the best one: see `judged_gains`.

    Where the final chose, those of the search are not told of a merge that it did not judge.
    """
    gains, held_out = judged_gains(trial, final)
    unjudged = best.by == "final" and not held_out and trial.origin.parent is None
    return {} if unjudged else gains, held_out


def merges_by_rank(best: Best, trials: Sequence[StoredTrial], objective: Objective) -> list[StoredTrial]:
    """Return the merges that a picture of the best may show, best first: the best one, then the best observed ones."""
    found = [*([] if best.merge is None else [best.merge]), *best_trials(trials, objective)]
    return list({trial.number: trial for trial in found if trial.origin.parent is None}.values())


def objections(
    trial: StoredTrial,
    trials: Sequence[StoredTrial],
    final: Final | None,
    objective: Objective,
    name: str | None = None,
) -> tuple[str, ...]:
    """Return what speaks against taking a merge, one text each; nothing for a parent alone.

    That is what was found of the merge itself. What the final found of others counts where it did not judge this one.

    Args:
        trials: all of the study's.
        name: what the merge is called in the texts; None: by its number.
    """
    if trial.origin.parent is not None:
        return ()
    finalist = _finalist(final, trial)
    found = tuple(_found(trial, finalist, objective, name or _called(trial)))
    if found or finalist is not None or not objective.terms:
        return found
    best = best_of(trials, final, objective)
    return () if best is None or best.caveat is None else (best.caveat,)


def _found(trial: StoredTrial, finalist: Finalist | None, objective: Objective, name: str) -> Iterator[str]:
    """Yield what was found against one merge."""
    breach = _breach(trial, finalist, objective)
    if breach is not None:
        yield f"{name} {breach}"
    against = _refusal(name, finalist, objective.names)
    if against is None and not objective.terms:
        lost = _loss(trial, finalist, objective.names, objective)
        against = None if lost is None else f"{name} {lost}"
    if against is not None:
        yield against
    if finalist is None or finalist.failure is not None:
        return
    chance = luck(finalist.held_out[SINGLE], name) if objective.terms and against is None else None
    if chance is not None:
        yield chance
    gamed = suspicion(finalist, objective)
    if gamed is not None:
        yield f"{name} looks gamed: {gamed}"


# ------------------------------------------------------------------------------------------- one objective


def _best_of_one(
    observed: StoredTrial, trials: Sequence[StoredTrial], final: Final | None, objective: Objective
) -> Best:
    merges = best_trials([trial for trial in trials if trial.origin.parent is None], objective)
    merge = merges[0] if merges else None
    if final is None:
        return _observed(observed, merge, objective, None, None)
    doubted = doubt(final, objective)
    if final.is_outdated(trials):
        return _observed(observed, merge, objective, final, None if doubted is None else f"{doubted} {SINCE}")
    by_number = {trial.number: trial for trial in trials}
    number = choice_of(final, objective)
    chosen = None if number is None else by_number.get(number)
    winner = None if final.winner is None else by_number.get(final.winner.number)
    if chosen is None:  # neither a merge nor a parent could be scored in the final, or keeps the constraints there
        return _observed(observed, merge, objective, final, doubted)
    return Best(
        trial=chosen,
        merge=winner or merge,
        by="final",
        gains=final.winner.held_out if final.winner is not None and chosen is winner else {},
        held_out=True,
        caveat=doubted,
        # A parent is chosen where the best merge is not ahead of it, or all failed: the doubt says which. A merge that
        # is ahead may be exported, with the doubt as a caveat.
        refusal=doubted if chosen.origin.parent is not None else None,
    )


def _observed(
    trial: StoredTrial, merge: StoredTrial | None, objective: Objective, final: Final | None, doubted: str | None
) -> Best:
    finalist = _finalist(final, trial)
    gains, held_out = _gains(trial, finalist)
    breach = None if finalist is None else _breach(trial, finalist, objective)
    lost = _refusal(_called(trial), finalist, (SINGLE,)) if breach is None else f"{_called(trial)} {breach}"
    unkept = _unkept(trial, merge, objective)
    if unkept is not None:
        lost = doubted = unkept
    return Best(
        trial=trial,
        merge=merge,
        by="observed",
        gains=gains,
        held_out=held_out,
        caveat=lost if doubted is None else doubted,
        refusal=_of_parent(trial) or lost,
    )


# ------------------------------------------------------------------------------------------- several objectives


def _best_of_front(
    ordered: Sequence[StoredTrial],
    final: Final | None,
    objective: Objective,
    weights: Mapping[str, float] | None,
    nearest: StoredTrial | None,
) -> Best:
    """Choose from the members of a front.

    Args:
        ordered: the members, best placed first.
        nearest: the merge that comes nearest to the constraints; None where a merge keeps them.
    """
    names = [name for name in objective.names if weights is None or weights.get(name)]
    finalists = {trial.number: _finalist(final, trial) for trial in ordered}
    found = {
        number: _breach(trial, _judged(final, number), objective) or _loss(trial, finalists[number], names, objective)
        for number, trial in ((trial.number, trial) for trial in ordered)
    }
    sound = [trial for trial in ordered if found[trial.number] is None]
    trial = (sound or ordered)[0]
    merge = next((each for each in (*sound, *ordered) if each.origin.parent is None), nearest)
    finalist = finalists[trial.number]
    gains, held_out = _gains(trial, finalist)
    unkept = _unkept(trial, merge, objective)
    lost = unkept or _refusal(_called(trial), finalist, names)
    caveat = lost
    if unkept is None and not sound:
        caveat = f"every member of the front loses somewhere: trial {trial.number} {found[trial.number]}"
    elif unkept is None and merge is not None and found[merge.number] is not None:  # the best is a parent
        caveat = f"the {BEST_MERGE} of the front, trial {merge.number}, {found[merge.number]}"
    by: By = "knee" if weights is None else "weights"
    return Best(
        trial=trial,
        merge=merge,
        by=by if trial is ordered[0] else "sound",
        gains=gains,
        held_out=held_out,
        caveat=caveat,
        refusal=_of_parent(trial) or lost,
        passed_over=tuple(ordered[: ordered.index(trial)]),
    )


def _loss(trial: StoredTrial, finalist: Finalist | None, names: Sequence[str], objective: Objective) -> str | None:
    """Say in which objectives a member of a front surely loses to the better parent; None where in none."""
    if finalist is not None and finalist.failure is not None:
        return "failed in the final"
    gains, held_out = _gains(trial, finalist)
    lost = [name for name in names if name in gains and surely_loses(name, gains[name], objective)]
    return f"surely loses {losses(gains, lost)}{' in the final' if held_out else ''}" if lost else None


# ------------------------------------------------------------------------------------------- constraints


def _nearest_merge(trials: Sequence[StoredTrial], objective: Objective) -> StoredTrial | None:
    """Return the merge that comes nearest to the constraints where no merge keeps them; None where one does."""
    merges = best_trials([trial for trial in trials if trial.origin.parent is None], objective)
    return merges[0] if merges and not is_feasible(merges[0], objective) else None


def _unkept(trial: StoredTrial, merge: StoredTrial | None, objective: Objective) -> str | None:
    """Say that no trial, or no merge, keeps the constraints, and which comes nearest; None where one does."""
    breach = objective.constraints.breach(trial.constrained)
    if breach is not None:
        return f"no trial keeps the constraints; {_called(trial)} comes nearest: {breach}"
    breach = None if merge is None else objective.constraints.breach(merge.constrained)
    if merge is None or breach is None:
        return None
    return f"no merge keeps the constraints; {_called(merge)} comes nearest: {breach}"


def _breach(trial: StoredTrial, finalist: Finalist | None, objective: Objective) -> str | None:
    """Say which constraints a trial breaks, in the final if it was judged there; None where it keeps them all."""
    if finalist is not None and finalist.failure is None:
        return held_out_breach(finalist, objective)
    breach = objective.constraints.breach(trial.constrained)
    return None if breach is None else f"breaks the constraints: {breach}"


# ------------------------------------------------------------------------------------------- what the final says


def _finalist(final: Final | None, trial: StoredTrial) -> Finalist | None:
    """Return what a final found of a merge; None where it took no part, or the final waits for votes."""
    return None if final is None or final.awaits_votes else final.candidate(trial.number)


def _judged(final: Final | None, number: int) -> Finalist | None:
    """Return what a final found of a merge or of a parent; None where it took no part, or the final waits for votes."""
    return None if final is None or final.awaits_votes else final.finalist(number)


def _gains(trial: StoredTrial, finalist: Finalist | None) -> tuple[Mapping[str, Gain], bool]:
    """Return a trial's gains, and whether they are those of the final, which count more than the search's."""
    return (trial.gains_over_others, False) if finalist is None else (finalist.held_out, True)


def _called(trial: StoredTrial) -> str:
    return f"trial {trial.number}"


def _refusal(name: str, finalist: Finalist | None, names: Sequence[str]) -> str | None:
    """Say why a merge is exported only if it is asked for; None where the final found nothing against it.

    Args:
        name: what the merge is called.
        names: the objectives; in one of them it must be ahead of the parent.
    """
    if finalist is None:
        return None
    if finalist.failure is not None:
        return f"{name} failed in the final: {finalist.failure}"
    lost = _lost(finalist, names)
    return None if lost is None else f"{name} {lost}"


def _lost(finalist: Finalist, names: Sequence[str]) -> str | None:
    """Say to which parents a merge lost in the final; None where it is ahead in an objective."""
    if any(is_ahead(finalist.held_out[name]) for name in names):
        return None
    if tuple(names) == (SINGLE,):
        return f"lost to parent {finalist.held_out[SINGLE].parent} in the final"
    return f"lost {losses(finalist.held_out, names)} in the final"


def _of_parent(trial: StoredTrial) -> str | None:
    """Say why a parent is not exported; None for a merge."""
    return None if trial.origin.parent is None else f"{trial.origin} is the best, and its file is already there"
