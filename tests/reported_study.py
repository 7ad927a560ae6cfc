"""Studies with gains, pictures and a final, whose scores come from a formula and whose pictures are drawn: no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stored_study import Score, store_study

from optimizer.outcome.final import HeldOutResult, judge
from optimizer.report.page import report_page
from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import gains
from optimizer.trial.objective import Objective
from optimizer.trial.ranking import best_trials, parent_trials
from optimizer.trial.stored_scores import scores_of, trial_scores
from studies.files.artifacts import Artifacts, RenderFile
from studies.records import stored_renders, stored_trials, tables
from studies.records.database import open_database
from studies.records.finals import store_final
from studies.records.kept_renders import render_name
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.spec.suite import SuiteItem, SuiteSettings


@dataclass(frozen=True, kw_only=True)
class ReportedStudy:
    """A stored study with its artifacts."""

    records: StudyRecords
    artifacts: Artifacts

    @property
    def objective(self) -> Objective:
        return Objective.of_study(self.records.study)

    def page(self, **options: Any) -> str:
        return report_page(self.records, self.objective, self.artifacts, **options)

    def trials(self) -> list[StoredTrial]:
        return load_trials(self.records)


def begin_reported(folder: Path, name: str, score: Score, **changes: Any) -> ReportedStudy:
    """Store a study, and the gains of its trials as a worker stores them; `changes` as `store_study` takes them."""
    database = open_database(f"sqlite:///{folder}/study.db")
    records = store_study(database, name, score, **changes)
    study = ReportedStudy(records=records, artifacts=Artifacts.beside(database.url))
    complete = [trial for trial in study.trials() if trial.state == "complete"]
    evidence = {trial.number: _evidence(records, trial) for trial in complete}
    parents = {letter: evidence[trial.number] for letter, trial in parent_trials(complete).items()}
    for trial in complete:
        if parents:
            found = gains(evidence[trial.number], parents, study.objective, records.study.spec.infos)
            stored_trials.store_gains(records, trial, found)
    return study


def _evidence(records: StudyRecords, trial: StoredTrial) -> Evidence:
    scores = trial_scores(records, trial)
    return Evidence(items=len(records.study.spec.suite.items()), scores=scores)


def hold_final(
    study: ReportedStudy,
    held_out: Mapping[int, Mapping[str, Sequence[float]]],
    *,
    top: int = 3,
    failed: bool = False,
    complete_trials: int | None = None,
) -> None:
    """Hold the final of a study: the parents, and the best trials.

    Args:
        held_out: trial -> scorer -> a value per held-out item; a trial that is not in it has the search's scores.
        failed: whether all merges fail there.
        complete_trials: of the study at that time; None: as many as now.
    """
    records = study.records
    trials = study.trials()
    whole = [trial for trial in trials if trial.is_whole and trial.origin.parent is None]
    best: list[StoredTrial] = []
    while whole and len(best) < top:
        best.append(best_trials(whole, study.objective)[0])
        whole.remove(best[-1])

    def result(trial: StoredTrial) -> HeldOutResult:
        if failed and trial.origin.parent is None:
            return HeldOutResult(failure="black images")
        by_item, _ = stored_renders.load_scores(records, trial)
        items = records.study.spec.held_out.items()
        scores = scores_of(items, {**by_item, **held_out.get(trial.number, {})}, {})
        return HeldOutResult(evidence=Evidence(items=len(items), scores=scores))

    final = judge(
        {letter: (trial, result(trial)) for letter, trial in parent_trials(trials).items()},
        [(trial, result(trial)) for trial in best],
        study.objective,
        records.study.spec.infos,
        suite_digest=records.study.spec.held_out.digest,
        complete_trials=complete_trials or sum(trial.state == "complete" for trial in trials),
    )
    store_final(records, final)


def draw(item: SuiteItem, number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a picture [3, h, w] that differs by item and trial: a gradient with a band."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    band = np.abs(x - (number % 7) / 7) < 0.06
    channels = [x, y, np.full_like(x, item.index % 5 / 5)]
    return np.stack([np.where(band, 1.0, channel) * 255 for channel in channels]).astype(np.uint8)


def noise(item: SuiteItem, number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw noise [3, h, w], which no encoder makes small."""
    random = np.random.default_rng((item.index, number))
    return random.integers(0, 256, (3, size[1], size[0]), dtype=np.uint8)


def store_pictures(
    study: ReportedStudy, numbers: Sequence[int], size: tuple[int, int] = (96, 64), drawn: Any = draw
) -> None:
    """Store pictures of the search's suite for some trials, as a worker stores them."""
    key, suite = study.records.study.key, study.records.study.spec.suite
    for trial in study.trials():
        if trial.number in numbers:
            files = study.artifacts.of_trial(key, trial.number, trial.worker_id)
            names = files.save_renders(_renders(suite, trial.number, size, drawn))
            with study.records.database.write() as connection:
                for item, name in enumerate(names):
                    row = (tables.renders.c.trial_id == trial.id) & (tables.renders.c.item == item)
                    connection.execute(tables.renders.update().where(row).values(file=name))


def store_final_pictures(study: ReportedStudy, numbers: Sequence[int], size: tuple[int, int] = (96, 64)) -> None:
    """Store pictures of the held-out suite for some trials."""
    files = study.artifacts.of_final(study.records.study.key)
    for number in numbers:
        files.save_renders(_renders(study.records.study.spec.held_out, number, size, draw))


def _renders(suite: SuiteSettings, number: int, size: tuple[int, int], drawn: Any) -> list[RenderFile]:
    return [
        RenderFile(file=render_name(number, label), pixels=drawn(item, number, size))
        for label, item in zip(suite.render_labels(), suite.items(), strict=True)
    ]
