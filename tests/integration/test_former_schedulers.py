"""Studies in a database of the time when `scheduler` named a sampler and its levels together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from command_line import caller, enter
from demo_study import SMALL
from live import CPU
from unrendered_study import begin_unrendered

from optimizer.cli.workers.loading import open_unchanged_plan
from optimizer.rendering.batching import stages
from optimizer.runtime.model_files import ModelFolders
from optimizer.runtime.setup import build_renderer
from studies.records import tables
from studies.records.database import open_database
from studies.records.stored_studies import open_study, set_budget
from studies.spec.fingerprints import refuse_changed_spec
from studies.spec.search import BudgetSettings

STORAGE = "sqlite:///study.db"


def store(folder: Path, scheduler: str, *, digest: str | None = None, **changes: Any) -> str:
    """Store a study as earlier versions did, and return its name.

    Args:
        digest: of its suite, as an earlier version computed it; None for today's.
    """
    study = begin_unrendered(folder, **changes)
    database = study.records.database
    with database.engine.begin() as connection:
        spec = json.loads(connection.execute(sa.select(tables.studies.c.spec)).scalar_one())
        for name in ("sampler", "schedule", "program", "ensd", "sgm_noise_multiplier", "size_conditioning"):
            del spec["suite"][name]
        spec["suite"]["scheduler"] = scheduler
        values = {"spec": json.dumps(spec)} | ({} if digest is None else {"suite_digest": digest})
        connection.execute(sa.update(tables.studies).values(values))
    database.close()
    return study.records.study.name


@pytest.mark.parametrize("scheduler", ["lcm", "dpmpp_2m_sde_karras"])
def test_one_that_was_rendered_otherwise_opens_and_does_not_go_on(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = store(tmp_path, scheduler)
    enter(tmp_path, monkeypatch)
    call = caller(monkeypatch, capsys, "study")
    assert name in call("list", "--storage", STORAGE, code=0).out
    call("show", name, "--storage", STORAGE, code=0)
    refused = call("resume", name, "--storage", STORAGE, code=2)
    assert f"began with `scheduler: {scheduler}`" in " ".join(refused.err.split())
    assert "Traceback" not in refused.err + refused.out


def test_one_that_races_goes_on_with_the_stages_with_which_it_began(tmp_path: Path) -> None:
    """The suite's digest is another now; the stored one divides it."""
    digest = "5" * 64
    suite = {**SMALL["suite"], "seeds": list(range(12))}
    name = store(tmp_path, "dpmpp_2m", digest=digest, suite=suite, racing={"batch": 4})
    study = open_study(open_database(f"sqlite:///{tmp_path}/study.db"), name)
    plan = open_unchanged_plan(study.study, ModelFolders())
    spec = plan.spec
    _, renderer = build_renderer(plan.ingredients, spec.suite, spec.render, CPU, spec.export.dtype, spec.racing)
    assert renderer.stages == stages(spec.suite, 4, digest) != stages(spec.suite, 4)
    assert set_budget(study, BudgetSettings(trials=50)).study.spec.racing == spec.racing
    assert spec.racing is not None
    written = spec.model_copy(update={"racing": spec.racing.model_copy(update={"order": None})})
    refuse_changed_spec(study.study.spec, written)
    study.database.close()
