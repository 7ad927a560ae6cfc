"""Open, hash and load a study's files, and show progress on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from optimizer.cli.common import console, escaped, loading_libraries
from optimizer.cli.workers.model_folders import model_folders

if TYPE_CHECKING:
    from optimizer.runtime.model_files import ModelFolders
    from optimizer.runtime.plan import Plan
    from optimizer.runtime.setup import Runtime
    from studies.records.values import ParentFile, StoredStudy


def load_stored_study(stored: StoredStudy, cache: Path) -> Runtime:
    """Load the models and scorers of a stored study.

    Raises:
        StudyChangedError: a file has changed since the study began.
    """
    return load_runtime(open_unchanged_plan(stored, model_folders(None, cache)), stored.parents, cache)


def open_unchanged_plan(stored: StoredStudy, folders: ModelFolders) -> Plan:
    """Open a stored study's files, wherever they are on this machine; none may have changed.

    Raises:
        StudyChangedError: a parent, or another file that the study reads, has changed since the study began.
    """
    from studies.spec.fingerprints import refuse_changed_files

    plan = open_plan(stored, folders)
    refuse_changed_files(stored.fingerprints, plan.spec)
    return plan


def open_plan(stored: StoredStudy, folders: ModelFolders, *, trust_times: bool = True) -> Plan:
    """Open a stored study's files; no parent may have changed.

    Args:
        trust_times: whether a parent is taken as unchanged, without reading it, if its size and modification time are.

    Raises:
        StudyChangedError: a parent has changed since the study began.
    """
    with loading_libraries():
        from optimizer.runtime.plan import make_plan

    with console.status(f"looking for the files of {escaped(stored.name)}"):
        located = folders.locate(stored)
    plan = make_plan(located.spec, begun=True)
    hash_with_progress(plan, located.parents, trust_times=trust_times)
    return plan


def hash_with_progress(
    plan: Plan, known: tuple[ParentFile, ...] = (), *, trust_times: bool = True
) -> tuple[ParentFile, ...]:
    """Hash a plan's parents with a progress bar; arguments and errors are those of `hash_parents`."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from optimizer.runtime.parent_files import hash_parents

    total = sum(checkpoint.size_bytes for checkpoint in plan.checkpoints)
    columns = (TextColumn("hashing parents"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        return hash_parents(plan, known, lambda size: progress.advance(task, size), trust_times=trust_times)


def load_runtime(plan: Plan, parents: tuple[ParentFile, ...], cache: Path) -> Runtime:
    """Load the models and scorers of a plan; errors are those of `build_runtime`."""
    from optimizer.runtime.setup import build_runtime

    with console.status("loading parents, pipeline and scorers"):
        return build_runtime(plan, parents, cache)
