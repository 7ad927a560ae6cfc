"""`mergetune worker`: a worker for all studies of a database, or for some."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from basics.messages import counted
from optimizer.cli.common import ArtifactFolder, CacheFolder, Storage, console, quiet_optuna
from optimizer.cli.workers.assignment import ModelOption, StudyNames, assigned
from optimizer.cli.workers.monitoring import LogJson, MetricsAddress, monitor
from optimizer.cli.workers.session import stopping
from studies.system.advice import DEFAULT_STORAGE


def worker(
    context: typer.Context,
    study: StudyNames = None,
    models: ModelOption = None,
    until_done: Annotated[bool, typer.Option("--until-done", help="Stop when there is nothing left to do.")] = False,
    no_final: Annotated[bool, typer.Option("--no-final", help="Leave finals to other workers.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    cache: CacheFolder = None,
    log_json: LogJson = None,
    metrics: MetricsAddress = None,
) -> None:
    """Work on the trials of every active study whose files can be found, until stopped."""
    monitoring = monitor(context, log_json, metrics)
    assignment, database = assigned(storage, study, models, artifacts, cache, monitoring)
    quiet_optuna()
    with stopping() as stop:
        assignment = replace(assignment, until_done=until_done, finals=not no_final)
        finished = assignment.worker(database, stop, monitoring).run()
    console.print(f"this worker finished {counted(finished, 'trial')}")
