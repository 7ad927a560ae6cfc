"""A short study of the demo's real checkpoints: the whole loop in a few seconds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

import studies
from optimizer.observe.events import Event, TrialEnded, TrialStarted
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from optimizer.runtime.setup import Runtime, build_runtime
from optimizer.work.trial_loop import TrialLoop
from studies.files.artifacts import Artifacts
from studies.records.database import Database, open_database
from studies.records.stored_studies import create_study, open_study
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy, StoredTrial
from studies.spec.study import StudySpec, parse_spec

EventT = TypeVar("EventT", bound=Event)

_FOLDER = tempfile.TemporaryDirectory(prefix="mergetune-runtime-")  # removed when the process ends

DEMO = Path(studies.__file__).parent / "demo"
PROMPTS = [
    f"an emoji of a {name}" for name in ("lion", "panda", "fox", "penguin", "pizza", "banana", "carrot", "doughnut")
]


def short_spec(**changes: Any) -> dict[str, Any]:
    """Return the demo's spec as plain data, with 8 items of 2 steps; `changes` replace top-level keys."""
    spec: dict[str, Any] = yaml.safe_load((DEMO / "demo.yaml").read_text())
    spec["study"] = "short"
    spec["parents"] = [str(DEMO / name) for name in spec["parents"]]
    spec["suite"] |= {"prompts": PROMPTS, "seeds": [1], "steps": 2}
    spec["scorers"]["clip_score"]["clip"] |= {"pretrained": str(DEMO / "clip.safetensors"), "config_dir": str(DEMO)}
    spec["scorers"]["likeness"] |= {
        "reference": str(DEMO / "reference"),
        "weights": str(DEMO / "features.safetensors"),
    }
    spec["space"] = {"granularity": "sections"}
    spec["budget"] = {"trials": 13}
    spec["render"] = {"degenerate_limit": 8}  # two steps do not make good images
    return spec | changes


# Changes for `short_spec`: two images of one step, scored without a network. A trial takes a moment.
SMALL: Mapping[str, Any] = {
    "final": {"top": 0},
    "sampler": {"name": "random"},
    "suite": {"prompts": ["an emoji of a lion"], "seeds": [1, 2], "sizes": [64], "steps": 1},
    "scorers": {"sharpness": None},
    "objective": {"sharpness": None},
}


def write_spec(path: Path, **changes: Any) -> Path:
    """Write the spec of `short_spec` to a file, and return its path."""
    path.write_text(yaml.safe_dump(short_spec(**changes)))
    return path


@dataclass
class Recorder:
    """A reporter that records everything, and may ask the worker to stop."""

    events: list[Event] = field(default_factory=list)
    stop_after: int | None = None

    def report(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[EventT]) -> list[EventT]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def started(self) -> list[tuple[int, str]]:
        """Number and origin of the trials that were started."""
        return [(event.trial, event.origin) for event in self.of(TrialStarted)]

    @property
    def finished(self) -> list[StoredTrial]:
        return [event.stored for event in self.of(TrialEnded)]

    def stop(self) -> bool:
        return self.stop_after is not None and len(self.finished) >= self.stop_after


@dataclass(frozen=True)
class ShortStudy:
    """A stored short study with its runtime."""

    records: StudyRecords
    runtime: Runtime
    artifacts: Artifacts

    @property
    def database(self) -> Database:
        return self.records.database

    @property
    def study(self) -> StoredStudy:
        return self.records.study

    def run(self, stop_after: int | None = None) -> Recorder:
        """Work on the study until it ends, or until `stop_after` trials are finished."""
        recorder = Recorder(stop_after=stop_after)
        TrialLoop(self.records, self.runtime, self.artifacts, recorder, recorder.stop).run()
        return recorder


def begin(
    folder: Path, changes: Mapping[str, Any] | None = None, url: str | None = None, *, shared: bool = False
) -> ShortStudy:
    """Store the short study with these changes.

    Args:
        shared: whether it works with the runtime of an earlier study of the same spec, as a worker of many would. Not
            for tests that change what is loaded, or look at how it was loaded.
    """
    text = yaml.safe_dump(short_spec(**(changes or {})))
    database = open_database(url or f"sqlite:///{folder}/study.db")
    runtime = _shared_runtime(text) if shared else make_runtime(parse_spec(text, base_dir=folder), folder)
    objective = runtime.objective
    records = create_study(database, runtime.spec, runtime.parents, objective.directions, objective.names)
    return ShortStudy(records, runtime, Artifacts.beside(database.url, folder / "artifacts"))


@lru_cache(maxsize=2)  # loading takes as long as several trials
def _shared_runtime(text: str) -> Runtime:
    return make_runtime(parse_spec(text, base_dir=DEMO), Path(_FOLDER.name))


def reopen(folder: Path, name: str = "short") -> ShortStudy:
    """Open the same study from its database alone, as another process would."""
    database = open_database(f"sqlite:///{folder}/study.db", create=False)
    records = open_study(database, name)
    plan = make_plan(records.study.spec)
    hash_parents(plan, records.study.parents)
    runtime = build_runtime(plan, records.study.parents, folder / "cache")
    return ShortStudy(records, runtime, Artifacts.beside(database.url, folder / "artifacts"))


def make_runtime(spec: StudySpec, folder: Path) -> Runtime:
    """Load the models and scorers of a spec."""
    plan = make_plan(spec)
    return build_runtime(plan, hash_parents(plan), folder / "cache")
