"""One study in an opened database: what the functions of this folder that read or change a study take first."""

from __future__ import annotations

from dataclasses import dataclass

from studies.records.database import Database
from studies.records.values import StoredStudy


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecords:
    """The records of one study: its trials, renders, scores, batch limits and final."""

    database: Database
    study: StoredStudy  # as it was when it was read
