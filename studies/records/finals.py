"""The final of a study: its best trials and the parents on a suite that the search never saw, as it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from studies.records import tables
from studies.records.database import now
from studies.records.origins import Origin
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredStudy, StoredTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A trial in the final. Scores, objectives and gains are empty where it failed there."""

    number: int  # the trial's
    origin: Origin
    objectives: Mapping[str, float] = field(default_factory=dict)
    image_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # scorer -> value per held-out item
    set_scores: Mapping[str, float] = field(default_factory=dict)
    in_sample: Mapping[str, Gain] = field(default_factory=dict)  # as during the search
    held_out: Mapping[str, Gain] = field(default_factory=dict)  # empty for parents
    chosen: bool = False
    failure: str | None = None  # why it has no scores

    @property
    def is_parent(self) -> bool:
        return self.origin.parent is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """Everything a final found."""

    suite_digest: str  # of the held-out suite
    complete_trials: int  # of the study, when the candidates were taken
    finalists: tuple[Finalist, ...]  # the parents in their order, then the candidates by rank
    created_at: float = field(default_factory=now)  # seconds since the epoch

    @property
    def candidates(self) -> tuple[Finalist, ...]:
        return tuple(row for row in self.finalists if not row.is_parent)

    @property
    def parents(self) -> tuple[Finalist, ...]:
        return tuple(row for row in self.finalists if row.is_parent)

    @property
    def winner(self) -> Finalist | None:
        """The chosen candidate; None where all failed, and where there are several objectives."""
        return next((row for row in self.finalists if row.chosen), None)

    def is_outdated(self, trials: Sequence[StoredTrial]) -> bool:
        """Whether trials were finished that the final could not take into account."""
        return sum(row.state == "complete" for row in trials) != self.complete_trials


def store_final(records: StudyRecords, final: Final) -> None:
    """Replace a study's final, in one transaction."""
    study, studies = records.study, tables.studies
    with records.database.write() as connection:
        # A server would let two finals in at once: the second waits here for the first, and then replaces it.
        connection.execute(sa.select(studies.c.id).where(studies.c.id == study.id).with_for_update())
        connection.execute(tables.finals.delete().where(tables.finals.c.study_id == study.id))
        connection.execute(
            tables.finals.insert(),
            [_row(study, final, place, finalist) for place, finalist in enumerate(final.finalists)],
        )


def _row(study: StoredStudy, final: Final, place: int, finalist: Finalist) -> dict[str, object]:
    return {
        "study_id": study.id,
        "number": finalist.number,
        "place": place,
        "origin": str(finalist.origin),
        "objectives": dict(finalist.objectives),
        "image_scores": {name: list(values) for name, values in finalist.image_scores.items()},
        "set_scores": dict(finalist.set_scores),
        "in_sample": _plain(finalist.in_sample),
        "held_out": _plain(finalist.held_out),
        "chosen": finalist.chosen,
        "failure": finalist.failure,
        "suite_digest": final.suite_digest,
        "complete_trials": final.complete_trials,
        "created_at": final.created_at,
    }


def load_final(records: StudyRecords) -> Final | None:
    """None where there was none yet."""
    query = sa.select(tables.finals).where(tables.finals.c.study_id == records.study.id).order_by(tables.finals.c.place)
    with records.database.engine.connect() as connection:
        rows = connection.execute(query).all()
    if not rows:
        return None
    return Final(
        suite_digest=rows[0].suite_digest,
        complete_trials=rows[0].complete_trials,
        created_at=rows[0].created_at,
        finalists=tuple(
            Finalist(
                number=row.number,
                origin=Origin.parse(row.origin),
                objectives=row.objectives,
                image_scores={name: tuple(values) for name, values in row.image_scores.items()},
                set_scores=row.set_scores,
                in_sample=_gains(row.in_sample),
                held_out=_gains(row.held_out),
                chosen=row.chosen,
                failure=row.failure,
            )
            for row in rows
        ),
    )


def lacks_final(records: StudyRecords, rows: Sequence[StoredTrial]) -> bool:
    """Whether a study that has ended with these trials is to have a final, and has none that knows of them all."""
    if not records.study.spec.final.top or any(row.state == "running" for row in rows):
        return False
    known = load_final(records)
    return known is None or known.is_outdated(rows)


def _plain(gains: Mapping[str, Gain]) -> dict[str, list[Any]]:
    return {name: [gain.value, gain.low, gain.high, gain.parent] for name, gain in gains.items()}


def _gains(stored: Mapping[str, Sequence[Any]]) -> dict[str, Gain]:
    return {
        name: Gain(value=value, low=low, high=high, parent=parent)
        for name, (value, low, high, parent) in stored.items()
    }
