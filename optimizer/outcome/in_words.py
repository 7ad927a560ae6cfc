"""The outcome of a study in words: its best trial, and what its final found."""

from __future__ import annotations

from collections.abc import Iterator

from basics.messages import counted
from optimizer.outcome.next_commands import vote_command
from optimizer.preference.model import tally
from optimizer.trial.best import Best
from optimizer.trial.gain_text import gain_text
from optimizer.trial.judgement import flaws, held_out_constraints, is_ahead
from optimizer.trial.objective import SINGLE, Objective
from studies.records.finals import Final, Finalist
from studies.records.study_records import StudyRecords
from studies.records.votes import load_votes
from studies.system.advice import advised


def best_in_words(best: Best, objective: Objective) -> str:
    """Return which trial is the best, who says so, its gains, and what speaks against it."""
    claim = best_claim(best, objective)
    return claim if best.caveat is None else f"{claim}; {best.caveat}"


def best_claim(best: Best, objective: Objective) -> str:
    """Return which trial is the best, who says so, and its gains; those that the final refuted are not named."""
    trial = best.trial
    named = f"{trial.origin if trial.origin.parent is not None else f'trial {trial.number}'} ({best.reason})"
    gains = {name: best.gains[name] for name in objective.names if name in best.gains}
    if best.held_out and not any(map(is_ahead, gains.values())):
        return f"{named}: no sure gain"
    told = [gain_text(gain) if name == SINGLE else f"{name} {gain_text(gain)}" for name, gain in gains.items()]
    return f"{named}: {', '.join(told)} {'held out' if best.held_out else 'in the search'}" if told else named


def final_lines(records: StudyRecords, final: Final, objective: Objective) -> list[str]:
    """Return what the final found, then what failed, then what looks gamed; one line each.

    Whether the gain is sure is said of the best trial: see `best_in_words`.
    """
    return [*_found(records, final, objective), *flaws(final, objective)]


def _found(records: StudyRecords, final: Final, objective: Objective) -> Iterator[str]:
    """Yield the gain of the best merge, or how to choose where there are several objectives."""
    winner = final.winner
    if final.awaits_votes:
        yield f"nobody has voted on its pictures yet: `{vote_command(records)}`"
    elif winner is not None:
        gain, among = winner.held_out[SINGLE], counted(len(final.candidates), "candidate")
        gained = f"held-out gain: objective {gain_text(gain)} over parent {gain.parent}"
        yield f"{gained}, of trial {winner.number}, the best of {among}"
        if (told := preferred_to_parent(records, final, winner)) is not None:
            yield told
        if (kept := held_out_constraints(winner, objective)) is not None:
            yield f"trial {winner.number} keeps the constraints in the final: {kept}"
    elif not objective.terms:
        command = advised(f'export "{records.study.name}" --trial N', records.database.url)
        yield f"several objectives have no single winner: choose a trial with `{command}`"


def preferred_to_parent(records: StudyRecords, final: Final, winner: Finalist) -> str | None:
    """Say in how many votes on its pictures the best merge was preferred to the better parent; None without any."""
    letter = winner.held_out[SINGLE].parent
    parent = next((each for each in final.parents if each.origin.parent == letter), None)
    if not final.votes or parent is None:
        return None
    votes = tally(load_votes(records, held_out=True), winner.number, parent.number)
    if votes.interval is None:
        return None
    (low, high), decided = votes.interval, votes.preferred + votes.other
    return (
        f"people preferred trial {winner.number} to parent {letter} in {votes.preferred} of {decided} votes between "
        f"them, without those for neither ({100 * low:.0f} to {100 * high:.0f} %)"
    )
