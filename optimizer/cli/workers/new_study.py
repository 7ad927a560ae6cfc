"""The start of a study, step by step: from its YAML file to its rows in the database.

The study is stored last, once everything that it needs has been opened, checked and, if this process works on it,
loaded. So a study that cannot run never begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from optimizer.cli.common import console, loading_libraries, print_notes, quiet_optuna, read_spec
from optimizer.cli.workers.loading import hash_with_progress, load_runtime, require_sound_with_progress, usable_device
from optimizer.cli.workers.model_folders import digest_cache
from optimizer.cli.workers.session import patiently

if TYPE_CHECKING:
    import torch

    from optimizer.outcome.scored_trials import WarmStart
    from optimizer.runtime.plan import Plan
    from optimizer.runtime.setup import Runtime
    from studies.records.database import Database
    from studies.records.study_records import StudyRecords
    from studies.records.values import ParentFile
    from studies.spec.study import StudySpec


def start_study(spec: Path, url: str, cache: Path, artifacts: str | Path | None = None) -> tuple[StudyRecords, Runtime]:
    """Begin a study that this process works on.

    Args:
        url: of the study database.
        artifacts: where the study's files go; None for beside the database.
    """
    new = _prepare(spec, url, cache, artifacts, usable_device)
    runtime = load_runtime(new.plan, new.parents, cache)
    return new.store(runtime.plan), runtime


def register_study(spec: Path, url: str, cache: Path, artifacts: str | Path | None = None) -> StudyRecords:
    """Begin a study for other workers: everything is checked except what their devices can do."""
    new = _prepare(spec, url, cache, artifacts, _named_device)
    with console.status("loading scorers"):
        from optimizer.runtime.setup import load_scorers

        plan, _ = load_scorers(new.plan, new.parents, _cpu(), cache)
    return new.store(plan)


def _prepare(
    spec: Path, url: str, cache: Path, artifacts: str | Path | None, choose: Callable[[Plan], torch.device]
) -> NewStudy:
    """Read and check a spec, hash its parents, and find the trials that the study begins with."""
    wanted, database = _new_spec(spec, url)
    quiet_optuna()
    with loading_libraries():
        from optimizer.cli.views.planning import print_plan
        from optimizer.outcome.other_study import require_other_study
        from optimizer.outcome.warm_start import find_warm_start
        from optimizer.runtime.plan import make_plan
        from studies.records.database import open_database
        from studies.records.stored_studies import require_new

    plan = make_plan(wanted)
    device = choose(plan)
    require_other_study(plan.spec, url)
    database = database or patiently(lambda: open_database(url))  # a missing file is created only now
    patiently(lambda: require_new(database, plan.spec.study))
    print_plan(plan, device)
    parents = hash_with_progress(plan, digests=digest_cache(cache))
    require_sound_with_progress(plan)
    warm_start = find_warm_start(plan, parents, device, url, artifacts)
    if warm_start is not None:
        print_notes(warm_start.notes)
        plan = replace(plan, spec=warm_start.written_into(plan.spec))
    return NewStudy(database=database, plan=plan, parents=parents, warm_start=warm_start, artifacts=artifacts)


def _new_spec(file: Path, url: str) -> tuple[StudySpec, Database | None]:
    """Read a spec, whose study must be new, and open the database; None if its file does not exist yet."""
    from optimizer.runtime.named_files import require_files_of
    from studies.system.database_url import database_file

    spec, sqlite_file = read_spec(file), database_file(url)
    require_files_of(spec)
    from studies.records.database import open_database
    from studies.records.network_shares import require_local
    from studies.records.stored_studies import require_new, require_storable

    require_local(url)
    if sqlite_file is not None and not sqlite_file.exists():
        return spec, None

    def opened() -> Database:
        database = open_database(url)
        require_new(database, spec.study)
        require_storable(database, spec)
        return database

    return spec, patiently(opened)


def _named_device(plan: Plan) -> torch.device:
    """Return the CPU, once the spec names a device that some machine may have.

    Raises:
        RenderError: torch knows none of this name, or one that computes nothing.
    """
    from optimizer.runtime.device_choice import require_device_name

    require_device_name(plan.spec.render.device)
    return _cpu()


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class NewStudy:
    """A study that is checked but not stored yet."""

    database: Database
    plan: Plan
    parents: tuple[ParentFile, ...]
    warm_start: WarmStart | None
    artifacts: str | Path | None

    def store(self, plan: Plan) -> StudyRecords:
        """Store the study with the trials that it begins with.

        Args:
            plan: this study's plan, with the units of its scores written out.
        """
        from optimizer.work.leftovers import remove_cut_off_starts
        from studies.errors import StudyExistsError
        from studies.files.artifacts import Artifacts
        from studies.records.stored_studies import create_study, open_study

        copied = None
        if self.warm_start is not None and self.warm_start.scored:
            artifacts = Artifacts.beside(self.database.url, self.artifacts)
            patiently(lambda: remove_cut_off_starts(self.database, artifacts))
            copied = self.warm_start.copied_trials(plan, artifacts)
        names, directions = plan.objective.names, plan.objective.directions
        attempts = 0

        def create() -> StudyRecords:
            nonlocal attempts
            attempts += 1
            try:
                return create_study(self.database, plan.spec, self.parents, directions, names, copied)
            except StudyExistsError:
                records = open_study(self.database, plan.spec.study)
                if attempts == 1 or records.study.spec != plan.spec:
                    raise
                return records  # by the last attempt, which heard no answer

        return patiently(create)
