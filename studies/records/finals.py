"""The final of a study as it is stored: its best trials and the parents on a suite that the search never saw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from studies.records import tables
from studies.records.database import now
from studies.records.origins import Origin
from studies.records.stored_json import explained_row, mapping
from studies.records.study_records import StudyRecords, lock_study
from studies.records.values import Gain, Mean, StoredStudy, StoredTrial
from studies.records.votes import Vote, load_votes


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A trial in the final. Scores, objectives and gains are empty where it failed there."""

    number: int  # the trial's
    origin: Origin
    objectives: Mapping[str, float] = field(default_factory=dict)
    image_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Scorer -> value per held-out item; NaN where it leaves one out."""
    set_scores: Mapping[str, float] = field(default_factory=dict)
    constrained: Mapping[str, Mean] = field(default_factory=dict)  # scorer that has a constraint -> its held-out mean
    in_sample: Mapping[str, Gain] = field(default_factory=dict)  # as during the search
    held_out: Mapping[str, Gain] = field(default_factory=dict)  # empty for parents
    over_each: Mapping[str, Mapping[str, Gain]] = field(default_factory=dict)
    """Letter of a parent -> the held-out gains over it without votes, in a study that asks for votes."""
    chosen: bool = False
    failure: str | None = None  # why it has no scores

    @property
    def constrained_means(self) -> dict[str, float]:
        """Scorer that has a constraint -> its held-out mean."""
        return {name: mean.value for name, mean in self.constrained.items()}

    @property
    def is_parent(self) -> bool:
        """Whether it is a parent alone."""
        return self.origin.parent is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """What a final found."""

    suite_digest: str  # of the held-out suite
    complete_trials: int  # of the study, when the candidates were taken
    finalists: tuple[Finalist, ...]  # the parents in their order, then the candidates by rank
    votes: int | None = None  # on its renders that count in it; None where the study asks for no votes
    created_at: float = field(default_factory=now)  # seconds since the epoch

    @property
    def candidates(self) -> tuple[Finalist, ...]:
        """Those that are no parents, by rank."""
        return tuple(finalist for finalist in self.finalists if not finalist.is_parent)

    @property
    def parents(self) -> tuple[Finalist, ...]:
        """The parents, in their order."""
        return tuple(finalist for finalist in self.finalists if finalist.is_parent)

    @property
    def winner(self) -> Finalist | None:
        """The chosen candidate; None where all failed or there are several objectives."""
        return next((finalist for finalist in self.finalists if finalist.chosen), None)

    @property
    def awaits_votes(self) -> bool:
        """Whether it depends on people's votes, and nobody has voted yet."""
        return self.votes == 0

    def finalist(self, number: int) -> Finalist | None:
        """Return what was found of a trial; None where it took no part."""
        return next((finalist for finalist in self.finalists if finalist.number == number), None)

    def candidate(self, number: int) -> Finalist | None:
        """Return what was found of a merge; None where it took no part, and for a parent."""
        finalist = self.finalist(number)
        return None if finalist is None or finalist.is_parent else finalist

    def is_outdated(self, trials: Sequence[StoredTrial]) -> bool:
        """Return whether trials were finished that the final could not take into account."""
        return sum(trial.state == "complete" for trial in trials) != self.complete_trials


def store_final(records: StudyRecords, final: Final) -> None:
    """Replace a study's final, in one transaction."""
    with records.database.write() as connection:
        lock_study(connection, records.study)
        _replace(connection, records.study, final)


def store_judged_final(records: StudyRecords, final: Final, votes: Sequence[Vote]) -> bool:
    """Store what votes make of a final; False, and nothing is stored, where it or the votes have changed since.

    Args:
        votes: on its renders, that `final` follows from.
    """
    with records.database.write() as connection:
        lock_study(connection, records.study)
        now_held = load_final(records)
        unchanged = now_held is not None and now_held.created_at == final.created_at
        if not unchanged or load_votes(records, held_out=True) != list(votes):
            return False
        _replace(connection, records.study, final)
    return True


def _replace(connection: Connection, study: StoredStudy, final: Final) -> None:
    connection.execute(tables.finals.delete().where(tables.finals.c.study_id == study.id))
    connection.execute(
        tables.finals.insert(),
        [_row(study, final, position, finalist) for position, finalist in enumerate(final.finalists)],
    )


def _row(study: StoredStudy, final: Final, position: int, finalist: Finalist) -> dict[str, object]:
    return {
        "study_id": study.id,
        "number": finalist.number,
        "place": position,
        "origin": str(finalist.origin),
        "objectives": dict(finalist.objectives),
        "image_scores": {
            name: [None if math.isnan(value) else value for value in values]  # JSON knows no NaN
            for name, values in finalist.image_scores.items()
        },
        "set_scores": dict(finalist.set_scores),
        "constrained": {name: [mean.value, mean.low, mean.high] for name, mean in finalist.constrained.items()},
        "in_sample": _plain(finalist.in_sample),
        "held_out": _plain(finalist.held_out),
        "over_each": {letter: _plain(gains) for letter, gains in finalist.over_each.items()},
        "chosen": finalist.chosen,
        "failure": finalist.failure,
        "suite_digest": final.suite_digest,
        "complete_trials": final.complete_trials,
        "votes": final.votes,
        "created_at": final.created_at,
    }


def load_final(records: StudyRecords) -> Final | None:
    """Return a study's final; None where none was held yet."""
    query = sa.select(tables.finals).where(tables.finals.c.study_id == records.study.id).order_by(tables.finals.c.place)
    with records.database.engine.connect() as connection:
        rows = connection.execute(query).all()
    if not rows:
        return None
    with explained_row("the final"):
        finalists = tuple(map(_finalist, rows))
    return Final(
        suite_digest=rows[0].suite_digest,
        complete_trials=rows[0].complete_trials,
        votes=rows[0].votes,
        created_at=rows[0].created_at,
        finalists=finalists,
    )


def _finalist(row: sa.Row[Any]) -> Finalist:
    return Finalist(
        number=row.number,
        origin=Origin.parse(row.origin),
        objectives=mapping(row.objectives),
        image_scores={
            name: tuple(math.nan if value is None else value for value in values)
            for name, values in mapping(row.image_scores).items()
        },
        set_scores=mapping(row.set_scores),
        constrained={
            name: Mean(value=value, low=low, high=high) for name, (value, low, high) in mapping(row.constrained).items()
        },
        in_sample=_gains(mapping(row.in_sample)),
        held_out=_gains(mapping(row.held_out)),
        over_each={letter: _gains(gains) for letter, gains in mapping(row.over_each or {}).items()},
        chosen=row.chosen,
        failure=row.failure,
    )


def lacks_final(records: StudyRecords, trials: Sequence[StoredTrial]) -> bool:
    """Return whether an ended study is to have a final, and has none that takes all of its trials into account.

    Args:
        trials: all of the study's.
    """
    if not records.study.spec.final.top or any(trial.state == "running" for trial in trials):
        return False
    final = load_final(records)
    return final is None or final.is_outdated(trials)


def _plain(gains: Mapping[str, Gain]) -> dict[str, list[Any]]:
    return {name: gain.stored for name, gain in gains.items()}


def _gains(stored: Mapping[str, Sequence[Any]]) -> dict[str, Gain]:
    return {name: Gain.read(values) for name, values in stored.items()}
