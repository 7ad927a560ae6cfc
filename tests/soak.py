"""Run several workers on one study, and kill one of them every few seconds: nothing may be lost or done twice.

    python tests/soak.py FOLDER [--url URL ...] [--trials 300] [--workers 4] [--seed N]

Workers are real processes that end by SIGKILL. They are forked from one that has loaded the models, so that a new one
starts working at once. Trials render a few of the demo's images with a single step. Prints the seed, and ends with an
error if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
import sqlalchemy as sa
import torch
from demo_study import Recorder, make_runtime, short_spec
from optuna.trial import TrialState
from real_databases import new_postgresql_url

from optimizer.observe.events import Event, TrialEnded
from optimizer.runtime.setup import Runtime
from optimizer.work.heartbeat import RERUNS
from optimizer.work.trial_loop import TrialLoop
from studies.files.artifacts import Artifacts
from studies.records import stored_renders, stored_studies, stored_trials
from studies.records.database import Database, open_database
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.spec.study import StudySpec

LONGEST_SECONDS = 3600.0
PAUSE = (0.3, 2.5)  # seconds between two kills


class Log(Recorder):
    """A reporter that records every trial that its worker has completed, in one file for all workers."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def report(self, event: Event) -> None:
        super().report(event)
        if isinstance(event, TrialEnded) and event.stored.state == "complete":
            with self._path.open("a") as file:
                file.write(f"{event.stored.number}\n")


@dataclass(frozen=True, kw_only=True)
class Soak:
    """A study whose workers are killed."""

    folder: Path
    url: str
    runtime: Runtime

    @property
    def log(self) -> Path:
        return self.folder / "finished.txt"

    def fork(self) -> int:
        """Start a worker process, and return its process number."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            database = open_database(self.url, create=False)
            records = stored_studies.open_study(database, self.runtime.spec.study)
            artifacts = Artifacts.beside(self.url, self.folder / "artifacts")
            TrialLoop(records, self.runtime, artifacts, Log(self.log)).run()
            code = 0
        finally:
            os._exit(code)

    def tear(self, workers: int, generator: random.Random) -> int:
        """Keep a number of workers running until one finds nothing left to do; return how many were killed."""
        alive = [self.fork() for _ in range(workers)]
        killed, deadline = 0, time.monotonic() + LONGEST_SECONDS
        try:
            while True:
                time.sleep(generator.uniform(*PAUSE))
                if time.monotonic() > deadline:
                    raise SystemExit("the study does not end")
                for process in list(alive):
                    number, status = os.waitpid(process, os.WNOHANG)
                    if number:
                        if status:
                            raise SystemExit(f"a worker ended by itself with status {status}")
                        alive.remove(process)
                if len(alive) < workers:
                    break
                victim = alive.pop(generator.randrange(len(alive)))
                os.kill(victim, signal.SIGKILL)
                os.waitpid(victim, 0)
                killed += 1
                alive.append(self.fork())
        finally:
            for process in alive:
                _, status = os.waitpid(process, 0)
        last = self.fork()  # finishes what the last victim left
        if os.waitpid(last, 0)[1]:
            raise SystemExit("the last worker failed")
        return killed


def small_runtime(folder: Path, trials: int, sampler: str = "random") -> Runtime:
    """Load the demo with four images of a single step."""
    changes = {
        "budget": {"trials": trials},
        "sampler": {"name": sampler},
        "probes": {"profiles": 2},
        "objective": {"clip_score": None},
        "final": {"top": 0},
    }
    data = short_spec(**changes)
    data["suite"] |= {"prompts": data["suite"]["prompts"][:4], "steps": 1}
    data["scorers"] = {"clip_score": data["scorers"]["clip_score"]}
    spec = StudySpec.model_validate(data, context={"base_dir": folder})
    return make_runtime(spec, folder)


def soak(folder: Path, url: str, runtime: Runtime, workers: int, seed: int) -> list[str]:
    """Run one study to its end while its workers are killed; return what is wrong with it then, one line each."""
    folder.mkdir(parents=True, exist_ok=True)
    database = open_database(url)
    objective = runtime.objective
    stored_studies.create_study(database, runtime.spec, runtime.parents, objective.directions, objective.names)
    database.close()  # no connection is shared with a child
    torn = Soak(folder=folder, url=url, runtime=runtime)
    start = time.perf_counter()
    killed = torn.tear(workers, random.Random(seed))
    seconds = time.perf_counter() - start
    database = open_database(url, create=False)
    trials = runtime.spec.budget.trials
    found = wrongs(database, torn, trials)
    again = sum(row.attempt > 1 for row in stored_trials.load_trials(stored_studies.open_study(database, "short")))
    database.close()
    counts = f"{trials} trials, {workers} workers, {killed} killed, {again} trials run again"
    print(f"{sa.make_url(url).get_backend_name()}: {counts}, {seconds:.0f} s", flush=True)
    return found


def wrongs(database: Database, torn: Soak, trials: int) -> list[str]:
    """Return what is wrong with the study at the end, one line each."""
    records = stored_studies.open_study(database, torn.runtime.spec.study)
    rows = stored_trials.load_trials(records)
    told = optuna.load_study(study_name=records.study.name, storage=database.storage).trials
    found = []
    if [row.number for row in rows] != list(range(trials)) or len(told) != trials:
        found.append(f"{trials} trials were asked for, there are {len(rows)} of ours and {len(told)} of Optuna's")
    finished = Counter(map(int, torn.log.read_text().split()))
    found += [f"trial {number} was finished {count} times" for number, count in finished.items() if count > 1]
    complete = {row.number for row in rows if row.state == "complete"}
    found += [f"trial {number} was finished and is lost" for number in finished if number not in complete]
    for row, trial in zip(rows, told, strict=False):
        found += [f"trial {row.number}: {what}" for what in _inconsistencies(records, row, trial)]
    return found


def _inconsistencies(records: StudyRecords, row: StoredTrial, trial: optuna.trial.FrozenTrial) -> Sequence[str]:
    if row.state == "failed" and row.attempt == RERUNS + 1 and trial.state == TrialState.FAIL:
        return ()  # too many workers were killed over it
    found = []
    if row.state != "complete" or trial.state != TrialState.COMPLETE:
        found.append(f"{row.state}, and {trial.state.name} for Optuna")
    elif trial.values != list(row.objectives.values()):
        found.append(f"{trial.values} for Optuna, {dict(row.objectives)} for us")
    if not row.gains:
        found.append("no gains")
    renders = stored_renders.load_renders(records, row)
    by_item, _ = stored_renders.load_scores(records, row)
    if [render.item for render in renders] != list(range(4)) or {len(values) for values in by_item.values()} != {4}:
        found.append(f"{len(renders)} renders and {by_item} scores")
    return found


def main() -> None:
    """Run the studies that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", nargs="+", help="empty databases, in turn; SQLite and PostgreSQL if left out")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    torch.set_num_threads(1)  # a process that has used several cannot be forked
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    runtime = small_runtime(arguments.folder, arguments.trials)
    urls = arguments.url or [f"sqlite:///{arguments.folder}/soak.db", new_postgresql_url()]
    found = []
    for index, url in enumerate(urls):
        found += soak(arguments.folder / str(index), url, runtime, arguments.workers, seed)
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
