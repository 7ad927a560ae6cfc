"""*Best* is one trial: every place that names it is walked through, on the same stored studies."""

from __future__ import annotations

import functools
import json
import re
import shutil
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, caller, enter
from optuna_dashboard import get_note
from reported_study import ReportedStudy, store_pictures
from slow_cases import first_fast, slow_but
from stored_study import final_of, store_study

from optimizer.dashboard.server import make_server
from optimizer.dashboard.study_page import describe_study
from optimizer.outcome.model_card.verdict import Judged
from optimizer.outcome.model_card.verdict import verdict as card_verdict
from optimizer.report.prompts import prompt_gains
from optimizer.report.results import Results, results_of
from optimizer.report.verdict import Verdict, verdict_of
from optimizer.sheets.best import best_sheet
from optimizer.sheets.latest import LatestSheet
from optimizer.trial.front import front_of
from optimizer.trial.objective import SINGLE, Objective
from studies.files.artifacts import Artifacts
from studies.records.database import open_database
from studies.records.finals import store_final
from studies.records.optuna_studies import optuna_study
from studies.records.stored_studies import open_study
from studies.records.stored_trials import load_trials, store_gains
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredTrial

TRIALS = 12
CHOSEN = 5  # by the finals below; the best observed trial is another one
ONE: Mapping[str, Any] = {"objective": {"sharpness": {"weight": 1}}}
TWO: Mapping[str, Any] = {"objectives": ["sharpness", "contrast"]}
GOOD, BAD = Gain(value=0.4, low=0.2, high=0.6, parent="B"), Gain(value=-0.4, low=-0.6, high=-0.2, parent="B")
HELD_OUT: Mapping[str, Gain | None] = {
    "confirmed": GOOD,
    "unsure": Gain(value=0.1, low=-0.1, high=0.3, parent="B"),
    "lost": BAD,
    "failed": None,
    "outdated": GOOD,
    "lost and outdated": BAD,  # of the best observed trial
}
OUTDATED = ("outdated", "lost and outdated")
FRONTS = ("front", "front lost", "front of a parent")
STUDIES = ("none", "parent", *HELD_OUT, *FRONTS)
FAST = ("confirmed", "lost and outdated", "front of a parent")
# For what takes seconds: the others differ in nothing that a faster test of the same study does not show.
SOME = slow_but(STUDIES, *FAST)
MOST = slow_but(STUDIES, *FAST, "none", "unsure", "front lost")
REFUSED = ("parent", "lost", "failed", "lost and outdated", "front lost", "front of a parent")


def scores(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    """Sharpness is best at IN04 = 0.6, contrast at 0."""
    sharpness, contrast = 1 - (params["IN04"] - 0.6) ** 2, 1 - params["IN04"]
    return {
        name: tuple(value + noise for noise in (0.0, 0.1, -0.1, 0.05))
        for name, value in {"sharpness": sharpness, "contrast": contrast}.items()
    }


def more_of_b(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    """All of B is the best in both scores, so a parent is the best observed trial."""
    return dict.fromkeys(("sharpness", "contrast"), (params["IN04"],) * 4)


def objective_of(records: StudyRecords) -> Objective:
    return Objective.of_study(records.study)


def best_observed(trials: Sequence[StoredTrial]) -> int:
    return max(trials, key=lambda trial: trial.objectives[SINGLE]).number


def fill_gains(records: StudyRecords) -> None:
    """Store the gain of every trial over the better parent in each objective; its interval is 0.05 to both sides."""
    trials, names = load_trials(records), objective_of(records).names
    for trial in trials:
        gains = {}
        for name in names:
            better = max(trials[:2], key=lambda parent: parent.objectives[name])
            value = trial.objectives[name] - better.objectives[name]
            gains[name] = Gain(value=value, low=value - 0.05, high=value + 0.05, parent=str(better.origin.parent))
        store_gains(records, trial, gains)


def lose_at_the_knee(records: StudyRecords) -> None:
    """Let the knee of the front surely lose in contrast, and no other member in anything."""
    front = front_of(load_trials(records), objective_of(records))
    assert front is not None
    for trial in front.members:
        gains = {name: Gain(value=0.0, low=-0.1, high=0.1, parent="A") for name in ("sharpness", "contrast")}
        if trial.number == front.knee.number:
            gains["contrast"] = Gain(value=-0.3, low=-0.4, high=-0.2, parent="A")
        store_gains(records, trial, gains)


def lose_everywhere(records: StudyRecords, *, parents: bool) -> None:
    """Let every merge on the front surely lose in contrast and, if asked, the parents as well."""
    front = front_of(load_trials(records), objective_of(records))
    assert front is not None
    lost, even = Gain(value=-0.3, low=-0.4, high=-0.2, parent="B"), Gain(value=0.0, low=-0.1, high=0.1, parent="B")
    for trial in front.members:
        loses = parents or trial.origin.parent is None
        store_gains(records, trial, {"sharpness": even, "contrast": lost if loses else even})


def lose_the_final(records: StudyRecords) -> None:
    """Hold a final in which the knee of the front surely loses in both objectives."""
    front = front_of(load_trials(records), objective_of(records))
    assert front is not None
    final = final_of(BAD, chosen=front.knee.number, scores=("sharpness", "contrast"), complete_trials=TRIALS)
    finalists = tuple(replace(finalist, chosen=False) for finalist in final.finalists)
    store_final(records, replace(final, finalists=finalists))


def hold(records: StudyRecords, gain: Gain | None, *, chosen: int = CHOSEN, complete_trials: int = TRIALS) -> None:
    """Store a final in which a trial was the best merge, with this gain, or in which it failed."""
    scores = ("sharpness", "contrast")
    store_final(records, final_of(gain, chosen=chosen, scores=scores, complete_trials=complete_trials))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a study for each case, one to compare with, and one in which nothing is complete."""
    file = tmp_path_factory.mktemp("studies") / "mergetune.db"
    database = open_database(f"sqlite:///{file}")
    for name in (*STUDIES, "other"):
        score, objective = more_of_b if name == "parent" else scores, TWO if name in FRONTS else ONE
        records = store_study(database, name, score, trials=TRIALS, **objective)
        fill_gains(records)
        if name in HELD_OUT:
            chosen = best_observed(load_trials(records)) if name == "lost and outdated" else CHOSEN
            hold(records, HELD_OUT[name], chosen=chosen, complete_trials=TRIALS - (name in OUTDATED))
        if name == "front":
            lose_at_the_knee(records)
        if name in FRONTS[1:]:
            lose_everywhere(records, parents=name == "front lost")
        if name == "front lost":
            lose_the_final(records)
        numbers = [trial.number for trial in load_trials(records)]
        store_pictures(ReportedStudy(records=records, artifacts=Artifacts.beside(database.url)), numbers)
    store_study(database, "empty", scores, trials=2, failed=(0, 1), **ONE)
    database.close()
    return file


@pytest.fixture
def folder(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch)
    shutil.copytree(stored.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("COLUMNS", "400")
    return tmp_path


@pytest.fixture(scope="module")
def described(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a folder in which a study is described for the dashboard, which takes seconds."""

    @functools.cache
    def describe(name: str) -> Path:
        folder = tmp_path_factory.mktemp("described")
        shutil.copytree(stored.parent, folder, dirs_exist_ok=True)
        records = open_records(folder, name)
        describe_study(records, Artifacts.beside(records.database.url))
        return folder

    return describe


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys)


def open_records(folder: Path, name: str) -> StudyRecords:
    return open_study(open_database(f"sqlite:///{folder}/mergetune.db", create=False), name)


def expected(folder: Path, name: str) -> int:
    """The number of the trial that is the best of a study."""
    trials = load_trials(open_records(folder, name))
    if name == "front":
        (sound,) = front_without_its_knee(trials, open_records(folder, name))[:1]
        return sound
    if name == "front lost":
        front = front_of(trials, objective_of(open_records(folder, name)))
        assert front is not None
        return front.knee.number
    known = {"lost": 1, "failed": 1, "parent": 1, "front of a parent": 0, "confirmed": CHOSEN, "unsure": CHOSEN}
    return known[name] if name in known else best_observed(trials)


def front_without_its_knee(trials: Sequence[StoredTrial], records: StudyRecords) -> list[int]:
    """The members by distance beyond the line through the extremes, without the first: two objectives, by hand."""
    front = front_of(trials, objective_of(records))
    assert front is not None
    points = [(trial.objectives["sharpness"], trial.objectives["contrast"]) for trial in front.members]
    lows, highs = [min(axis) for axis in zip(*points, strict=True)], [max(axis) for axis in zip(*points, strict=True)]
    beyond = {
        trial.number: sum((value - low) / (high - low) for value, low, high in zip(point, lows, highs, strict=True))
        for trial, point in zip(front.members, points, strict=True)
    }
    return sorted(beyond, key=lambda number: -beyond[number])[1:]


def number_in(text: str) -> int:
    """The trial of `trial 5 (...)` or `parent B (...)`."""
    found = re.match(r"(?:trial (\d+)|parent ([A-Z])) \(", text)
    assert found is not None, text
    return int(found[1]) if found[1] else ord(found[2]) - ord("A")


def row_of_list(call: Call, name: str) -> str:
    """The cell of `study list` that names a study's best."""
    lines = [line for line in call("study", "list", code=0).out.splitlines() if re.match(rf"│ {name} ", line)]
    return lines[0].split("│")[6].strip()


TONES = {
    "confirmed": "better",
    "unsure": "unsure",
    **dict.fromkeys(REFUSED, "worse"),
}


def reported(folder: Path, name: str) -> tuple[Results, Verdict]:
    """What the report of a study is made from, and what it says first."""
    records = open_records(folder, name)
    results = results_of(records, objective_of(records))
    return results, verdict_of(results, prompt_gains(results, held_out=results.is_held_out))


class TestEveryPlaceNamesTheSameTrial:
    @pytest.mark.parametrize("name", SOME)
    def test_the_command_line(self, folder: Path, call: Call, name: str) -> None:
        shown = call("study", "show", name, code=0).out
        compared = call("study", "compare", "other", name, code=0).out
        (compared_row,) = [line for line in compared.splitlines() if line.startswith("│ best trial")]
        found = {
            "list": number_in(row_of_list(call, name)),
            "show": number_in(re.findall(r"^best: (.*)$", shown, re.MULTILINE)[-1]),
            "importance": json.loads(call("study", "importance", name, "--json", code=0).out)["best_trial"],
            "compare": int(re.findall(r"│ +(\d+) \(", compared_row)[-1]),
        }
        head = re.search(r"best \([^)]*\): [^│]*", shown)
        assert head is not None, "no column of the results is headed as the best"
        assert set(found.values()) == {expected(folder, name)}, found

    @pytest.mark.parametrize("name", [name for name in STUDIES if name not in REFUSED])
    def test_the_export(self, folder: Path, call: Call, name: str) -> None:
        out = call("export", name, "--recipe", "best.yaml", code=0).out
        assert f"wrote best.yaml (trial {expected(folder, name)}," in out
        assert number_in(re.findall(r"^best: (.*)$", out, re.MULTILINE)[0]) == expected(folder, name)

    @pytest.mark.parametrize("name", MOST)
    def test_the_report_which_says_of_it_what_the_list_says(self, folder: Path, call: Call, name: str) -> None:
        results, verdict = reported(folder, name)
        assert results.best.trial.number == expected(folder, name)
        said, row = verdict.headline.lower(), row_of_list(call, name).lower()
        if results.best.caveat is not None:
            assert row.endswith(said)
        elif name not in FRONTS:
            named = r"no merge beats parent b" if name == "parent" else rf"trial {expected(folder, name)}\b"
            assert re.match(named, said)
        assert verdict.tone == TONES.get(name, "open")

    @pytest.mark.parametrize("name", MOST)
    def test_the_sheets(self, folder: Path, name: str) -> None:
        records, number = open_records(folder, name), expected(folder, name)
        artifacts, trials = Artifacts.beside(records.database.url), load_trials(records)
        drawn = best_sheet(records, artifacts), LatestSheet(records, artifacts, objective_of(records)).sheet(trials)
        for sheet in drawn:
            assert sheet is not None
            heads = [heading for heading, _ in sheet.columns if re.search(r"\bbest \(", heading)]
            assert len(heads) == 1, heads
            assert f"trial {number}\n" in f"{heads[0]}\n".replace(",", "\n")
            claimed = [heading for heading, _ in sheet.columns if re.search(r"\+(?!0 )[\d.]+ \(", heading)]
            assert not (claimed and name in ("lost", "failed", "lost and outdated", "front lost")), claimed

    @pytest.mark.parametrize("name", SOME)
    def test_the_dashboard(self, described: Callable[[str], Path], name: str) -> None:
        folder = described(name)
        records, number = open_records(folder, name), expected(folder, name)
        artifacts = Artifacts.beside(records.database.url)
        in_optuna = optuna_study(records)
        said = str(in_optuna.user_attrs["best"])
        assert number_in(said) == number
        note = get_note(in_optuna)
        assert said.split(":")[0] in note.replace("\\", "")
        detail = served(records, artifacts)
        if name not in FRONTS:  # of which the dashboard shows every member
            assert [trial["number"] for trial in detail["best_trials"]] == [number]
        figures = [json.loads(figure["graph_object"]) for figure in detail["plotly_graph_objects"]]
        titles = [figure["layout"]["title"]["text"] for figure in figures]
        called = load_trials(records)[number].name
        assert [title for title in titles if f"best: {called} (" in title]


def served(records: StudyRecords, artifacts: Artifacts) -> dict[str, Any]:
    """What a dashboard's page asks of the study."""
    server = make_server(records.database, artifacts, "127.0.0.1", 0, None)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.port}/api/studies/{optuna_study(records)._study_id}"
        with urllib.request.urlopen(address, timeout=60) as reply:
            return dict(json.load(reply))
    finally:
        server.close()
        thread.join(10)


def test_nothing_is_best_where_nothing_is_complete(folder: Path, call: Call) -> None:
    assert row_of_list(call, "empty") == ""
    assert "best" not in call("study", "show", "empty", code=0).out
    assert "no complete trial" in call("export", "empty", code=2).err
    records = open_records(folder, "empty")
    describe_study(records, Artifacts.beside(records.database.url))
    assert "Best" not in get_note(optuna_study(records))


def test_the_list_shows_the_held_out_gain_and_says_who_chose(call: Call) -> None:
    assert row_of_list(call, "confirmed") == f"trial {CHOSEN} (the final's choice): +0.4 (+0.2 to +0.6) held out"
    assert "(best observed): +" in row_of_list(call, "none")
    assert row_of_list(call, "none").endswith("in the search")


def test_an_unsure_gain_is_named_with_its_doubt(call: Call) -> None:
    doubt = f"in the final the interval of trial {CHOSEN}'s gain over parent B includes 0, so it may be luck"
    assert row_of_list(call, "unsure") == (
        f"trial {CHOSEN} (the final's choice): +0.1 (-0.1 to +0.3) held out; {doubt}"
    )


def test_a_parent_has_no_gain_over_itself(folder: Path, call: Call) -> None:
    assert row_of_list(call, "parent") == "parent B (best observed)"
    assert "+0 (" not in call("study", "show", "parent", "--trials", code=0).out
    results, _ = reported(folder, "parent")
    assert results.best.gains == {}


def test_a_merge_on_the_front_that_loses_to_a_parent_is_told_beside_it(folder: Path, call: Call) -> None:
    results, verdict = reported(folder, "front of a parent")
    merge = results.best.merge
    assert merge is not None
    row = row_of_list(call, "front of a parent")
    assert row.startswith("parent A (first of the front that surely loses to no parent)")
    assert row.endswith(f"the best merge of the front, trial {merge.number}, surely loses to parent B in contrast")
    assert results.shown.number == merge.number
    assert any(f"This report shows trial {merge.number}" in sentence for sentence in verdict.sentences)


@pytest.mark.parametrize("name", first_fast(1, ["lost", "failed", "lost and outdated"]))
def test_a_gain_that_the_final_refuted_is_not_shown_as_the_result(folder: Path, call: Call, name: str) -> None:
    results, _ = reported(folder, name)
    assert results.gain is None or results.gain == BAD
    row = row_of_list(call, name)
    assert "no sure gain" in row
    assert not re.search(r"[+-]\d", row), "a number looks like a result"


@pytest.mark.parametrize("name", SOME)
def test_an_export_is_offered_where_it_is_not_refused(
    described: Callable[[str], Path], call: Call, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = described(name)
    monkeypatch.chdir(folder)
    records = open_records(folder, name)
    note, (_, verdict) = get_note(optuna_study(records)), reported(folder, name)
    refused = name in REFUSED
    following = note[note.index("Next:") :]
    assert ("mergetune export" in following) is not refused
    if verdict.command is None or "study finish" not in verdict.command:
        assert (verdict.command is not None) is not refused
    call("export", name, "--recipe", "best.yaml", code=2 if refused else 0)


@pytest.mark.parametrize("name", MOST)
def test_the_card_and_the_export_object_to_the_same(folder: Path, call: Call, name: str) -> None:
    results, _ = reported(folder, name)
    merge = results.shown
    judged = Judged(trial=merge, trials=results.trials, final=results.final, objective=results.objective)
    card = card_verdict(results.study, judged)
    out = call("export", name, "--trial", str(merge.number), "--recipe", "best.yaml", code=0).out
    notes = re.findall(r"^note: (.*)$", out, re.MULTILINE)
    assert card.count("**No gain is claimed:**") == bool(notes)
    for note in notes:
        assert note.replace(f"trial {merge.number}", "this merge") in card.replace("\\", "").replace("&#x27;", "'")
    assert bool(notes) is (name in (*REFUSED, "unsure") and name != "parent")


def test_a_member_of_a_front_that_surely_loses_is_passed_over_and_named(folder: Path, call: Call) -> None:
    records = open_records(folder, "front")
    front = front_of(load_trials(records), objective_of(records))
    assert front is not None
    out = call("export", "front", "--recipe", "best.yaml", code=0).out
    assert f"passed over, as they surely lose to the better parent in an objective: {front.knee.number};" in out


def test_weights_may_choose_what_loses_where_they_weigh_nothing(folder: Path, call: Call) -> None:
    trials = load_trials(open_records(folder, "front"))
    sharpest = max(trials, key=lambda trial: trial.objectives["sharpness"])
    out = call("export", "front", "--weights", "sharpness=1", "--recipe", "best.yaml", code=0).out
    assert f"wrote best.yaml (trial {sharpest.number}," in out


class TestExportOfATrialThatLost:
    @pytest.mark.parametrize(
        ("name", "why"),
        first_fast(
            2,
            [
                ("parent", "parent B is the best, and its file is already there"),
                ("front lost", "lost to parent B in sharpness and contrast in the final"),
                ("failed", "every merge failed in the final"),
                ("lost and outdated", "lost to parent B in the final"),
                ("front of a parent", "parent A is the best, and its file is already there"),
            ],
        ),
    )
    def test_whatever_it_lost_it_asks_and_says_why(self, folder: Path, call: Call, name: str, why: str) -> None:
        refused = call("export", name, "--recipe", "best.yaml", code=2)
        assert why in refused.err
        assert not (folder / "best.yaml").exists()
        results, _ = reported(folder, name)
        assert f"--trial {results.shown.number} or --force" in refused.err
        assert f"(trial {results.shown.number}," in call("export", name, "--force", "--recipe", "b.yaml", code=0).out

    def test_it_asks_and_says_why(self, folder: Path, call: Call) -> None:
        refused = call("export", "lost", "--recipe", "best.yaml", code=2)
        assert "no merge beats parent B: parent B is the better model" in refused.err
        assert f"--trial {CHOSEN} or --force" in refused.err
        assert not (folder / "best.yaml").exists()

    @pytest.mark.parametrize("asked", [("--force",), ("--trial", str(CHOSEN))])
    def test_it_is_done_where_it_is_asked_for(self, call: Call, asked: tuple[str, ...]) -> None:
        out = call("export", "lost", "--recipe", "best.yaml", *asked, code=0).out
        assert f"(trial {CHOSEN}," in out
        assert f"trial {CHOSEN} lost to parent B in the final" in out
        assert out.count("parent B in the final") == 1, "the same is said twice"
