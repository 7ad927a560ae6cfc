"""Renders that a final keeps: at full size, of everybody who took part, and nobody else's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from demo_study import SMALL, Recorder, ShortStudy, begin
from PIL import Image

from optimizer.cli.workers.session import work_on
from optimizer.outcome.final import FinalProgress
from optimizer.outcome.finishing import finish_study
from optimizer.report.page import save_report
from optimizer.system.retry import Retry
from optimizer.work.leftovers import orphans_among
from studies.files.artifacts import report_name, sheet_name
from studies.recipe.recipe import Recipe
from studies.records.control import set_status
from studies.records.finals import Final
from studies.records.stored_trials import load_trials
from studies.spec.published.files import read_published

SMALL_FINAL: Mapping[str, Any] = {**SMALL, "final": {"top": 1}, "budget": {"trials": 3}}


def held(folder: Path, **changes: Any) -> tuple[ShortStudy, Final]:
    """A small study with its final."""
    short = begin(folder, {**SMALL_FINAL, **changes})
    short.run()
    files = short.artifacts.of_final(short.study.key)
    short.artifacts.store.write(files.name("trial-99-prompt-01-seed-1.png"), b"of an earlier final")
    progress = FinalProgress(started=lambda *_: None, rendered=lambda _: None)
    finish = finish_study(short.records, short.runtime, short.artifacts, Recorder(), Retry(), progress)
    return short, finish.final


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShortStudy, Final]:
    return held(tmp_path_factory.mktemp("kept"))


def test_all_held_out_renders_of_those_who_took_part_stay_and_document_themselves(
    small: tuple[ShortStudy, Final],
) -> None:
    short, final = small
    files, items = short.artifacts.of_final(short.study.key), short.study.spec.held_out.items()
    assert len(files.files()) == len(items) * len(final.finalists) == 6
    trials = {trial.number: trial for trial in load_trials(short.records)}
    for finalist in final.finalists:
        for item in items:
            path = Path(short.artifacts.location) / files.name(
                f"trial-{finalist.number}-prompt-01-seed-{item.seed}.png"
            )
            found = read_published(path)
            assert (found.prompt, found.seed, found.steps) == (item.prompt, item.seed, item.sampling.steps)
            with Image.open(path) as picture:
                assert picture.size == (64, 64)
                assert Recipe.from_json(picture.info["mergetune.recipe"]) == trials[finalist.number].recipe


def test_they_are_no_orphans(small: tuple[ShortStudy, Final]) -> None:
    short, _ = small
    names = [file.name for file in short.artifacts.store.files(f"studies/{short.study.key}/")]
    trials = load_trials(short.records)
    assert any("/final/" in name for name in names)
    assert orphans_among(names, short.records, short.artifacts, trials) == frozenset()


def test_the_report_shows_them_and_lies_beside_the_sheets(small: tuple[ShortStudy, Final]) -> None:
    short, final = small
    where = save_report(short.records, short.runtime.objective, short.artifacts)
    name, key = short.study.name, short.study.key
    assert where == f"{short.artifacts.location}/{report_name(name, key)}"
    page = Path(where).read_text()
    assert page.count("data:image/jpeg;base64,") == 3 * len(short.study.spec.held_out.items())
    assert final.winner is not None
    headline = re.search(r'<h2 id="verdict">(.*?)</h2>', page)
    assert headline is not None
    gain = final.winner.held_out["objective"]
    beaten = f"no merge beats parent {gain.parent}" if gain.value <= 0 else f"rial {final.winner.number}"
    assert beaten in headline[1]
    assert (Path(short.artifacts.location) / sheet_name(name, key, "final")).exists()


def test_a_study_that_is_stopped_gets_a_report_of_what_it_has(small: tuple[ShortStudy, Final]) -> None:
    short, _ = small
    folder, name, key = short.artifacts.location, short.study.name, short.study.key
    short.artifacts.save_report(name, key, "as it was at an earlier end")
    set_status(short.records, "stopped")
    assert not work_on(short.records, short.runtime, folder)
    page = (Path(folder) / report_name(name, key)).read_text()
    assert "3 complete trials" in page


@pytest.mark.slow
def test_a_study_that_keeps_no_renders_keeps_none_of_the_final(tmp_path: Path) -> None:
    short, _ = held(tmp_path, render={"keep": "none", "degenerate_limit": 8})
    assert short.artifacts.of_final(short.study.key).files() == frozenset()
    page = Path(str(save_report(short.records, short.runtime.objective, short.artifacts))).read_text()
    assert "No renders are stored, so there are no pictures: set `render: {keep: best}`" in page
    assert "not found" not in page
    short.database.close()
