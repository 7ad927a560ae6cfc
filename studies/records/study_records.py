"""A study together with the opened database that holds it: the first argument of what reads or changes a study."""

from __future__ import annotations

from dataclasses import dataclass

from studies.records.database import Database
from studies.records.values import StoredStudy


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecords:
    """The records of one study: its trials, renders, scores, batch limits and final."""

    database: Database
    study: StoredStudy  # as it was when it was read
