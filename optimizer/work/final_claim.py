"""Holding the final of a study: one worker does, and nobody deletes or renames the study meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from optimizer.errors import FinalError
from optimizer.system.retry import Retry
from optimizer.work.heartbeat import registered_worker
from studies.records.study_records import StudyRecords
from studies.records.workers import claim_final


@contextmanager
def holding_final(records: StudyRecords, retry: Retry) -> Iterator[None]:
    """Register this process as the worker that holds a study's final, while the block runs.

    Args:
        retry: waits while the database cannot be reached.

    Raises:
        FinalError: another worker holds it.
    """
    with registered_worker(records.database, retry) as heartbeat:
        if not retry(lambda: claim_final(records, heartbeat.worker_id, heartbeat.alive())):
            raise FinalError(f"another worker holds the final of study {records.study.name!r}: wait until it is done")
        yield
