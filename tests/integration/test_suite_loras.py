"""LoRAs of a suite: studies score the merge with them on top, and neither merge, recipe nor export has them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
import yaml
from checkpoints import write_checkpoint
from command_line import Call, caller
from demo_study import DEMO, SMALL, ShortStudy, begin, reopen, short_spec
from safetensors.torch import load_file
from small_loras import TEXT, UNET, write_lora
from torch import Tensor

from optimizer.errors import ExportError, MissingFileError
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.outcome.export import Watch, deliver, render_file
from optimizer.outcome.final import FinalProgress, hold_final
from optimizer.rendering.loras import NO_LORAS
from optimizer.rendering.render import Renderer
from optimizer.rendering.variation import grey_levels
from optimizer.runtime.model_files import ModelFolders
from optimizer.runtime.plan import Plan, make_plan
from optimizer.runtime.setup import estimate_plan_memory
from optimizer.trial.evaluation import pixels_digest
from optimizer.trial.stored_scores import trial_scores
from search_spaces.blocks import Architecture
from studies.errors import StudyChangedError
from studies.records import stored_renders, stored_trials
from studies.records.values import StoredTrial
from studies.spec.fingerprints import THE_NAMED_LORAS, fingerprints, refuse_changed_files, title_of_suite_lora
from studies.spec.hires import HiresSettings
from studies.spec.study import parse_spec
from studies.spec.suite import SuiteSettings

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

# Sets in the order of items: style, none, style, ink at two strengths, style.
STYLE = "<lora:style:0.8>"
PROMPTS = (f"a lion {STYLE}", "a fox", f"a panda {STYLE}", "a pizza <lora:ink:1:0.5>", f"a carrot{STYLE}")
SUITE = {"prompts": list(PROMPTS), "seeds": [1], "sizes": [64], "steps": 2, "lora_folder": "loras"}
WITHOUT = [prompt.partition("<")[0] for prompt in PROMPTS]


def quiet(_: int) -> None: ...


def write_loras(folder: Path) -> Path:
    """Write two LoRAs for the demo's models: of U-Net and text encoder, and of the U-Net alone."""
    tensors = Checkpoint.open(DEMO / "animals.safetensors").tensors
    write_lora(folder / "sub" / "style.safetensors", tensors, (UNET, TEXT), seed=1)
    write_lora(folder / "ink.safetensors", tensors, (UNET,), seed=2)
    return folder


def changes(suite: Mapping[str, Any] = SUITE, **others: Any) -> dict[str, Any]:
    return {**SMALL, "suite": dict(suite), **others}


def pixels(short: ShortStudy, trial: StoredTrial) -> list[str]:
    return [each.pixels_sha256 for each in stored_renders.load_renders(short.records, trial)]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    """Parents and two merges, scored with the LoRAs on top."""
    folder = tmp_path_factory.mktemp("loras")
    write_loras(folder / "loras")
    short = begin(folder, changes())
    short.run(stop_after=4)
    return short


@pytest.fixture
def rows(short: ShortStudy) -> list[StoredTrial]:
    return stored_trials.load_trials(short.records)


def merge(short: ShortStudy, trial: StoredTrial) -> None:
    """Make a trial's merge live."""
    short.runtime.evaluator.resident.merge(trial.recipe)
    short.runtime.evaluator.renderer.text_changed()


def exported(short: ShortStudy, trial: StoredTrial, target: Path) -> Path:
    watch = Watch(written=quiet, compared=quiet, rendered=quiet)
    told = deliver(short.records, trial, short.runtime.plan, short.artifacts, target, overwrite=False, watch=watch)
    assert told.difference == ""
    assert f"all {len(PROMPTS)} renders of the file are identical, to the bit" in told.proof
    return target


# ------------------------------------------------------------------------------------------ what is rendered


def test_renders_are_those_of_a_file_into_which_the_loras_are_baked(
    short: ShortStudy,
    rows: list[StoredTrial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = caller(monkeypatch, capsys, "lora")
    file = exported(short, rows[2], tmp_path / "merge.safetensors")
    style = next(lora.path for lora in short.runtime.plan.suite_loras.loras if lora.name == "style")
    run("bake", file, f"{style}:0.8", "-o", tmp_path / "styled.safetensors", code=0)
    styled = [item for item, prompt in enumerate(PROMPTS) if "style" in prompt]
    for checkpoint, items in ((tmp_path / "styled.safetensors", styled), (file, [1])):
        words = [WITHOUT[item] for item in items]
        suite = short.study.spec.suite.model_copy(update={"lora_folder": None})
        plain = SuiteSettings.model_validate(suite.model_dump() | {"prompts": [{"prompt": word} for word in words]})
        spec = short.study.spec.model_copy(update={"suite": plain})
        images = render_file(checkpoint, replace(short.study, spec=spec))
        assert [pixels_digest(image) for image in images] == [pixels(short, rows[2])[item] for item in items]


@pytest.mark.slow
def test_parents_have_them_too(short: ShortStudy, rows: list[StoredTrial]) -> None:
    models, suite = short.runtime.evaluator.renderer.models, short.study.spec.suite
    words = [{"prompt": each} for each in WITHOUT]
    plain = Renderer(models, SuiteSettings.model_validate(suite.model_dump() | {"prompts": words}))
    for row in rows[:2]:
        assert row.origin.kind == "parent"
        merge(short, row)
        images = short.runtime.evaluator.evaluate(row.recipe).images
        merge(short, row)
        plain.text_changed()
        apart = list(map(grey_levels, images, plain.render().images))
        for prompt, distance in zip(PROMPTS, apart, strict=True):
            assert (distance > 2) == ("<" in prompt), apart  # in other batches the last bits differ


@pytest.mark.slow
def test_neither_recipe_nor_export_has_a_trace_of_them(
    short: ShortStudy, rows: list[StoredTrial], tmp_path: Path
) -> None:
    file = exported(short, rows[2], tmp_path / "merge.safetensors")
    assert rows[2].recipe.loras == ()
    plain = begin(tmp_path, changes({**SUITE, "prompts": WITHOUT, "lora_folder": None}))
    resident = plain.runtime.evaluator.resident
    resident.merge(rows[2].recipe)
    for key, tensor in load_file(file).items():
        assert torch.equal(resident.live_tensors()[key], tensor.to(resident.live_tensors()[key].dtype)), key
    header = json.dumps(dict(Checkpoint.open(file).metadata))
    hashes = [lora.sha256 for lora in short.runtime.plan.suite_loras.loras]
    assert len(hashes) == 2
    for word in ("style", "ink", *(digest[:10] for digest in hashes)):
        assert word not in header


@pytest.mark.slow
def test_an_export_names_those_that_have_changed(short: ShortStudy, rows: list[StoredTrial], tmp_path: Path) -> None:
    style = next(lora.path for lora in short.runtime.plan.suite_loras.loras if lora.name == "style")
    before = style.read_bytes()
    write_lora(style, Checkpoint.open(DEMO / "animals.safetensors").tensors, seed=99)
    try:
        watch, plan = Watch(written=quiet, compared=quiet, rendered=quiet), make_plan(short.study.spec, begun=True)
        target = tmp_path / "merge.safetensors"
        told = deliver(short.records, rows[2], plan, short.artifacts, target, overwrite=False, watch=watch)
    finally:
        style.write_bytes(before)
    assert "not the files with which the study began: the LoRAs that the prompts name" in told.difference
    assert target.exists()


def test_an_export_never_replaces_them(short: ShortStudy, rows: list[StoredTrial]) -> None:
    ink = next(lora for lora in short.runtime.plan.suite_loras.loras if lora.name == "ink")
    before = ink.path.read_bytes()
    watch = Watch(written=quiet, compared=quiet, rendered=quiet)
    with pytest.raises(ExportError, match="is the LoRA ink of the suite"):
        deliver(short.records, rows[2], short.runtime.plan, short.artifacts, ink.path, overwrite=True, watch=watch)
    assert ink.path.read_bytes() == before


def live_bits(short: ShortStudy) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in short.runtime.evaluator.resident.live_tensors().items()}


def test_the_merge_is_the_same_to_the_bit_after_its_renders(short: ShortStudy, rows: list[StoredTrial]) -> None:
    evaluator = short.runtime.evaluator
    merge(short, rows[3])
    before = live_bits(short)
    evaluator.evaluate(rows[3].recipe)
    evaluator.evaluate(rows[3].recipe, go_on=lambda *_: False)
    after = live_bits(short)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
def test_a_scorer_of_loras_scores_the_items_with_one_alone(tmp_path: Path) -> None:
    write_loras(tmp_path / "loras")
    clip = short_spec()["scorers"]["clip_score"]
    scorers = {
        "clip_score": clip,
        "lora_compatibility": clip,
        "ink": {"kind": "lora_compatibility", "lora": "ink", **clip},
    }
    study = begin(tmp_path, changes(scorers=scorers, objective={"lora_compatibility": None}))
    study.run(stop_after=2)
    for trial in stored_trials.load_trials(study.records):
        by_item, _ = stored_renders.load_scores(study.records, trial)
        of_words = by_item["clip_score"]
        for scorer, items in (("lora_compatibility", [0, 2, 3, 4]), ("ink", [3])):
            found = {item: value for item, value in enumerate(by_item[scorer]) if value == value}  # the others are NaN
            assert found == pytest.approx({item: of_words[item] for item in items}, abs=1e-4)  # in batches of their own
            assert trial_scores(study.records, trial).means[scorer] == pytest.approx(mean(found.values()))


# ------------------------------------------------------------------------------------------ how often


def counted(short: ShortStudy, **settings: Any) -> tuple[Renderer, list[tuple[tuple[Any, ...], bool]]]:
    """Return a renderer of the study's suite, and what was laid on top, each with whether values were computed."""
    asked: list[tuple[tuple[Any, ...], bool]] = []
    models = short.runtime.evaluator.renderer.models

    def lay_on_top(loras: Any, *components: Any) -> bool:
        computed = models.lay_on_top(loras, *components)
        asked.append(((loras, components), computed))
        return computed

    return Renderer(replace(models, lay_on_top=lay_on_top), short.study.spec.suite, **settings), asked


def unet_changes(asked: Sequence[tuple[tuple[Any, ...], bool]]) -> list[Any]:
    return [loras for (loras, components), computed in asked if computed and components == ("unet",)]


def test_each_set_is_baked_once_for_all_of_its_items(short: ShortStudy, rows: list[StoredTrial]) -> None:
    merge(short, rows[2])
    renderer, asked = counted(short, batch_size=1)
    images = renderer.render().images
    style, ink = ((0, 0.8),), ((1, 0.5),)
    assert unet_changes(asked) == [style, (), ink, ()]
    texts = [loras for (loras, components), computed in asked if computed and components != ("unet",)]
    assert texts == [style, ()]  # ink changes no text encoder
    asked.clear()
    again = renderer.render().images  # its texts are embedded already
    assert unet_changes(asked) == [style, (), ink, ()]
    assert len([each for each, computed in asked if computed]) == 4
    assert all(map(torch.equal, images, again))


@pytest.mark.slow
def test_a_set_is_baked_once_for_both_passes_where_components_take_turns(
    short: ShortStudy, rows: list[StoredTrial]
) -> None:
    merge(short, rows[2])
    renderer, asked = counted(short, batch_size=1)
    suite = renderer.suite.model_copy(update={"hires": HiresSettings(steps=1)})
    in_turns = Renderer(replace(renderer.models, in_turns=True), suite, batch_size=1)
    assert [image.shape for image in in_turns.render().images] == [(3, 128, 128)] * len(PROMPTS)
    assert unet_changes(asked) == [((0, 0.8),), (), ((1, 0.5),), ()]


@pytest.mark.slow
def test_a_stage_goes_on_with_the_set_of_the_one_before(short: ShortStudy, rows: list[StoredTrial]) -> None:
    merge(short, rows[2])
    whole = Renderer(short.runtime.evaluator.renderer.models, short.study.spec.suite, batch_size=1).render()
    renderer, asked = counted(short, batch_size=1, stage_size=2)
    sets = [
        dict.fromkeys(renderer._loras[item.index] for item in group) for stage in renderer._by_loras for group in stage
    ]
    staged = renderer.render()
    assert all(map(torch.equal, staged.images, whole.images))
    runs = [next(iter(each)) for each in sets]
    different = [one for one, before in zip(runs, [(), *runs], strict=False) if one != before]
    assert unet_changes(asked) == [*different, *([()] if runs[-1] else [])]


@pytest.mark.slow
def test_components_in_turns_render_the_same(short: ShortStudy, rows: list[StoredTrial], tmp_path: Path) -> None:
    from optimizer.merging.engine.resident import ResidentModel
    from optimizer.rendering.models import build_models, live_dtypes

    plan = short.runtime.plan
    resident = ResidentModel(
        plan.ingredients,
        device="cpu",
        live_dtypes=live_dtypes(torch.device("cpu"), torch.float32),
        in_turns=True,
        on_top=plan.suite_loras.loras,
    )
    models = build_models(resident, plan.prediction, loras=plan.suite_loras)
    renderer = Renderer(models, plan.spec.suite)
    for row in rows[1:3]:
        resident.merge(row.recipe)
        renderer.text_changed()
        with torch.inference_mode():
            images = renderer.render().images
        assert [pixels_digest(image) for image in images] == pixels(short, row)


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_scores(short: ShortStudy, rows: list[StoredTrial], tmp_path: Path) -> None:
    write_loras(tmp_path / "loras")
    killed = begin(tmp_path, changes())
    code = (
        "import sys; sys.path[:0] = sys.argv[2].split(':')\n"
        "from pathlib import Path; from demo_study import reopen\n"
        "import torch; torch.set_num_threads(int(sys.argv[3]))\n"
        "reopen(Path(sys.argv[1])).run()"
    )
    paths = f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), paths, str(torch.get_num_threads())])
    deadline = time.monotonic() + 120
    while len(stored_trials.load_trials(killed.records)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = sum(trial.state == "complete" for trial in stored_trials.load_trials(killed.records))
    if done < 4:
        reopen(tmp_path).run(stop_after=4 - done)
    again = stored_trials.load_trials(killed.records)[:4]
    assert [trial.objectives for trial in again] == [trial.objectives for trial in rows]
    assert [pixels(killed, trial) for trial in again] == [pixels(short, trial) for trial in rows]


@pytest.mark.slow
def test_a_study_that_is_opened_again_goes_on_to_the_same_scores(
    short: ShortStudy, rows: list[StoredTrial], tmp_path: Path
) -> None:
    write_loras(tmp_path / "loras")
    begin(tmp_path, changes()).run(stop_after=1)
    again = reopen(tmp_path)
    again.run(stop_after=1)
    done = stored_trials.load_trials(again.records)
    assert [pixels(again, trial) for trial in done] == [pixels(short, trial) for trial in rows[:2]]


@pytest.mark.slow
def test_the_final_has_them_too(tmp_path: Path) -> None:
    write_loras(tmp_path / "loras")
    final = {"top": 1, "prompts": ["a fox <lora:ink:2>"]}
    held = begin(tmp_path, changes({**SUITE, "prompts": ["a lion"]}, final=final))
    held.run(stop_after=3)
    seen: list[Tensor] = []

    def finished(_: StoredTrial, images: Sequence[Tensor]) -> None:
        seen.extend(images)

    progress = FinalProgress(started=lambda *_: None, rendered=quiet)
    hold_final(held.runtime, stored_trials.load_trials(held.records), list, progress, finished)
    plain = held.runtime.spec.held_out.model_dump() | {"prompts": [{"prompt": "a fox "}], "lora_folder": None}
    renderer = Renderer(held.runtime.evaluator.renderer.models, SuiteSettings.model_validate(plain))
    held.runtime.evaluator.resident.merge(stored_trials.load_trials(held.records)[0].recipe)
    assert not torch.equal(renderer.render().images[0], seen[0])


# ------------------------------------------------------------------------------------------ files


def by_path(folder: Path) -> dict[str, Any]:
    """Return a suite with one LoRA for all prompts."""
    suite = {"prompts": ["a lion", "a fox"], "seeds": [1], "sizes": [64], "steps": 1}
    return suite | {"loras": [{"path": str(folder / "ink.safetensors"), "strength": 0.8}]}


@pytest.mark.parametrize("named", [True, False])
def test_a_lora_that_changes_is_refused_and_one_that_is_not_used_may(tmp_path: Path, named: bool) -> None:
    folder = write_loras(tmp_path / "loras")
    suite = {**SUITE, "prompts": ["a lion <lora:ink>"]} if named else by_path(folder)
    spec = parse_spec(yaml.safe_dump(short_spec(**changes(suite))), base_dir=tmp_path)
    known = fingerprints(spec)
    assert (THE_NAMED_LORAS if named else title_of_suite_lora(1)) in known
    tensors = Checkpoint.open(DEMO / "animals.safetensors").tensors
    write_lora(folder / "sub" / "style.safetensors", tensors, seed=5)
    refuse_changed_files(known, spec)
    write_lora(folder / "ink.safetensors", tensors, (UNET,), seed=5)
    with pytest.raises(StudyChangedError, match="not the file the study began with"):
        refuse_changed_files(known, spec)


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_loras_that_have_moved_are_found_by_their_content(tmp_path: Path, named: bool) -> None:
    folder = write_loras(tmp_path / "loras")
    study = begin(tmp_path, changes(SUITE if named else by_path(folder))).study
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    if not named:
        (elsewhere / "ink.safetensors").rename(elsewhere / "renamed.safetensors")
    shutil.copy(elsewhere / "sub" / "style.safetensors", tmp_path / "ink.safetensors")  # of that name, and another
    with pytest.raises(MissingFileError, match="LoRA"):
        ModelFolders().locate(study)
    found = ModelFolders(folders=(tmp_path,), exclusive=False).locate(study).spec
    if named:
        assert found.suite.lora_folder == elsewhere
    else:
        assert [lora.path for lora in found.suite.loras] == [elsewhere / "renamed.safetensors"]
    refuse_changed_files(study.fingerprints, found)
    assert found.suite.digest == study.suite_digest
    make_plan(found, begun=True)


# ------------------------------------------------------------------------------------------ what a user is told


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    write_loras(tmp_path / "loras")
    return caller(monkeypatch, capsys, "study")


def spec_file(folder: Path, suite: Mapping[str, Any], **others: Any) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(short_spec(**changes({**SUITE, **suite}, **others))))
    return path


@pytest.mark.parametrize(
    ("suite", "problem"),
    [
        ({"prompts": ["a <lora:stile:0.8> lion"]}, "the LoRA 'stile' is not in"),
        ({"prompts": ["a <lora:stile:0.8> lion"]}, "did you mean 'style'?"),
        ({"prompts": ["a <lora:style:0.8> lion"], "lora_folder": None}, "give `lora_folder: FOLDER` under `suite`"),
        ({"prompts": ["a lion"], "lora_folder": "nowhere"}, "is no folder"),
        ({"prompts": ["a <lora:style:strong> lion"]}, "the strength 'strong' is no number"),
        ({"prompts": ["a <lora:style:80> lion"]}, "the LoRA style at 80 is far beyond"),
        ({"prompts": ["a <lora:style:1:lbw=MIDD> lion"]}, "has `lbw=`"),
        ({"prompts": ["a lion <lyco:style:1>"]}, "is a plain LoRA, write <lora:style:0.8>"),
        ({"prompts": ["a lion <hypernet:style:1>"]}, "a hypernet is not applied"),
        ({"prompts": ["a lion"], "negative": "<lora:style:1>"}, "not in the negative one"),
        ({"prompts": ["a <lora:style> lion"], "syntax": "comfyui", "lora_folder": None}, "ComfyUI has no such tag"),
        ({"prompts": ["a <lora:style> lion"], "syntax": "plain", "lora_folder": None}, "name the file under `loras`"),
        ({"prompts": ["a <lora:sdxl> lion"]}, "sdxl.safetensors is a LoRA for SDXL, the checkpoint is SD1.5"),
        ({"prompts": ["a <lora:sdxl> lion"]}, "a LoRA of the suite does not fit"),
        ({"prompts": ["a <lora:none> lion"]}, "a LoRA of the suite: none.safetensors is not a LoRA"),
        ({"prompts": ["a lion"], "loras": [{"path": "gone.safetensors"}]}, "a LoRA of the suite: no LoRA at"),
        (
            {"prompts": ["a lion <lora:ink:1>"], "loras": [{"path": "loras/ink.safetensors"}]},
            "'ink' is on top of a render twice",
        ),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_loaded(
    suite: dict[str, Any], problem: str, run: Call, tmp_path: Path
) -> None:
    wide = Checkpoint.open(write_checkpoint(tmp_path / "wide.safetensors", Architecture.SDXL, 0)).tensors
    write_lora(tmp_path / "loras" / "sdxl.safetensors", wide, (UNET,), kohya=True)
    shutil.copy(DEMO / "features.safetensors", tmp_path / "loras" / "none.safetensors")
    failed = run("check", spec_file(tmp_path, suite), code=2)
    assert problem in " ".join(failed.err.split())
    assert "Traceback" not in failed.err


def test_the_check_says_what_lies_on_top_and_what_is_part_of_the_merge(run: Call, tmp_path: Path) -> None:
    recipe = {"style": {"path": "loras/sub/style.safetensors", "weight": 0.3}}
    out = run("check", spec_file(tmp_path, {}, loras=recipe), "--prompts", code=0).out
    said = " ".join(out.replace("│", " ").split())
    assert "LoRAs in it style: part of the merge and of the export" in said
    assert "style, ink: of every trial and parent while it is rendered" in said
    assert "LoRAs on top: style at 0.8" in said
    assert "LoRAs on top: ink at 0.5 (text encoders 1)" in said
    assert "style.safetensors is part of the merge (`loras`) and lies on top of its renders as well" in said


def test_pictures_bring_their_loras(run: Call, tmp_path: Path) -> None:
    text = "a lion <lora:style:0.8>\nSteps: 4, Sampler: Euler a, CFG scale: 3, Seed: 1, Size: 64x64, RNG: CPU"
    (tmp_path / "picture.txt").write_text(text)
    prompts = [{"image": "picture.txt"}]
    refused = run("check", spec_file(tmp_path, {"prompts": prompts, "lora_folder": None}), code=2)
    assert "the LoRA 'style' is named in a prompt" in " ".join(refused.err.split())
    said = " ".join(run("check", spec_file(tmp_path, {"prompts": prompts}), "--prompts", code=0).out.split())
    assert "LoRAs on top: style at 0.8" in said


def test_a_device_of_its_own_needs_memory_for_the_factors(short: ShortStudy) -> None:
    plan: Plan = short.runtime.plan
    without = replace(plan, suite_loras=NO_LORAS)
    card = torch.device("cuda")
    more = estimate_plan_memory(plan, card).live - estimate_plan_memory(without, card).live
    modules = [module for lora in plan.suite_loras.loras for module in lora.modules.values()]
    assert more > sum(module.up.nbytes + module.down.nbytes for module in modules)
