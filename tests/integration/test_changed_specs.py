"""A stored spec that no longer fits the stored trials: one line, whatever the command."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import Call
from stored_study import store_study

from studies.records.database import open_database


def change_suite(folder: Path, change: Any) -> None:
    """Store a study of four trials, then change the suite of its spec as another program would."""

    def score(params: Any) -> dict[str, tuple[float, ...]]:
        return {"sharpness": (1.0, 2.0, 3.0, sum(params.values())), "contrast": (1.0,) * 4}

    database = open_database(f"sqlite:///{folder}/study.db")
    spec = json.loads(store_study(database, "stored", score, trials=4).study.spec.to_json())
    database.close()
    change(spec["suite"])
    with closing(sqlite3.connect(folder / "study.db")) as connection, connection:
        connection.execute("UPDATE mergetune_studies SET spec = ?", (json.dumps(spec),))


@pytest.mark.parametrize(
    "change",
    [
        lambda suite: suite["prompts"].pop(),
        lambda suite: suite["prompts"].append({**suite["prompts"][0], "prompt": "another"}),
        lambda suite: suite.update(seeds=[0, 1]),
    ],
    ids=["fewer", "more", "other seeds"],
)
def test_scores_of_other_images_are_refused_in_one_line(call: Call, tmp_path: Path, change: Any) -> None:
    change_suite(tmp_path, change)
    storage = ("--storage", f"sqlite:///{tmp_path}/study.db")
    for command in (("study", "show", "stored"), ("study", "show", "stored", "--trials")):
        failed = call(*command, *storage, code=2)
        assert "restore it from a backup" in " ".join(failed.err.split())
        assert "Traceback" not in failed.err
