"""Whole short studies that score fidelity: to a parent, to another checkpoint, racing, resumed, rescored, shared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import Call
from demo_study import DEMO, ShortStudy, begin, reopen, short_spec
from safetensors.torch import load_file, save_file

from optimizer.errors import CheckpointError, UnscorableTrial
from optimizer.outcome.final import FinalProgress, hold_final
from optimizer.runtime.plan import make_plan
from optimizer.runtime.setup import load_reference_renders
from optimizer.search.shortlist import by_value
from optimizer.trial.scored_images import read_images
from optimizer.work.trial_loop import TrialLoop
from scorers.fidelity.fidelity import ssim
from scorers.protocol import SuiteImages
from studies.errors import SpecError
from studies.records.stored_renders import load_renders, load_scores
from studies.records.stored_studies import open_study
from studies.records.stored_trials import load_trials
from studies.spec.study import parse_spec

SMALL: dict[str, Any] = {
    "scorers": {
        "sharpness": None,
        "clip_score": short_spec()["scorers"]["clip_score"],
        "likeness_to_a": {"kind": "fidelity", "to": "A", "by": "ssim"},
        "fidelity": {"to": "B", "clip": short_spec()["scorers"]["clip_score"]["clip"]},
    },
    "objective": {"clip_score": None},
    "probes": {"uniform": [0.5], "profiles": 0},
    "budget": {"trials": 3},
    "sampler": {"name": "random"},
    "render": {"degenerate_limit": 8, "keep": "all"},
    "final": {"top": 1},
}
SILENT = FinalProgress(started=lambda *_: None, rendered=lambda _: None)


def scores(short: ShortStudy, name: str) -> list[tuple[float, ...]]:
    return [tuple(load_scores(short.records, trial)[0][name]) for trial in load_trials(short.records)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faithful")


@pytest.fixture(scope="module")
def short(folder: Path) -> ShortStudy:
    study = begin(folder, SMALL)
    study.run()
    return study


def test_a_parent_is_itself_and_a_merge_is_compared_with_its_stored_renders(short: ShortStudy) -> None:
    (a, b, merge), (to_b_a, to_b_b, to_b_merge) = scores(short, "likeness_to_a"), scores(short, "fidelity")
    assert a == pytest.approx([1.0] * 8, abs=1e-9)
    assert to_b_b == pytest.approx([1.0] * 8, abs=1e-6)
    parent, other = (
        read_images(short.artifacts, load_renders(short.records, trial))
        for trial in (load_trials(short.records)[0], load_trials(short.records)[2])
    )
    assert merge == pytest.approx([ssim(other[item], parent[item]) for item in range(8)])
    assert max(*b, *to_b_a, *to_b_merge) < 1.0


def test_the_final_compares_with_held_out_renders_of_the_parent(short: ShortStudy) -> None:
    final = hold_final(
        short.runtime, load_trials(short.records), by_value(short.runtime.objective), SILENT, lambda *_: None
    )
    by_number = {each.number: each for each in final.finalists}
    assert by_number[0].image_scores["likeness_to_a"] == pytest.approx([1.0] * 8, abs=1e-9)
    assert by_number[1].image_scores["fidelity"] == pytest.approx([1.0] * 8, abs=1e-6)
    assert max(by_number[2].image_scores["likeness_to_a"]) < 1.0
    assert by_number[2].image_scores["likeness_to_a"] != scores(short, "likeness_to_a")[2]


@pytest.mark.slow
def test_a_resumed_study_scores_on_against_the_same_renders(tmp_path: Path, short: ShortStudy) -> None:
    begin(tmp_path, SMALL).run(stop_after=2)
    resumed = reopen(tmp_path)
    rendered: list[int] = []
    resumed.runtime.evaluator.renderer.render = lambda *_: rendered.append(1)  # type: ignore[assignment]
    resumed.run()
    assert not rendered  # the parents' stored renders are read
    assert scores(resumed, "likeness_to_a") == scores(short, "likeness_to_a")


@pytest.mark.slow
def test_a_worker_that_finds_no_renders_of_the_parent_makes_its_own(tmp_path: Path, short: ShortStudy) -> None:
    study = begin(tmp_path, SMALL | {"render": {"degenerate_limit": 8, "keep": "none"}})
    study.run(stop_after=2)
    resumed = reopen(tmp_path)
    resumed.run()
    assert scores(resumed, "likeness_to_a") == scores(short, "likeness_to_a")
    assert np.array(scores(resumed, "fidelity")) == pytest.approx(np.array(scores(short, "fidelity")))


@pytest.mark.slow
def test_with_racing_each_stage_is_compared_with_its_own_items(tmp_path: Path, short: ShortStudy) -> None:
    study = begin(tmp_path, SMALL | {"racing": {"batch": 4, "confidence": 0.99}})
    study.run()
    whole = [index for index, trial in enumerate(load_trials(study.records)) if trial.is_whole]
    for index in whole:
        assert scores(study, "likeness_to_a")[index] == pytest.approx(scores(short, "likeness_to_a")[index], abs=0.02)
    assert whole[:2] == [0, 1]


@pytest.mark.slow
def test_prompts_that_are_left_out_are_left_out_of_the_references(tmp_path: Path) -> None:
    suite = short_spec()["suite"]
    suite["prompts"] = [{"prompt": "an emoji of a lion", "without": ["likeness_to_a"]}, "an emoji of a fox"]
    study = begin(tmp_path, SMALL | {"suite": suite})
    study.run()
    by_item = scores(study, "likeness_to_a")
    assert [len(values) for values in by_item] == [2, 2, 2]
    assert all(values[0] != values[0] for values in by_item)
    assert by_item[0][1] == pytest.approx(1.0)


def other_checkpoint(folder: Path) -> Path:
    """Another checkpoint of the demo's family: the animals with every weight a little smaller."""
    animals = load_file(DEMO / "animals.safetensors")
    tensors = {name: (tensor.float() * 0.99).to(tensor.dtype) for name, tensor in animals.items()}
    path = folder / "other.safetensors"
    save_file(tensors, path)
    return path


def test_another_checkpoint_is_rendered_once_and_kept_for_every_worker_and_study(tmp_path: Path) -> None:
    path = other_checkpoint(tmp_path)
    changes = SMALL | {
        "scorers": {"clip_score": SMALL["scorers"]["clip_score"], "fidelity": {"to": str(path), "by": "ssim"}},
        "budget": {"trials": 2},
        "objective": {"fidelity": None},
    }
    study = begin(tmp_path, changes)
    study.run()
    kept = sorted((tmp_path / "cache" / "references").glob("*/renders.json"))
    assert len(kept) == 2  # of the search and of the final
    before = [(file.stat().st_mtime_ns, file.parent) for file in kept]
    animals, foods = (sum(values) / 8 for values in scores(study, "fidelity"))
    assert foods < animals < 1.0
    final_of = study.runtime.evaluator.references.of_suite(study.study.spec.held_out)
    assert not final_of.lacks(str(path), study.study.spec.held_out.items())
    again = reopen(tmp_path)
    assert [(file.stat().st_mtime_ns, file.parent) for file in kept] == before
    assert not again.runtime.evaluator.references.lacks(str(path), again.runtime.evaluator.renderer.items)


def test_a_checkpoint_of_other_shapes_is_refused_before_a_study_starts(tmp_path: Path) -> None:
    shutil.copy(DEMO / "clip.safetensors", tmp_path / "clip.safetensors")
    spec = short_spec() | SMALL | {"scorers": {"fidelity": {"to": str(tmp_path / "clip.safetensors"), "by": "ssim"}}}
    with pytest.raises(CheckpointError):
        make_plan(parse_spec(yaml.safe_dump(spec | {"objective": {"fidelity": None}}), base_dir=tmp_path))


def test_a_parent_that_there_is_not_is_told_in_one_line(tmp_path: Path) -> None:
    spec = short_spec() | SMALL | {"scorers": {"fidelity": {"to": "C", "by": "ssim"}}, "objective": {"fidelity": None}}
    with pytest.raises(SpecError, match="there is no parent C to compare with: this study has A, B"):
        parse_spec(yaml.safe_dump(spec), base_dir=tmp_path)


def test_stored_renders_are_scored_anew_against_the_stored_parent(
    short: ShortStudy, folder: Path, tmp_path: Path, call: Call
) -> None:
    spec = short_spec() | SMALL | {"study": "anew"}
    spec["scorers"] = {"faithful": {"kind": "fidelity", "to": "A", "by": "ssim"}}
    spec["objective"] = {"faithful": None}
    spec["parents"] = [str(path) for path in short.study.spec.parents]
    (tmp_path / "anew.yaml").write_text(yaml.safe_dump(spec))
    call(
        "study", "rescore", "short", tmp_path / "anew.yaml", "--storage", f"sqlite:///{folder}/study.db",
        "--artifacts", folder / "artifacts", "--cache", tmp_path / "cache", code=0,
    )  # fmt: skip
    anew = open_study(short.database, "anew")
    found = [tuple(load_scores(anew, trial)[0]["faithful"]) for trial in load_trials(anew)]
    assert found == [pytest.approx(values) for values in scores(short, "likeness_to_a")]


def test_a_parent_whose_images_are_broken_is_named(tmp_path: Path) -> None:
    foods = load_file(DEMO / "foods.safetensors")
    last = "first_stage_model.decoder.conv_out.weight"
    save_file(foods | {last: torch.zeros_like(foods[last])}, tmp_path / "grey.safetensors")
    changes = SMALL | {"parents": [str(DEMO / "animals.safetensors"), str(tmp_path / "grey.safetensors")]}
    study = begin(tmp_path, changes | {"render": {"degenerate_limit": 7}})
    with pytest.raises(UnscorableTrial, match="parent B, which scorers compare with, renders 8 of 8 images broken"):
        study.runtime.evaluator.evaluate(study.runtime.probes[0].recipe)


def compared_with_grey(folder: Path, degenerate_limit: int) -> dict[str, Any]:
    """The changes of a study that compares with a checkpoint of which every image is broken."""
    foods = load_file(DEMO / "foods.safetensors")
    last = "first_stage_model.decoder.conv_out.weight"
    save_file(foods | {last: torch.zeros_like(foods[last])}, folder / "grey.safetensors")
    scorers = {"fidelity": {"to": str(folder / "grey.safetensors"), "by": "ssim"}}
    limit = {"render": {"degenerate_limit": degenerate_limit}, "final": {"top": 0}}
    return SMALL | limit | {"scorers": scorers, "objective": {"fidelity": None}}


@pytest.mark.slow
def test_another_checkpoint_whose_images_are_broken_is_named_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"grey\.safetensors, which scorers compare with, renders 8 of 8 images"):
        begin(tmp_path, compared_with_grey(tmp_path, degenerate_limit=7))
    assert not list((tmp_path / "cache" / "references").glob("*/renders.json"))


def test_kept_images_of_another_checkpoint_are_judged_again_by_a_stricter_study(tmp_path: Path) -> None:
    spec = short_spec(**compared_with_grey(tmp_path, degenerate_limit=8))
    plan = make_plan(parse_spec(yaml.safe_dump(spec), base_dir=tmp_path))
    device, cache = torch.device("cpu"), tmp_path / "cache"
    load_reference_renders(plan, device, cache)
    (kept,) = (cache / "references").glob("*/renders.json")
    written = kept.stat().st_mtime_ns
    load_reference_renders(plan, device, cache)
    stricter = make_plan(parse_spec(yaml.safe_dump(spec | {"render": {"degenerate_limit": 7}}), base_dir=tmp_path))
    with pytest.raises(CheckpointError, match=r"renders 8 of 8 images broken \(item 0: flat.*degenerate_limit`"):
        load_reference_renders(stricter, device, cache)
    assert kept.stat().st_mtime_ns == written, "it was not rendered for that"


@pytest.mark.slow
def test_two_workers_of_one_process_each_compare_with_the_same_renders(tmp_path: Path, short: ShortStudy) -> None:
    study = begin(tmp_path, SMALL)
    other = reopen(tmp_path)
    TrialLoop(study.records, study.runtime, study.artifacts, _Silent(), _after(1)).run()
    TrialLoop(other.records, other.runtime, other.artifacts, _Silent(), _after(2)).run()
    assert scores(study, "likeness_to_a") == scores(short, "likeness_to_a")


class _Silent:
    def report(self, event: object) -> None:
        """Say nothing."""


def _after(trials: int) -> Any:
    asked = iter([False] * trials)
    return lambda: next(asked, True)


def test_a_scorer_of_a_plug_in_may_compare_as_well() -> None:
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    reference = SuiteImages(images=(image,), prompts=("",))
    images = SuiteImages(images=(image,), prompts=("",), references={"A": reference})
    assert images.of_reference("A") is reference
