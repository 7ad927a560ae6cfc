"""Whole studies on the demo's trained checkpoints, a real SQLite file, and real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml
from demo_study import DEMO, SMALL, ShortStudy, begin, reopen, short_spec, write_spec
from optuna.trial import TrialState
from real_databases import new_postgresql_url
from safetensors.torch import load_file, save_file
from slow_cases import first_fast

from optimizer.errors import CheckpointError, ExportError, OptimizerError, RenderError, UnscorableTrial
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.outcome.export import Watch, deliver, render_file
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from optimizer.trial.evaluation import Evaluator, pixels_digest
from optimizer.trial.ranking import best_trials, parent_trials
from scorers.protocol import SuiteImages
from studies.errors import StudyChangedError
from studies.recipe.recipe import Recipe
from studies.records import stored_renders, stored_trials, values
from studies.records.origins import Origin
from studies.spec.fingerprints import fingerprints, refuse_changed_files, refuse_changed_spec
from studies.spec.study import parse_spec

SILENT = Watch(written=lambda _: None, compared=lambda _: None, rendered=lambda _: None)


def params_of(short: ShortStudy) -> list[dict[str, float]]:
    study = optuna.load_study(study_name=short.study.name, storage=short.database.storage)
    return [trial.params for trial in study.trials]


def scores_of(short: ShortStudy) -> list[tuple[object, object]]:
    trials = stored_trials.load_trials(short.records)
    return [stored_renders.load_scores(short.records, trial) for trial in trials]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    short = begin(tmp_path_factory.mktemp("finished"), shared=True)
    short.run()
    return short


def test_probes_come_first_and_the_budget_is_kept(finished: ShortStudy) -> None:
    origins = [str(trial.origin) for trial in stored_trials.load_trials(finished.records)]
    assert origins[:5] == ["parent A", "parent B", "uniform 0.25", "uniform 0.5", "uniform 0.75"]
    assert all(origin.startswith("profile ") for origin in origins[5:11])
    assert origins[11:] == ["depth", "depth"]


def test_every_render_and_score_is_stored(finished: ShortStudy) -> None:
    for trial in stored_trials.load_trials(finished.records):
        renders = stored_renders.load_renders(finished.records, trial)
        by_item, by_set = stored_renders.load_scores(finished.records, trial)
        assert [render.item for render in renders] == list(range(8))
        assert len(by_item["clip_score"]) == 8
        assert set(by_set) == {"likeness"}
        assert {"merge", "denoise", "decode", "score", "other"} <= trial.seconds.keys()
        assert trial.objectives["objective"] == pytest.approx(
            np.mean(by_item["clip_score"]) / finished.runtime.infos["clip_score"].unit
            - by_set["likeness"] / finished.runtime.infos["likeness"].unit
        )


def test_gain_is_over_the_better_parent(finished: ShortStudy) -> None:
    rows = stored_trials.load_trials(finished.records)
    better = max(parent_trials(rows).values(), key=lambda row: row.objectives["objective"])
    for row in rows:
        gain = row.gains["objective"]
        assert gain.value == pytest.approx(row.objectives["objective"] - better.objectives["objective"])
        assert gain.parent == better.origin.parent
        assert gain.low is not None
        assert gain.high is not None
        assert gain.low <= gain.high


def test_optuna_holds_what_our_tables_hold(finished: ShortStudy) -> None:
    study = optuna.load_study(study_name="short", storage=finished.database.storage)
    for row, trial in zip(stored_trials.load_trials(finished.records), study.trials, strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.value == row.objectives["objective"]
        made = row.recipe.steps[0].by_place if row.recipe.steps else {}
        assert {made.get(f"IN{index:02d}", (0.0,)) for index in range(12)} == {(trial.params["IN"],)}


def test_only_parents_and_the_best_keep_their_renders(finished: ShortStudy) -> None:
    trials = stored_trials.load_trials(finished.records)
    best = best_trials(trials, finished.runtime.objective)[0].number
    for trial in trials:
        files = [render.file for render in stored_renders.load_renders(finished.records, trial)]
        if trial.number in {0, 1, best}:
            stored = [np.array(finished.artifacts.open_render(file)) for file in files if file is not None]
            digests = [pixels_digest(torch.from_numpy(image).permute(2, 0, 1)) for image in stored]
            assert digests == [render.pixels_sha256 for render in stored_renders.load_renders(finished.records, trial)]
        else:
            assert files == [None] * 8
    kept = [file for file in finished.artifacts.store.files("studies/") if file.name.endswith(".png")]
    assert len(kept) == 8 * len({0, 1, best})


def test_equal_recipes_give_equal_pixels(finished: ShortStudy) -> None:
    trial = stored_trials.load_trials(finished.records)[3]
    finished.runtime.evaluator.evaluate(stored_trials.load_trials(finished.records)[7].recipe)
    again = finished.runtime.evaluator.evaluate(trial.recipe)
    assert list(again.pixels_sha256) == [
        render.pixels_sha256 for render in stored_renders.load_renders(finished.records, trial)
    ]


@pytest.mark.slow
def test_a_study_stopped_and_reopened_again_and_again_goes_the_same_way(finished: ShortStudy, tmp_path: Path) -> None:
    begin(tmp_path, shared=True).run(stop_after=3)
    for _ in range(4):
        interrupted = reopen(tmp_path)
        interrupted.run(stop_after=3)
    assert params_of(interrupted) == params_of(finished)
    assert scores_of(interrupted) == scores_of(finished)


@pytest.mark.slow  # others store on a server
@pytest.mark.parametrize("trials", [3, 13])
def test_a_study_on_postgresql_goes_the_same_way(trials: int, finished: ShortStudy, tmp_path: Path) -> None:
    short = begin(tmp_path, url=new_postgresql_url(), shared=True)
    short.run(stop_after=trials)
    assert params_of(short) == params_of(finished)[:trials]
    assert scores_of(short) == scores_of(finished)[:trials]
    short.database.close()


@pytest.mark.parametrize(("killed", "stop_after"), [((2,), 3), pytest.param((2, 6), None, marks=pytest.mark.slow)])
def test_kill_9_loses_only_the_trial_in_progress(
    killed: tuple[int, ...], stop_after: int | None, finished: ShortStudy, tmp_path: Path
) -> None:
    """Killed when so many trials are complete."""
    short = begin(tmp_path, shared=True)
    code = (
        "import sys; sys.path[:0] = sys.argv[2].split(':')\n"
        "from pathlib import Path; from demo_study import reopen\n"
        "import torch; torch.set_num_threads(int(sys.argv[3]))\n"
        "print('ready', flush=True); reopen(Path(sys.argv[1])).run()"
    )
    paths = f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}"
    for wanted in killed:
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), paths, str(torch.get_num_threads())])
        deadline = time.monotonic() + 120
        while len(stored_trials.load_trials(short.records)) <= wanted:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        trials = stored_trials.load_trials(short.records)
        assert sum(trial.state == "complete" for trial in trials) >= wanted
    reopen(tmp_path).run(stop_after)
    done = len(params_of(short))
    assert done >= (13 if stop_after is None else killed[-1] + stop_after)
    assert params_of(short) == params_of(finished)[:done]
    assert scores_of(short) == scores_of(finished)[:done]
    assert {trial.state for trial in stored_trials.load_trials(short.records)} == {"complete"}


def test_a_trial_recorded_but_not_told_is_told_and_not_run_again(tmp_path: Path) -> None:
    short = begin(tmp_path, shared=True)
    short.run(stop_after=2)
    study = optuna.load_study(study_name="short", storage=short.database.storage)
    trial_id = study.ask()._trial_id  # what a worker leaves that dies between recording and telling
    trial = stored_trials.load_trials(short.records)[1]
    stored_trials.start_trial(short.records, 2, Origin("uniform", "0.25"), trial.recipe, "dead")
    by_item, by_set = stored_renders.load_scores(short.records, trial)
    recorded = values.TrialResult(
        objectives={"objective": 12.5},
        image_scores=by_item,
        set_scores=by_set,
        pixels_sha256=("0" * 64,) * 8,
        seconds={"merge": 0.1},
        machine={},
    )
    features = short.artifacts.of_trial(short.study.key, 1, trial.worker_id).load_features()
    short.artifacts.of_trial(short.study.key, 2, "dead").save_features(
        features
    )  # as the worker had, before it recorded the scores
    stored_trials.finish_trial(short.records, 2, "dead", recorded)
    recorder = short.run(stop_after=1)
    assert [number for number, _ in recorder.started] == [3]
    told = short.database.storage.get_trial(trial_id)
    assert told.state == TrialState.COMPLETE
    assert told.value == 12.5


def test_a_changed_parent_is_refused(tmp_path: Path) -> None:
    parent = tmp_path / "animals.safetensors"
    tensors = load_file(DEMO / "animals.safetensors")
    save_file(tensors, parent)
    spec = parse_spec(
        yaml.safe_dump(short_spec(parents=[str(parent), str(DEMO / "foods.safetensors")])), base_dir=tmp_path
    )
    known = hash_parents(make_plan(spec))
    tensors["model.diffusion_model.out.2.bias"] += 1
    save_file(tensors, parent)
    with pytest.raises(StudyChangedError, match="is not the file the study began with"):
        hash_parents(make_plan(spec), known)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"suite": short_spec()["suite"] | {"steps": 3}}, "`suite`"),
        ({"space": {"granularity": "uniform"}}, "`space`"),
        ({"method": "slerp"}, "`method` or `steps`"),
        ({"objective": {"clip_score": {"weight": 2}}}, "`objective`"),
        ({"objective": {"clip_score": {"unit": 3}}}, "`objective`"),
        ({"render": {"keep": "all"}}, "`render`"),
        ({"sampler": {"name": "tpe"}, "final": {"top": 1}}, "`sampler`, `final`"),
    ],
)
def test_a_spec_that_has_changed_is_refused(changes: dict[str, Any], named: str) -> None:
    spec = parse_spec(yaml.safe_dump(short_spec()), base_dir=DEMO)
    other = parse_spec(yaml.safe_dump(short_spec(**changes)), base_dir=DEMO)
    with pytest.raises(StudyChangedError, match=re.escape(named)):
        refuse_changed_spec(spec, other)


@pytest.mark.parametrize(
    "space", [{"preset": "blocks"}, {"preset": "blocks", "frozen": {"M00": 0.5}}, {"granularity": "uniform"}]
)
def test_a_space_that_was_spelt_out_is_no_change(space: dict[str, Any]) -> None:
    spec = parse_spec(yaml.safe_dump(short_spec(space=space)), base_dir=DEMO)
    refuse_changed_spec(make_plan(spec).spec, spec)
    other = parse_spec(yaml.safe_dump(short_spec(space=space | {"bounds": {"*": [0.1, 0.9]}})), base_dir=DEMO)
    with pytest.raises(StudyChangedError, match="`space`"):
        refuse_changed_spec(make_plan(spec).spec, other)


def test_a_larger_budget_and_units_that_were_written_out_are_no_change(tmp_path: Path) -> None:
    stored = begin(tmp_path, shared=True).study.spec
    assert stored.objective is not None
    assert all(term.unit for term in stored.objective.values())
    refuse_changed_spec(stored, parse_spec(yaml.safe_dump(short_spec(budget={"trials": 99})), base_dir=tmp_path))


MIDDLE = "model.diffusion_model.middle_block.0.in_layers.2.weight"


def too_large(path: Path) -> Path:
    """Write a model whose values are numbers, and whose images are not: its sums go beyond float32."""
    tensors = load_file(DEMO / "foods.safetensors")
    tensors[MIDDLE] = torch.full_like(tensors[MIDDLE], 1e38, dtype=torch.float32)
    save_file(tensors, path)
    return path


@pytest.mark.slow  # that every parent fails is fast
def test_broken_images_fail_the_trial_and_are_no_score(tmp_path: Path) -> None:
    broken = too_large(tmp_path / "broken.safetensors")
    changes = {"parents": [str(DEMO / "animals.safetensors"), str(broken)], "budget": {"trials": 4}}
    short = begin(
        tmp_path,
        changes
        | {"render": {"degenerate_limit": 0}, "export": {"dtype": "fp32"}}
        | {"suite": short_spec()["suite"] | {"steps": 8}},
    )
    short.run()
    rows = stored_trials.load_trials(short.records)
    assert [row.state for row in rows] == ["complete", "failed", "failed", "failed"]
    assert "NaN" in (rows[1].reason or "") or "nan" in (rows[1].reason or "")
    states = [trial.state for trial in optuna.load_study(study_name="short", storage=short.database.storage).trials]
    assert states == [TrialState.COMPLETE, *[TrialState.FAIL] * 3]
    assert rows[0].gains["objective"].value == 0  # against the one parent there is


@pytest.mark.slow
def test_a_study_ends_with_a_parent_whose_own_weights_are_broken(tmp_path: Path) -> None:
    """They are too large for float16, in which the study saves."""
    broken = too_large(tmp_path / "broken.safetensors")
    changes = {"parents": [str(DEMO / "animals.safetensors"), str(broken)], "budget": {"trials": 40}}
    short = begin(tmp_path, changes | {"render": {"degenerate_limit": 0}})
    with pytest.raises(OptimizerError, match=rf"a parent is broken.*B: broken weights.*{MIDDLE}"):
        short.run()
    trials = stored_trials.load_trials(short.records)
    assert [(trial.state, trial.failure) for trial in trials] == [("complete", None), ("failed", "broken_weights")]


@pytest.mark.parametrize("value", first_fast(1, [float("nan"), float("inf")]))
def test_a_study_does_not_begin_with_a_parent_that_holds_no_numbers(value: float, tmp_path: Path) -> None:
    tensors = load_file(DEMO / "foods.safetensors")
    tensors[MIDDLE].view(-1)[3] = value
    save_file(tensors, tmp_path / "broken.safetensors")
    parents = [str(DEMO / "animals.safetensors"), str(tmp_path / "broken.safetensors")]
    with pytest.raises(CheckpointError, match=rf"parent B \(.*broken.safetensors\) holds \w+ in {MIDDLE}"):
        begin(tmp_path, {"parents": parents})


def test_a_study_whose_parents_all_fail_ends(tmp_path: Path) -> None:
    paths = [str(too_large(tmp_path / f"{index}.safetensors")) for index in range(2)]
    short = begin(tmp_path, {"parents": paths, "render": {"degenerate_limit": 0}})
    with pytest.raises(OptimizerError, match="every parent failed"):
        short.run()


@pytest.mark.slow
def test_several_objectives_make_a_pareto_front(tmp_path: Path) -> None:
    changes = {"objective": None, "objectives": ["clip_score", "likeness"], "sampler": {"name": "random"}}
    short = begin(tmp_path, changes | {"budget": {"trials": 6}})
    short.run()
    study = optuna.load_study(study_name="short", storage=short.database.storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    rows = stored_trials.load_trials(short.records)
    front = {row.number for row in best_trials(rows, short.runtime.objective)}
    assert front == {trial.number for trial in study.best_trials}


@pytest.mark.slow
def test_a_parent_outside_the_space_is_still_the_whole_parent(tmp_path: Path) -> None:
    short = begin(tmp_path, {"space": {"granularity": "sections", "bounds": {"IN": [0, 0.5]}}, "budget": {"trials": 3}})
    short.run()
    trials = optuna.load_study(study_name="short", storage=short.database.storage).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    assert trials[1].params == {}
    row = stored_trials.load_trials(short.records)[1]
    alone = render_file(DEMO / "foods.safetensors", short.study)
    assert [pixels_digest(image) for image in alone] == [
        render.pixels_sha256 for render in stored_renders.load_renders(short.records, row)
    ]


@pytest.mark.slow  # the soak does the same with more of them
def test_two_workers_share_a_study_and_no_trial_is_run_twice(tmp_path: Path) -> None:
    short = begin(tmp_path, {"sampler": {"name": "random"}})
    code = (
        "import sys; sys.path[:0] = sys.argv[2].split(':')\n"
        "from pathlib import Path; from demo_study import reopen\n"
        "import torch; torch.set_num_threads(1)\n"
        "print(*[number for number, _ in reopen(Path(sys.argv[1])).run().started])"
    )
    paths = f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}"
    command = [sys.executable, "-c", code, str(tmp_path), paths]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    started = [int(number) for worker in workers for number in worker.communicate(timeout=250)[0].split()]
    assert sorted(started) == list(range(13))
    assert all(trial.gains for trial in stored_trials.load_trials(short.records))


# ------------------------------------------------------------------------------------------ export


def test_the_exported_file_renders_exactly_what_was_scored(finished: ShortStudy, tmp_path: Path) -> None:
    trial = stored_trials.load_trials(finished.records)[6]
    target = tmp_path / "merge.safetensors"
    done = deliver(
        finished.records,
        trial,
        finished.runtime.plan,
        finished.artifacts,
        target,
        overwrite=False,
        watch=SILENT,
    )
    assert done.proof == (
        f"all {len(load_file(target))} tensors of the file are equal, to the bit, to the merge in memory, "
        "and all 8 renders of the file are identical, to the bit, to those that were scored"
    )
    assert done.difference == ""
    opened = Checkpoint.open(target)
    assert opened.sha256 == done.file.sha256
    assert list(opened.tensors) == list(Checkpoint.open(DEMO / "animals.safetensors").tensors)
    assert Recipe.from_json(opened.metadata["mergetune.recipe"]) == trial.recipe
    models = json.loads(opened.metadata["sd_merge_models"])
    assert set(models) == {parent.sha256 for parent in finished.study.parents}
    assert json.loads(opened.metadata["sd_merge_recipe"])["primary_model_hash"] == finished.study.parents[0].sha256
    assert opened.metadata["modelspec.architecture"] == "stable-diffusion-v1"


def test_a_failed_trial_is_not_exported(finished: ShortStudy, tmp_path: Path) -> None:
    trial = stored_trials.load_trials(finished.records)[0]
    failed = values.StoredTrial(**{name: getattr(trial, name) for name in trial.__slots__} | {"state": "failed"})
    with pytest.raises(ExportError, match="failed"):
        deliver(
            finished.records, failed, finished.runtime.plan, finished.artifacts, tmp_path / "x",
            overwrite=False, watch=SILENT,
        )  # fmt: skip


def test_spec_file_of_the_short_study_is_itself_valid(tmp_path: Path) -> None:
    path = write_spec(tmp_path / "short.yaml")
    assert parse_spec(path.read_text(), base_dir=tmp_path).study == "short"


@pytest.mark.slow  # a merge's refusal is fast
def test_an_export_never_overwrites_a_parent_even_when_told_to(finished: ShortStudy, tmp_path: Path) -> None:
    parent = tmp_path / "animals.safetensors"
    parent.write_bytes((DEMO / "animals.safetensors").read_bytes())
    changes = {"parents": [str(parent), str(DEMO / "foods.safetensors")], "budget": {"trials": 2}}
    short = begin(tmp_path, changes)
    short.run()
    trial = stored_trials.load_trials(short.records)[0]
    with pytest.raises(ExportError, match="is parent A"):
        deliver(short.records, trial, short.runtime.plan, short.artifacts, parent, overwrite=True, watch=SILENT)
    assert parent.read_bytes() == (DEMO / "animals.safetensors").read_bytes()


@pytest.mark.slow  # the command line says the same
def test_an_export_tells_what_its_dtype_rounds_away(tmp_path: Path) -> None:
    tensors = load_file(DEMO / "animals.safetensors")
    small = {key: row.to(torch.float8_e4m3fn) if row.is_floating_point() else row for key, row in tensors.items()}
    near = {key: row.float() * 1.01 if row.is_floating_point() else row for key, row in small.items()}
    for name, parent in (("small", small), ("near", near)):
        save_file(parent, tmp_path / f"{name}.safetensors")
    changes = {"parents": [str(tmp_path / f"{name}.safetensors") for name in ("small", "near")]}
    short = begin(tmp_path, {**SMALL, **changes, "budget": {"trials": 4}})
    short.run()
    trial = next(row for row in stored_trials.load_trials(short.records) if row.title.startswith("uniform"))
    plan, target = short.runtime.plan, tmp_path / "out.safetensors"
    delivery = deliver(short.records, trial, plan, short.artifacts, target, overwrite=False, watch=SILENT)
    assert len(delivery.file.notes) == 1
    assert "below a step of float8_e4m3fn" in delivery.file.notes[0]
    assert "a study with `export: {dtype: fp16}` keeps 100%" in delivery.file.notes[0]


def test_changed_reference_images_are_refused(tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    shutil.copytree(DEMO / "reference", reference)
    likeness = short_spec()["scorers"]["likeness"] | {"reference": str(reference)}
    spec = parse_spec(
        yaml.safe_dump(short_spec(scorers=short_spec()["scorers"] | {"likeness": likeness})), base_dir=tmp_path
    )
    known = fingerprints(spec)
    refuse_changed_files(known, spec)
    (reference / "lion.png").unlink()
    with pytest.raises(StudyChangedError, match="likeness"):
        refuse_changed_files(known, spec)


def test_a_changed_configuration_beside_a_lora_is_refused(tmp_path: Path) -> None:
    path, configuration = tmp_path / "style.safetensors", tmp_path / "adapter_config.json"
    save_file({"unet.conv_in.lora_A.weight": torch.zeros(1, 4, 3, 3)}, path)
    configuration.write_text('{"lora_alpha": 16, "r": 1}')
    spec = parse_spec(yaml.safe_dump(short_spec(loras={"style": {"path": str(path)}})), base_dir=tmp_path)
    known = fingerprints(spec)
    refuse_changed_files(known, spec)
    configuration.write_text('{"lora_alpha": 8, "r": 1}')
    with pytest.raises(StudyChangedError, match="the LoRA 'style'"):
        refuse_changed_files(known, spec)
    configuration.unlink()
    with pytest.raises(StudyChangedError, match="the LoRA 'style'"):
        refuse_changed_files(known, spec)


def test_a_scorer_that_raises_fails_the_trial_with_its_reason(tmp_path: Path) -> None:
    short = begin(tmp_path, {"budget": {"trials": 1}})

    class Broken:
        """A third party's scorer with a fault."""

        info = short.runtime.infos["clip_score"]

        def score(self, images: SuiteImages) -> torch.Tensor:  # noqa: ARG002
            raise ZeroDivisionError("no images today")

    evaluator = Evaluator(
        short.runtime.evaluator.resident,
        short.runtime.evaluator.renderer,
        {"broken": Broken()},
        degenerate_limit=8,
    )
    with pytest.raises(UnscorableTrial, match="scorer broken failed at item 0: ZeroDivisionError: no images today"):
        evaluator.evaluate(short.runtime.probes[0].recipe)


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ({"clip_skip": 9}, "clip_skip 9 leaves no layer"),
        ({"sampler": "ddim_a1111", "steps": 1}, "makes no step at all"),
        ({"pag": {"scale": 3, "layers": ["up_blocks.9"]}}, r"no self-attention in up_blocks\.9: use down_blocks\."),
        (
            {"prompts": [{"prompt": "a", "pag": {"scale": 3, "layers": ["mid_block.attentions.1"]}}]},
            "no self-attention",
        ),
    ],
)
def test_what_cannot_be_rendered_is_refused_before_anything_is_loaded(suite: dict[str, object], message: str) -> None:
    with pytest.raises(RenderError, match=message):
        make_plan(parse_spec(yaml.safe_dump(short_spec(suite=short_spec()["suite"] | suite)), base_dir=DEMO))


def test_layers_of_the_finals_prompts_are_refused_then_too() -> None:
    final = {"prompts": [{"prompt": "a lion", "pag": {"scale": 3, "layers": ["down_blocks.9"]}}]}
    with pytest.raises(RenderError, match=r"no self-attention in down_blocks\.9"):
        make_plan(parse_spec(yaml.safe_dump(short_spec(final=final)), base_dir=DEMO))


def test_parents_without_any_vae_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    parents = []
    for name in ("animals", "foods"):
        tensors = load_file(DEMO / f"{name}.safetensors")
        bare = {key: tensor for key, tensor in tensors.items() if not key.startswith("first_stage_model.")}
        save_file(bare, tmp_path / f"{name}.safetensors")
        parents.append(str(tmp_path / f"{name}.safetensors"))
    with pytest.raises(CheckpointError, match="is missing: a full checkpoint"):
        make_plan(parse_spec(yaml.safe_dump(short_spec(parents=parents)), base_dir=tmp_path))
