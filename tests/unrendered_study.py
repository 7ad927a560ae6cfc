"""A study of the demo's checkpoints whose trials are queued and recorded but never rendered: no model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from demo_study import SMALL, short_spec

from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import Plan, make_plan
from optimizer.search.probes import make_probes
from optimizer.system.retry import Retry
from optimizer.trial.evaluation import Evaluation
from optimizer.trial.objective import Scores
from optimizer.trial.scoring import Scoring
from optimizer.work.gain_recorder import GainRecorder
from optimizer.work.retention import Retention
from optimizer.work.trial_order import TrialOrder
from optimizer.work.trial_recorder import TrialRecorder
from scorers.protocol import BuildContext
from scorers.registry import build, parse_settings
from studies.files.artifacts import Artifacts
from studies.records.cached_reads import CachedTrials
from studies.records.database import open_database
from studies.records.stored_studies import create_study
from studies.records.study_records import StudyRecords
from studies.spec.study import parse_spec

SIZE = 64  # pixels, of both images of the suite


@dataclass(frozen=True, kw_only=True)
class UnrenderedStudy:
    """A study in a SQLite file, with everything that the trial queue and the trial recorder need."""

    records: StudyRecords
    plan: Plan
    order: TrialOrder
    cached_trials: CachedTrials
    artifacts: Artifacts

    def scoring(self, cache_dir: Path = Path("/")) -> Scoring:
        context = BuildContext(device="cpu", cache_dir=cache_dir)
        return Scoring(
            {
                name: build(entry.kind, parse_settings(entry.kind, entry.options, Path("/")), context)
                for name, entry in self.records.study.spec.scorers.items()
            }
        )

    def recorder(self, cache_dir: Path = Path("/")) -> TrialRecorder:
        scoring = self.scoring(cache_dir)
        gains = GainRecorder(self.records, self.cached_trials, self.plan, scoring, self.artifacts)
        retention = Retention(self.records, self.artifacts, self.plan.objective, self.cached_trials, Retry())
        return TrialRecorder(
            self.records,
            self.artifacts,
            order=self.order,
            objective=self.plan.objective,
            items=self.records.study.spec.suite.items(),
            gains=gains,
            retention=retention,
            retry=Retry(),
            describe_machine=lambda: {"device": "none"},
        )


def begin_unrendered(folder: Path, **changes: Any) -> UnrenderedStudy:
    """Store the small variant of the short study; `changes` replace top-level keys of its spec."""
    data = short_spec(**SMALL) | {"probes": {"uniform": [0.5], "profiles": 0}} | changes
    plan = make_plan(parse_spec(yaml.safe_dump(data), base_dir=folder))
    parents = hash_parents(plan)
    database = open_database(f"sqlite:///{folder}/study.db")
    objective = plan.objective
    records = create_study(database, plan.spec, parents, objective.directions, objective.names)
    blueprint = plan.blueprint(parents)
    order = TrialOrder(
        space=plan.space,
        blueprint=blueprint,
        settings=plan.spec.sampler,
        probes=make_probes(plan.spec, plan.space, blueprint, frozenset()),
        copied=0,
    )
    return UnrenderedStudy(
        records=records,
        plan=plan,
        order=order,
        cached_trials=CachedTrials(records),
        artifacts=Artifacts.beside(database.url, folder / "artifacts"),
    )


def evaluation(*sharpness: float, seconds: Mapping[str, float] | None = None) -> Evaluation:
    """Make up the result of rendering the suite: grey images, and a sharpness for each."""
    return Evaluation(
        items=tuple(range(len(sharpness))),
        images=tuple(torch.full((3, SIZE, SIZE), 40 * item, dtype=torch.uint8) for item in range(len(sharpness))),
        scores=Scores(by_item={"sharpness": np.array(sharpness)}, by_set={}),
        features={},
        seconds=seconds or {"merge": 0.25, "denoise": 0.5},
    )
