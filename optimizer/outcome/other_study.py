"""Another study with whose trials a new one begins: find it, open it, and check that its parents are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from optimizer.runtime.plan import Plan
from studies.errors import DatabaseError, StudyMissingError
from studies.files.artifacts import Artifacts
from studies.records.database import open_to_read
from studies.records.stored_studies import open_study
from studies.records.study_records import StudyRecords
from studies.records.values import ParentFile, StoredStudy
from studies.spec.study import StudySpec
from studies.spec.warm_start import WarmStartSettings
from studies.system.database_url import same_database


@dataclass(frozen=True, kw_only=True)
class Other:
    """The study whose trials are to be used again."""

    records: StudyRecords
    artifacts: Artifacts


def require_other_study(spec: StudySpec, url: str) -> None:
    """Check, before any parent is hashed, that the study which the spec names can be opened.

    Raises:
        DatabaseError, StudyMissingError: it is not there.
    """
    if spec.warm_start is not None:
        with other_study(spec.warm_start, url, None):
            pass


@contextmanager
def other_study(settings: WarmStartSettings, url: str, artifacts: str | Path | None) -> Iterator[Other]:
    """Open the other study; nothing of it is changed.

    Args:
        url: database of the new study, which is the other's as well unless the settings name one.
        artifacts: where the new study's files are, likewise.

    Raises:
        DatabaseError, StudyMissingError: it is not there.
    """
    is_same_database = settings.storage is None or same_database(settings.storage, url)
    other_url = settings.storage or url
    other_artifacts = settings.artifacts or (artifacts if is_same_database else None)
    try:
        database = open_to_read(other_url)
    except DatabaseError as error:
        raise DatabaseError(f"warm_start: {error}") from error
    try:
        records = open_study(database, settings.study)
        yield Other(records=records, artifacts=Artifacts.existing(other_url, other_artifacts))
    except StudyMissingError as error:
        raise StudyMissingError(f"warm_start: {error}") from error
    finally:
        database.close()


def same_parents(parents: Sequence[ParentFile], other: StoredStudy) -> bool:
    """Return whether both merge files of the same content, in whatever order."""
    return sorted(file.sha256 for file in parents) == sorted(file.sha256 for file in other.parents)


def unlike_parents(plan: Plan, parents: Sequence[ParentFile], other: StoredStudy) -> str:
    """Say why a study of other parents is of no use, for people."""
    ours, theirs = (" + ".join(file.path.name for file in files) for files in (parents, other.parents))
    return (
        f"study {other.name!r} merges {theirs}, this one {ours} ({plan.space.architecture}): trials can only be used "
        "again over files of the same sha256"
    )
