"""Open, hash and load a study's files, and show progress on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from optimizer.cli.common import console, escaped, loading_libraries
from studies.errors import StudyChangedError

if TYPE_CHECKING:
    import torch

    from optimizer.runtime.digest_cache import DigestCache
    from optimizer.runtime.model_files import ModelFolders
    from optimizer.runtime.plan import Plan
    from optimizer.runtime.setup import Runtime
    from studies.recipe.recipe import Operation
    from studies.records.values import ParentFile, StoredStudy
    from studies.spec.study import StudySpec


def load_stored_study(stored: StoredStudy, folders: ModelFolders, cache: Path) -> Runtime:
    """Load the models and scorers of a stored study.

    Args:
        folders: where files that have moved are looked for.

    Raises:
        StudyChangedError: a file has changed since the study began.
    """
    return load_runtime(open_unchanged_plan(stored, folders), stored.parents, cache)


def open_asked_study(
    stored: StoredStudy, spec: StudySpec, folders: ModelFolders, *, looked_at: bool = False
) -> Plan | None:
    """Open a stored study's files where its spec file names them; both must ask for the same.

    Args:
        looked_at: whether nothing will be rendered, so that files which lie where they lay need not be opened.

    Returns:
        None if nothing was opened.

    Raises:
        StudyChangedError: the spec has changed, or a file at a path that it names is another than the study's.
    """
    from studies.spec.fingerprints import refuse_changed_spec
    from studies.spec.paths import paths_of, with_paths_of

    there = with_paths_of(stored.spec, spec)
    refuse_changed_spec(there, spec)
    if looked_at and paths_of(there) == paths_of(stored.spec):
        return None
    plan = open_unchanged_plan(_moved(stored, there), folders)
    from optimizer.search.recipe_probes import refuse_changed_recipes

    for asked, found in zip(paths_of(there), paths_of(plan.spec), strict=True):
        if asked != found and asked.exists():
            raise StudyChangedError(
                f"{asked}, which the spec names, is not the file the study began with (that is {found}): correct the "
                "path in the spec, or start a new study"
            )
    refuse_changed_recipes(plan.spec, spec.probes.recipes, plan.blueprint(stored.parents))
    return plan


def _moved(stored: StoredStudy, there: StudySpec) -> StoredStudy:
    """Return the study with the paths of another spec."""
    parents = tuple(replace(file, path=path) for file, path in zip(stored.parents, there.parents, strict=True))
    return replace(stored, spec=there, parents=parents)


def open_unchanged_plan(stored: StoredStudy, folders: ModelFolders) -> Plan:
    """Open a stored study's files, wherever they are on this machine; none may have changed.

    Raises:
        StudyChangedError: a parent, or another file that the study reads, has changed since the study began, or an
            earlier version rendered or merged it otherwise.
    """
    from studies.spec.fingerprints import refuse_changed_files
    from studies.spec.former import refuse_other_merges, refuse_other_renders

    refuse_other_merges(_operations(stored.spec))
    plan = open_plan(stored, folders, scorers=True)
    refuse_changed_files(stored.fingerprints, plan.spec)
    plain_levels = plan.prediction.edm is None and not plan.prediction.zero_snr
    refuse_other_renders(stored.former_scheduler, plan.spec.suite, plain_levels=plain_levels)
    return plan


def _operations(spec: StudySpec) -> Iterator[Operation]:
    """Yield those of a study's steps, and of the recipes among its probes and from its warm start."""
    from studies.recipe.recipe import Recipe

    yield from spec.operations
    texts = [probe.recipe for probe in spec.probes.recipes]
    texts += [merge.recipe for merge in spec.warm_start.again] if spec.warm_start else []
    for text in texts:
        if text is not None:
            yield from Recipe.from_json(text).random_operations


def open_plan(stored: StoredStudy, folders: ModelFolders, *, scorers: bool = False, read_all: bool = False) -> Plan:
    """Open a stored study's files; no parent may have changed.

    Args:
        scorers: whether the scorers' files must be there, too.
        read_all: whether every parent is read, even if it was hashed before and has not been touched since.

    Raises:
        StudyChangedError: a parent has changed since the study began.
    """
    with loading_libraries():
        from optimizer.runtime.plan import make_plan

    with console.status(f"looking for the files of {escaped(stored.name)}"):
        located = folders.locate(stored, scorers=scorers)
    plan = make_plan(located.spec, begun=True)
    hash_with_progress(plan, located.parents, digests=None if read_all else folders.digests)
    return plan


def hash_with_progress(
    plan: Plan, known: tuple[ParentFile, ...] = (), *, digests: DigestCache | None
) -> tuple[ParentFile, ...]:
    """Hash a plan's parents with a progress bar; arguments and errors are those of `hash_parents`."""
    from optimizer.runtime.parent_files import hash_parents

    total = sum(checkpoint.size_bytes for checkpoint in plan.checkpoints)
    with bytes_progress("hashing parents", total) as advance:
        return hash_parents(plan, known, advance, digests=digests)


def require_sound_with_progress(plan: Plan) -> None:
    """Refuse a study whose files hold broken values, with a progress bar; errors are those of `require_sound`."""
    with bytes_progress("looking for NaN", plan.ingredients.size_bytes) as advance:
        plan.ingredients.require_sound(advance)


def usable_device(plan: Plan) -> torch.device:
    """Choose the spec's device, and check that it can render as the spec asks.

    Raises:
        RenderError: it cannot.
    """
    from optimizer.runtime.device_choice import choose_device, render_dtype

    device = choose_device(plan.spec.render.device)
    render_dtype(plan.spec.render, device)
    return device


@contextmanager
def bytes_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar, and yield the function that advances it by a number of bytes.

    Args:
        total: bytes.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda size: progress.advance(task, size)


def load_runtime(plan: Plan, parents: tuple[ParentFile, ...], cache: Path) -> Runtime:
    """Load the models and scorers of a plan; errors are those of `build_runtime`."""
    from optimizer.runtime.setup import build_runtime

    with console.status("loading parents, pipeline and scorers"):
        return build_runtime(plan, parents, cache)
