"""A short study on the demo's real checkpoints: the whole loop in a few seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import studies
from optimizer.observe.events import Reporter
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from optimizer.runtime.setup import Runtime, build_runtime
from optimizer.work.worker import Worker
from studies.files.artifacts import Artifacts
from studies.records.batch_limits import Batched
from studies.records.database import Database, open_database
from studies.records.stored_studies import create_study, open_study
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy, StoredTrial
from studies.spec.study import StudySpec, parse_spec

DEMO = Path(studies.__file__).parent / "demo"
PROMPTS = [
    f"an emoji of a {name}" for name in ("lion", "panda", "fox", "penguin", "pizza", "banana", "carrot", "doughnut")
]


def short_spec(**changes: Any) -> dict[str, Any]:
    """The demo's spec as plain data, with 8 items of 2 steps; `changes` replace top-level keys."""
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
    spec["render"] = {"degenerate_limit": 8}  # two steps do not make good pictures
    return spec | changes


# Changes of `short_spec`: two images of one step, scored without any network. A trial takes a moment.
SMALL: Mapping[str, Any] = {
    "final": {"top": 0},
    "sampler": {"name": "random"},
    "suite": {"prompts": ["an emoji of a lion"], "seeds": [1, 2], "sizes": [64], "steps": 1},
    "scorers": {"sharpness": None},
    "objective": {"sharpness": None},
}


def write_spec(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(short_spec(**changes)))
    return path


@dataclass
class Recorder(Reporter):
    """A Reporter that remembers, and may ask to stop."""

    started: list[tuple[int, str]] = field(default_factory=list)
    finished: list[StoredTrial] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    reduced: list[tuple[Batched, int, str]] = field(default_factory=list)
    back: list[float] = field(default_factory=list)  # seconds
    stop_after: int | None = None

    def trial_started(self, number: int, origin: str, images: int) -> None:
        assert images > 0
        self.started.append((number, origin))

    def images_rendered(self, done: int) -> None:
        assert done > 0

    def trial_finished(self, trial: StoredTrial) -> None:
        self.finished.append(trial)

    def paused(self) -> None: ...

    def outage_began(self, reason: str, limit_seconds: float) -> None:
        assert limit_seconds > 0
        self.away.append(reason)

    def batch_reduced(self, component: Batched, batch_size: int, reason: str) -> None:
        self.reduced.append((component, batch_size, reason))

    def outage_ended(self, seconds: float) -> None:
        self.back.append(seconds)

    def stop(self) -> bool:
        return self.stop_after is not None and len(self.finished) >= self.stop_after


@dataclass(frozen=True)
class ShortStudy:
    """A registered short study with its runtime."""

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
        recorder = Recorder(stop_after=stop_after)
        Worker(self.records, self.runtime, self.artifacts, recorder, recorder.stop).run()
        return recorder


def begin(folder: Path, changes: Mapping[str, Any] | None = None, url: str | None = None) -> ShortStudy:
    spec = parse_spec(yaml.safe_dump(short_spec(**(changes or {}))), base_dir=folder)
    database = open_database(url or f"sqlite:///{folder}/study.db")
    runtime = make_runtime(spec, folder)
    objective = runtime.objective
    records = create_study(database, runtime.spec, runtime.parents, objective.directions, objective.names)
    return ShortStudy(records, runtime, Artifacts.beside(database.url, folder / "artifacts"))


def reopen(folder: Path, name: str = "short") -> ShortStudy:
    """The same study from its database alone, as another process would see it."""
    database = open_database(f"sqlite:///{folder}/study.db", create=False)
    records = open_study(database, name)
    plan = make_plan(records.study.spec)
    hash_parents(plan, records.study.parents)
    runtime = build_runtime(plan, records.study.parents, folder / "cache")
    return ShortStudy(records, runtime, Artifacts.beside(database.url, folder / "artifacts"))


def make_runtime(spec: StudySpec, folder: Path) -> Runtime:
    plan = make_plan(spec)
    return build_runtime(plan, hash_parents(plan), folder / "cache")
