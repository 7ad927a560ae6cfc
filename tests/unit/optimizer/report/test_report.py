"""The report of a study: what it says, in which order, and that nothing of it comes from elsewhere."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from reported_study import ReportedStudy, begin_reported, hold_final, noise, store_final_pictures, store_pictures
from slow_cases import first_fast

from optimizer.cli import main
from optimizer.errors import NothingToReportError, WeightsError
from optimizer.report.page import report_page
from optimizer.report.pictures import PAGE_BYTES, find_renders, small_pictures
from optimizer.report.prompts import prompt_gains
from optimizer.report.results import results_of
from optimizer.report.verdict import verdict_of
from studies.records.finals import load_final
from studies.records.stored_renders import load_scores
from studies.spec.study import StudySpec

HOSTILE = "</script></style><img src=x onerror=alert(1)> \u202egnp.exe"
SUITE: Mapping[str, Any] = {"prompts": ["a cat", HOSTILE, "a fox", "a bee"], "seeds": [1, 2]}
ONE: Mapping[str, Any] = {"objective": {"sharpness": {"weight": 1, "unit": 1}}, "suite": SUITE}
ITEMS = 8


def ratios_matter(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    """Sharpness is best at 0.6 of B in IN04; some prompts gain more than others. Contrast falls with B in M00."""
    base = 1 - (params["IN04"] - 0.6) ** 2
    return {
        "sharpness": tuple(base + params["IN04"] * (item % 5 - 1) / 10 for item in range(ITEMS)),
        "contrast": tuple(1 - 0.2 * params["M00"] + item / 100 for item in range(ITEMS)),
    }


class Parsed(HTMLParser):
    """The text of a page, its pictures' sources, and every address in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [str(found[key]) for key in ("src", "href", "action", "poster", "data") if key in found]
        if tag == "img" and "src" in found:
            self.pictures.append(found)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    """What a command of the real parser prints, in this process: loading torch for each would take minutes."""
    out, before = io.StringIO(), sys.argv
    sys.argv = ["mergetune", *arguments, "--storage", f"{folder}/study.db"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.raises(SystemExit) as left:
            main.run()
    finally:
        sys.argv = before
    assert (left.value.code or 0) == code, out.getvalue()
    return out.getvalue()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReportedStudy:
    """A study with a final whose pictures are stored."""
    study = begin_reported(tmp_path_factory.mktemp("report"), "one", ratios_matter, trials=30, failed=(7,), **ONE)
    store_pictures(study, (0, 1))
    hold_final(study, {})
    final = load_final(study.records)
    assert final is not None
    store_final_pictures(study, [finalist.number for finalist in final.finalists])
    return study


def test_the_page_says_first_which_merge_is_better_by_how_much_and_how_sure(study: ReportedStudy) -> None:
    final = load_final(study.records)
    assert final is not None
    assert final.winner is not None
    gain = final.winner.held_out["objective"]
    text = Parsed(study.page()).text
    assert f"Trial {final.winner.number} beats parent {gain.parent}" in text
    assert f"On 8 images that the search never saw, the objective of trial {final.winner.number}" in text
    assert f"is {gain.value:.3g} better than that of parent {gain.parent}" in text
    assert "all of it is above 0" in text


def test_prompts_are_sorted_by_their_gain_the_worst_first(study: ReportedStudy) -> None:
    results = results_of(study.records, study.objective)
    trials = {trial.number: trial for trial in study.trials()}
    parent = results.parents[results.gains["objective"].parent]
    own = np.array(load_scores(study.records, trials[results.shown.number])[0]["sharpness"])
    other = np.array(load_scores(study.records, parent)[0]["sharpness"])
    by_prompt = (own - other).reshape(4, 2).mean(axis=1)
    found = prompt_gains(results, held_out=True)
    assert [each.number for each in found.prompts] == [int(number) + 1 for number in np.argsort(by_prompt)]
    assert [each.gain for each in found.prompts] == pytest.approx(sorted(by_prompt))


def test_nothing_of_a_page_comes_from_elsewhere(study: ReportedStudy) -> None:
    page = study.page()
    parsed = Parsed(page)
    assert all(address.startswith("data:") for address in parsed.addresses), parsed.addresses
    assert "default-src 'none'" in page
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org)", re.sub(r"base64,[\w+/=]+", "", page))


def test_texts_of_others_are_shown_and_never_carried_out(study: ReportedStudy) -> None:
    page = study.page()
    parsed = Parsed(page)
    assert "</script></style><img src=x onerror=alert(1)> \\u202egnp.exe" in parsed.text
    assert "\u202e" not in page
    assert parsed.tags.count("script") == parsed.tags.count("style") == 1
    assert all("onerror" not in picture for picture in parsed.pictures)


def test_the_pictures_are_those_of_the_final_one_for_each_model_and_image(study: ReportedStudy) -> None:
    parsed = Parsed(study.page())
    assert len(parsed.pictures) == 3 * ITEMS
    assert "seed 1000004" in parsed.text
    for picture in parsed.pictures:
        content = base64.b64decode(str(picture["src"]).partition("base64,")[2])
        with Image.open(io.BytesIO(content)) as opened:
            assert (opened.format, opened.size) == ("JPEG", (96, 64))


def test_whole_pictures_are_the_stored_files_to_the_byte(study: ReportedStudy) -> None:
    stored = {file.name for file in study.artifacts.store.files(f"studies/{study.records.study.key}/final/")}
    contents = {study.artifacts.store.read(name) for name in stored}
    shown = [str(picture["src"]) for picture in Parsed(study.page(full=True)).pictures]
    assert shown
    assert {source.partition(",")[0] for source in shown} == {"data:image/png;base64"}
    assert {base64.b64decode(source.partition("base64,")[2]) for source in shown} <= contents


def settings_of(page: str) -> Any:
    """The whole spec, as the page has it."""
    found = re.search(r"<summary>The whole spec</summary>\s*<pre>(.*?)</pre>", page, re.DOTALL)
    assert found is not None
    return yaml.safe_load(html.unescape(found[1]).replace("\\u202e", "\u202e"))


def test_every_setting_hash_and_number_is_in_the_page(study: ReportedStudy) -> None:
    page = study.page()
    spec = study.records.study.spec.model_dump(mode="json")
    assert settings_of(page) == spec | {"parents": ["a.safetensors", "b.safetensors"]}
    text, recipe = Parsed(page).text, results_of(study.records, study.objective).shown.recipe
    assert recipe.digest in text
    for column in recipe.columns.values():
        assert all(f"{value:.4f}" in text for value in column.values())


def test_a_page_names_no_folder_and_no_database_of_the_machine(tmp_path: Path) -> None:
    here = str(tmp_path)
    paths: Mapping[str, Any] = {
        "loras": {"ink": {"path": f"{here}/loras/ink.safetensors"}},
        "vae": f"{here}/vae.safetensors",
        "suite": {
            **SUITE,
            "embeddings": f"{here}/words",
            "lora_folder": f"{here}/on-top",
            "loras": [{"path": f"{here}/loras/style.safetensors"}],
        },
        "scorers": {"sharpness": None, "contrast": None, "fid": {"reference": f"{here}/reference"}},
        "probes": {"recipes": [{"path": f"{here}/recipes/mine.yaml"}]},
        "warm_start": {"study": "old", "storage": f"sqlite:///{here}/old.db", "artifacts": f"{here}/old"},
    }
    assert set(StudySpec.model_fields) >= set(paths)
    study = begin_reported(tmp_path, "one", ratios_matter, trials=3, **ONE)
    parents = [f"{here}/a.safetensors", f"{here}/b.safetensors"]
    spec = {**study.records.study.spec.model_dump(mode="json"), **paths, "parents": parents}
    changed = StudySpec.model_validate(spec, context={"base_dir": here})
    elsewhere = replace(study.records, study=replace(study.records.study, spec=changed))
    page = report_page(elsewhere, study.objective, study.artifacts)
    assert here not in page
    assert "--storage" not in page
    shown = settings_of(page)
    assert shown["vae"] == "vae.safetensors"
    assert shown["scorers"]["fid"]["reference"] == "reference"
    assert shown["warm_start"]["storage"] is None


LONG = " ".join(["a long prompt, of which there are many"] * 90)


def test_pictures_take_the_room_that_is_left(study: ReportedStudy) -> None:
    results = results_of(study.records, study.objective)
    columns = [*results.parents.values(), results.shown]
    found = find_renders(results, study.artifacts, columns, range(ITEMS), held_out=True)
    assert len(found.renders) == found.named == 3 * ITEMS
    for room in (0, 10_000, 1_000_000):
        pictures = small_pictures(study.artifacts, found, room)
        assert sum(len(url.partition(",")[2]) for url in pictures.urls.values()) <= room
        assert len(pictures.urls) + pictures.left_out == found.named
    assert pictures.left_out == 0


@pytest.mark.slow
def test_text_and_pictures_together_stay_within_the_limit(tmp_path: Path) -> None:
    """The text alone has a megabyte, and noise fills what is left."""
    suite = {"prompts": [f"n{number}x {LONG}" for number in range(150)], "seeds": [1]}
    study = begin_reported(
        tmp_path, "one", lambda params: dict.fromkeys(("sharpness", "contrast"), (params["IN04"],) * 150),
        trials=3, objective={"sharpness": {"weight": 1}}, suite=suite,
    )  # fmt: skip
    store_pictures(study, (0, 1, 2), (192, 192), noise)
    page = study.page()
    assert 0.8 * PAGE_BYTES < len(page.encode()) <= PAGE_BYTES
    assert page.count(f"n7x {LONG}") == 1, "it stands above its pictures; in the spec its lines are folded"
    assert len(Parsed(page).pictures) > 300


@pytest.mark.slow
def test_a_final_without_stored_renders_gives_the_pictures_of_the_search_with_its_seeds(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "one", ratios_matter, trials=14, **ONE)
    hold_final(study, {})
    chosen = results_of(study.records, study.objective).shown.number
    store_pictures(study, (0, 1, chosen))
    text = Parsed(study.page()).text
    assert "The final's renders are not stored" in text
    assert "seed 2" in text
    assert "seed 1000004" not in text


def test_a_study_without_a_final_is_not_said_to_have_won(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "one", ratios_matter, trials=14, **ONE)
    text = Parsed(study.page()).text
    assert re.search(r"Trial \d+ leads parent \w \(\w\) in the search; no final has checked it yet", text)
    assert 'mergetune study finish "one"' in text
    assert "never saw" not in text
    assert "No renders are stored" in text


@pytest.mark.parametrize(
    ("change", "said"),
    first_fast(1, [(-0.5, "In the final no merge beats parent"), (0.0, "includes 0, so it may be luck")]),
    ids=["a loss", "an interval across 0"],
)
def test_a_claim_that_the_final_refutes_is_not_the_result(tmp_path: Path, change: float, said: str) -> None:
    study = begin_reported(tmp_path, "one", ratios_matter, trials=14, **ONE)
    parent = results_of(study.records, study.objective).shown.gains["objective"].parent
    row = next(trial for trial in study.trials() if trial.origin.parent == parent)
    scores = np.array(load_scores(study.records, row)[0]["sharpness"])
    held_out = scores + change + np.tile([0.2, 0.2, -0.18, -0.18], ITEMS // 4)  # by prompt
    hold_final(study, {trial.number: {"sharpness": held_out} for trial in study.trials() if not trial.origin.parent})
    text = Parsed(study.page()).text
    assert said in text
    assert "it includes 0, so the difference may be luck" in text if change == 0 else "surely the better model" in text
    assert ("mergetune export" in text) is (change == 0)


@pytest.mark.slow
def test_where_every_candidate_failed_nothing_of_the_search_is_claimed(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "one", ratios_matter, trials=14, **ONE)
    hold_final(study, {}, failed=True)
    page = study.page()
    text = Parsed(page).text
    assert "Every merge failed in the final, so none is known to be better than a parent" in text
    assert "failed in the final: black images" in text
    assert "mergetune export" not in text
    assert "gain in the search over" not in text
    assert 'class="number"' not in page


@pytest.mark.slow
def test_a_final_that_lost_and_is_outdated_is_still_heard(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "one", ratios_matter, trials=14, **ONE)
    worse = {trial.number: {"sharpness": (-1.0,) * ITEMS} for trial in study.trials() if not trial.origin.parent}
    hold_final(study, worse, complete_trials=13)
    text = Parsed(study.page()).text
    assert re.search(r"In the final no merge beats parent B: .* \(more trials have finished since\)", text)
    assert "leads" not in text
    assert "surely the better model" in text
    assert 'mergetune study finish "one"' in text


def test_parents_without_scores_are_told_and_no_final_is_advised(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "one", ratios_matter, trials=5, failed=(0, 1), **ONE)
    text = Parsed(study.page()).text
    assert "Parent A (a) and parent B (b) have no scores, so nothing is compared with them." in text
    assert "study finish" not in text


def test_a_parent_that_is_the_best_stands_beside_the_best_merge_and_is_not_exported(tmp_path: Path) -> None:
    study = begin_reported(
        tmp_path, "one", lambda params: dict.fromkeys(("sharpness", "contrast"), (params["IN04"],) * 4),
        trials=6, objective={"sharpness": {"weight": 1}}, final={"top": 0},
    )  # fmt: skip
    best_merge = max(study.trials()[2:], key=lambda trial: trial.objectives["objective"]).number
    parsed = Parsed(study.page())
    assert "No merge beats parent B (b) so far" in parsed.text
    assert f"trial {best_merge} (random)" in parsed.text
    assert "mergetune export" not in parsed.text
    assert "+0 " not in parsed.text


def test_one_score_that_is_the_objective_is_told_once(tmp_path: Path) -> None:
    study = begin_reported(
        tmp_path, "one", lambda params: dict.fromkeys(("sharpness", "contrast"), (params["IN04"],) * 4),
        trials=6, objective={"sharpness": {"weight": 1}},
    )  # fmt: skip
    results = results_of(study.records, study.objective)
    said = " ".join(verdict_of(results, prompt_gains(results, held_out=False)).sentences)
    assert "contrast −" in said
    assert "sharpness −" not in said


def test_a_front_of_a_parent_alone_has_no_merge_to_export(tmp_path: Path) -> None:
    study = begin_reported(
        tmp_path, "front", lambda params: dict.fromkeys(("sharpness", "contrast"), (-params["IN04"],) * 4),
        trials=6, objectives=["sharpness", "contrast"],
    )  # fmt: skip
    text = Parsed(study.page()).text
    assert "No merge beats parent A (a) in any objective so far" in text
    assert "mergetune export" not in text


def test_a_front_shows_its_members_and_takes_weights(tmp_path: Path) -> None:
    study = begin_reported(
        tmp_path, "front", ratios_matter, trials=12, suite=SUITE, objectives=["sharpness", "contrast"]
    )
    text = Parsed(study.page()).text
    assert "Every member of the front loses somewhere: trial" in text
    assert "what mattered for contrast" in text
    sharpest = max(study.trials(), key=lambda trial: trial.objectives["sharpness"]).number
    weighted = Parsed(study.page(weights={"sharpness": 1.0})).text
    assert f"This report shows trial {sharpest} (random), the best: chosen by weights." in weighted
    assert "trials are on the front, and none is best in every objective" in weighted
    with pytest.raises(WeightsError, match="colour"):
        study.page(weights={"colour": 1.0})


def test_few_trials_are_reported_without_importance(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "few", ratios_matter, trials=3, **ONE)
    text = Parsed(study.page()).text
    assert "too few trials in the search space" in text
    assert "Every block" in text


def test_parents_alone_give_a_report_that_says_so(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "parents", ratios_matter, trials=2, **ONE)
    text = Parsed(study.page()).text
    assert "No merge beats parent" in text
    assert "this parent alone has the best objective" in text


@pytest.mark.slow
def test_a_lost_picture_leaves_the_others_and_is_counted(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "one", ratios_matter, trials=12, **ONE)
    chosen = results_of(study.records, study.objective).shown
    store_pictures(study, (0, 1, chosen.number))
    files = study.artifacts.of_trial(study.records.study.key, chosen.number, chosen.worker_id)
    first, second, *_ = sorted(files.files())
    study.artifacts.store.remove(files.name(first))
    study.artifacts.store.write(files.name(second), b"\x89PNG cut off")
    parsed = Parsed(study.page())
    assert len(parsed.pictures) == 3 * ITEMS - 2
    assert "2 renders not found in the artifact store" in parsed.text
    assert parsed.text.count("not stored") == 2


@pytest.mark.slow
def test_pictures_that_no_encoder_makes_small_still_give_a_page_within_its_limit(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "one", ratios_matter, trials=4, **ONE)
    chosen = results_of(study.records, study.objective).shown.number
    store_pictures(study, (0, 1, chosen), (1024, 1024), noise)
    page = study.page()
    assert PAGE_BYTES / 3 < len(page.encode()) <= PAGE_BYTES
    assert re.search(r"Made smaller, to \d+ pixels", page)


def test_the_command_writes_a_page_and_refuses_what_would_lose_something(tmp_path: Path) -> None:
    begin_reported(tmp_path, "one", ratios_matter, trials=4, **ONE).records.database.close()
    target = tmp_path / "x.html"
    assert "wrote" in run(tmp_path, "study", "report", "one", "-o", str(target))
    before = target.read_bytes()
    assert b"mergetune report" in before
    assert "--force" in run(tmp_path, "study", "report", "one", "-o", str(target), code=2)
    assert target.read_bytes() == before
    assert "wrote" in run(tmp_path, "study", "report", "one", "-o", str(target), "--force")
    assert ".html" in run(tmp_path, "study", "report", "one", "-o", str(tmp_path / "x.pdf"), code=2)


def test_a_study_without_a_complete_trial_is_refused_in_one_line(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "none", ratios_matter, trials=2, failed=(0, 1), **ONE)
    with pytest.raises(NothingToReportError, match="nothing to report"):
        study.page()
    study.records.database.close()
    said = run(tmp_path, "study", "report", "none", "-o", str(tmp_path / "x.html"), code=2)
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "x.html").exists()
