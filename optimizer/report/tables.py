"""The tables of a report: every score beside the parents' own, and who else was considered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.report.results import Results
from optimizer.search.shortlist import by_value
from optimizer.trial.judgement import held_out_breach, surely_loses, suspicion
from optimizer.trial.objective import SINGLE
from studies.records.finals import Final
from studies.records.values import Gain, StoredTrial

BEST_SHOWN = 5  # trials of a search without a final
FRONT_SHOWN = 40  # members of a front


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """One score of all that are shown."""

    label: str
    higher: bool  # whether more is better
    values: tuple[float | None, ...]  # in the order of the columns; None: it has none
    gain: Gain | None  # of the trial shown
    lost: bool  # surely behind the better parent


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsideredTrial:
    """A trial that was considered."""

    number: int
    title: str
    searched: tuple[tuple[str, Gain], ...]  # gains in the search, by objective
    held_out: tuple[tuple[str, Gain], ...]  # gains in the final
    values: tuple[tuple[str, float], ...]  # objectives
    note: str
    role: str  # among the results, such as `best (final)`; empty: none


@dataclass(frozen=True, slots=True, kw_only=True)
class Considered:
    """The trials that were considered: the candidates in the final, the front, or the best of the search."""

    title: str
    held_out: bool  # whether there was a final
    trials: tuple[ConsideredTrial, ...]


def score_rows(results: Results, trials: Sequence[StoredTrial]) -> tuple[ScoreRow, ...]:
    """Return every score of some trials: the objective first."""
    infos, suite = results.infos, results.suite(held_out=results.is_held_out)
    scored = [results.scores(trial, held_out=results.is_held_out).means for trial in trials]
    rows = []
    for name in (*((SINGLE,) if results.objective.terms else ()), *infos):
        info = infos.get(name)
        label = name if info is None else info.report_name(len(suite.looked_at_by(name)))
        gain = results.gains.get(name)
        rows.append(
            ScoreRow(
                label=label if info is None or name in {label, info.name} else f"{name}: {label}",
                higher=info is None or info.direction == "maximize",
                values=tuple(means.get(name) for means in scored),
                gain=gain,
                lost=gain is not None and surely_loses(name, gain, results.objective),
            )
        )
    return tuple(rows)


def considered_in(results: Results) -> Considered:
    """Return the candidates in the final; without one the members of the front, or the best of the search."""
    if results.current_final is not None:
        return _of_final(results, results.current_final)
    if results.front is not None:
        members = results.front.members[:FRONT_SHOWN]
        return Considered(
            title="The front: no trial is better in every objective",
            held_out=False,
            trials=tuple(_of_search(results, trial) for trial in members),
        )
    whole = [trial for trial in results.trials if trial.is_whole]
    best = by_value(results.objective)(whole)[:BEST_SHOWN]
    trials = tuple(_of_search(results, trial) for trial in best)
    return Considered(title="The best trials of the search", held_out=False, trials=trials)


def _of_final(results: Results, final: Final) -> Considered:
    by_number = {trial.number: trial for trial in results.trials}
    names = results.objective.names
    considered = []
    for candidate in final.candidates:
        gamed = suspicion(candidate, results.objective)
        note = f"failed: {candidate.failure}" if candidate.failure is not None else ""
        considered.append(
            ConsideredTrial(
                number=candidate.number,
                title=by_number[candidate.number].title if candidate.number in by_number else str(candidate.origin),
                searched=_named(candidate.in_sample, names),
                held_out=_named(candidate.held_out, names),
                values=tuple(candidate.objectives.items()),
                note=note
                or held_out_breach(candidate, results.objective)
                or (f"looks gamed: {gamed}" if gamed is not None else ""),
                role=results.best.role(candidate.number),
            )
        )
    return Considered(title="The candidates in the final", held_out=True, trials=tuple(considered))


def _of_search(results: Results, trial: StoredTrial) -> ConsideredTrial:
    breach = results.objective.constraints.breach(trial.constrained)
    return ConsideredTrial(
        number=trial.number,
        title=trial.title,
        searched=_named(trial.gains_over_others, results.objective.names),
        held_out=(),
        values=tuple(trial.objectives.items()),
        note="" if breach is None else f"breaks the constraints: {breach}",
        role=results.best.role(trial.number),
    )


def _named(gains: Mapping[str, Gain], names: Sequence[str]) -> tuple[tuple[str, Gain], ...]:
    return tuple((name, gains[name]) for name in names if name in gains)
