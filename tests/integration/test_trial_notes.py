"""Notes of trials in the dashboard: their tables, whatever scorers and LoRAs are called."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from demo_study import SMALL, ShortStudy, begin

from optimizer.observe.trial_notes import trial_note
from search_spaces.blocks import places
from studies.recipe.recipe import LoraUse
from studies.records import stored_trials

BAR = re.compile(r"(?<!\\)\|")  # one that ends a cell


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    short = begin(tmp_path_factory.mktemp("notes"), {**SMALL, "budget": {"trials": 3}})
    short.run()
    return short


def rows(note: str) -> list[list[str]]:
    """Return the cells of every line of a table."""
    return [BAR.split(line)[1:-1] for line in note.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("name", ["a|b", "||", "two\nlines | one", "plain"])
def test_no_name_breaks_a_table(short: ShortStudy, name: str) -> None:
    plan = short.runtime.plan
    (scorer,) = plan.infos
    trial = stored_trials.load_trial(short.records, 2)
    assert trial is not None
    by_place = tuple((place, 0.5) for place in sorted(places(plan.space.architecture)))
    recipe = replace(trial.recipe, loras=(LoraUse(name=name, sha256="0" * 64, weights=by_place),))
    plan = replace(plan, infos={scorer: replace(plan.infos[scorer], label=name)})
    note = trial_note(plan, replace(trial, recipe_text=recipe.to_json()), {scorer: 0.5}, None, study_id=1, trial_id=1)
    scores, recipes = map(rows, note.split("### Recipe"))
    assert {len(cells) for cells in scores} == {5}
    assert {len(cells) for cells in recipes} == {3}
    shown = " ".join(name.split()).replace("|", r"\|")
    assert shown in {cells[0].strip() for cells in scores}
    assert recipes[0][2].strip() == f"LoRA {shown}"
