"""Studies in a database of the time when `scheduler` named a sampler and its levels together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from command_line import caller, enter
from unrendered_study import begin_unrendered

from studies.records import tables

STORAGE = "sqlite:///study.db"


def store(folder: Path, scheduler: str) -> str:
    """Store a study as earlier versions did, and return its name."""
    study = begin_unrendered(folder)
    database = study.records.database
    with database.engine.begin() as connection:
        spec = json.loads(connection.execute(sa.select(tables.studies.c.spec)).scalar_one())
        for name in ("sampler", "schedule", "noise", "ensd", "sgm_noise_multiplier", "size_conditioning"):
            del spec["suite"][name]
        spec["suite"]["scheduler"] = scheduler
        connection.execute(sa.update(tables.studies).values(spec=json.dumps(spec)))
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
