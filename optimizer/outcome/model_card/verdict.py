"""How much better a merge is, as a model card says it.

What the final found counts more than what the search did, and what it refuted is not claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from basics.messages import counted
from optimizer.outcome.model_card.markdown import brief, table
from optimizer.trial.best import judged_gains, objections
from optimizer.trial.gain_text import interval_text, signed
from optimizer.trial.judgement import is_ahead, is_surely_better
from optimizer.trial.objective import SINGLE, Objective
from studies.records.finals import Final
from studies.records.values import Gain, StoredStudy, StoredTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A trial among the results of its study."""

    trial: StoredTrial
    trials: Sequence[StoredTrial]  # all of the study's
    final: Final | None
    objective: Objective


def verdict(study: StoredStudy, judged: Judged) -> str:
    """Return the section of a card that says how much better a merge is, in Markdown."""
    trial = judged.trial
    if trial.origin.parent is not None:
        return f"This file is parent {trial.origin.parent} alone, so there is no gain to tell."
    gains, held_out = judged_gains(trial, judged.final)
    against = objections(trial, judged.trials, judged.final, judged.objective, "this merge")
    lines = [f"**No gain is claimed:** {brief('; '.join(against))}."] if against else []
    if gains and (held_out or not against):
        lines += [_measured(study, judged, gains) if held_out else _searched(study, judged), _gains_table(study, gains)]
    elif not against:
        lines.append("It is compared with no parent, so no gain is known.")
    if not against and any(map(_may_be_luck, gains.values())):
        lines.append("Where an interval includes 0, the gain may be luck.")
    return "\n\n".join(lines)


def _measured(study: StoredStudy, judged: Judged, gains: Mapping[str, Gain]) -> str:
    """Return what stands above held-out gains: a single objective has one parent to beat, of several each its own."""
    images = counted(len(study.spec.held_out.items()), "image")
    better = "the parent that is better in each score"
    if judged.objective.terms:
        better = f"parent {gains[SINGLE].parent}, which is better in the objective there"
    return f"Measured on {images} that the search never saw, over {better}:"


def _searched(study: StoredStudy, judged: Judged) -> str:
    """Return what stands above gains of the search."""
    images = counted(judged.trial.rendered or len(study.spec.suite.items()), "image")
    unseen = "Nothing was held out" if judged.final is None else "It took no part in the final"
    return (
        f"Measured on {images} of the search itself, over the better parent in each score. {unseen}, and the best of "
        "many trials owes part of its gain to luck:"
    )


def _may_be_luck(gain: Gain) -> bool:
    return is_ahead(gain) and gain.low is not None and not is_surely_better(gain)


def _gains_table(study: StoredStudy, gains: Mapping[str, Gain]) -> str:
    rows = [
        (
            brief(name),
            signed(gain.value),
            interval_text(gain) or "not known",
            f"{gain.parent} ({brief(study.parent_file(gain.parent).path.name)})",
        )
        for name, gain in gains.items()
    ]
    return table(("score", "gain", "95 % interval", "over parent"), rows)
