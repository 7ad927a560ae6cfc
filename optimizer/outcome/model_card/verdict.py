"""How much better a merge is, as a model card says it.

What the final found counts more than what the search did, and what it refuted is not claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from basics.messages import counted
from optimizer.outcome.model_card.markdown import escaped, table
from optimizer.trial.best import best_of, judged_gains, objection
from optimizer.trial.objective import Objective
from optimizer.trial.verdict import suspicion
from studies.records.finals import Final
from studies.records.values import Gain, StoredStudy, StoredTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A trial among the results of its study."""

    trial: StoredTrial
    trials: Sequence[StoredTrial]  # all of the study's
    final: Final | None
    objective: Objective


def objections(judged: Judged) -> tuple[str, ...]:
    """Return what speaks against taking a merge, one line each; none for a parent alone."""
    trial, final, objective = judged.trial, judged.final, judged.objective
    best = best_of(judged.trials, final, objective)
    if best is None or trial.origin.parent is not None:
        return ()
    candidates = () if final is None else final.candidates
    finalist = next((each for each in candidates if each.number == trial.number), None)
    gamed = None if finalist is None or finalist.failure is not None else suspicion(finalist, objective)
    return tuple(found for found in (best.caveat, objection(trial, final, objective), gamed) if found is not None)


def verdict(study: StoredStudy, judged: Judged) -> str:
    """Return the section of a card that says how much better a merge is, in Markdown."""
    trial = judged.trial
    if trial.origin.parent is not None:
        return f"This file is parent {trial.origin.parent} alone, so there is no gain to tell."
    gains, held_out = judged_gains(trial, judged.final)
    against = objections(judged)
    lines = [f"**No sure gain is claimed:** {escaped(each)}." for each in against]
    if held_out:
        images = counted(len(study.spec.held_out.items()), "image")
        lines.append(f"Measured on {images} that the search never saw, over the better parent in each score:")
        lines.append(_gains_table(study, gains))
    elif gains and not against:
        images = counted(trial.rendered or len(study.spec.suite.items()), "image")
        lines.append(
            f"Measured on {images} of the search itself, over the better parent in each score. Nothing was held out, "
            "and the best of many trials owes part of its gain to luck:"
        )
        lines.append(_gains_table(study, gains))
    elif not against:
        lines.append("It is compared with no parent, so no gain is known.")
    if not against and any(gain.low is not None and gain.low <= 0 < gain.value for gain in gains.values()):
        lines.append("Where an interval reaches below 0, the gain may be luck.")
    return "\n\n".join(lines)


def _gains_table(study: StoredStudy, gains: Mapping[str, Gain]) -> str:
    files = {parent.letter: parent.path.name for parent in study.parents}
    rows = [
        (escaped(name), f"{gain.value:+.3g}", _interval(gain), f"{gain.parent} ({escaped(files[gain.parent])})")
        for name, gain in gains.items()
    ]
    return table(("score", "gain", "95 % interval", "over parent"), rows)


def _interval(gain: Gain) -> str:
    return "not known" if gain.low is None or gain.high is None else f"{gain.low:+.3g} to {gain.high:+.3g}"
