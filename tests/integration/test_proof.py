"""The proof of an export: its tensors decide, its renders are told about."""

from __future__ import annotations

import gc
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from demo_study import SMALL, ShortStudy, begin
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimizer.errors import ExportError
from optimizer.merging.engine.export import export_layout, write_merge
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.outcome.export import Delivery, Watch, deliver, render_file
from optimizer.outcome.proof import RenderComparison, different_tensors
from optimizer.runtime import fitting
from optimizer.runtime.machine import VARIATION_FIELD
from optimizer.trial.evaluation import pixels_digest
from studies.files.artifacts import RenderFile
from studies.records import stored_trials, tables
from studies.records.stored_renders import files_of, load_renders
from studies.records.values import StoredTrial

TESTS = Path(__file__).parents[1]
CPU = torch.device("cpu")
# No prompt of these studies has the token 0, `!`.
UNUSED = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


def quiet(_: int) -> None: ...


def delivered(
    short: ShortStudy,
    trial: StoredTrial,
    target: Path,
    compared: Callable[[int], None] = quiet,
    rendered: Callable[[int], None] = quiet,
) -> Delivery:
    return deliver(
        short.records,
        trial,
        short.runtime.plan,
        short.artifacts,
        target,
        overwrite=False,
        watch=Watch(written=quiet, compared=compared, rendered=rendered),
    )


def flip_a_bit(path: Path, key: str) -> None:
    """The lowest bit of a tensor's first element."""
    with path.open("r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        at = 8 + size + json.loads(file.read(size))[key]["data_offsets"][0]
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> ShortStudy:
    """Parents and two uniform merges; the parents' renders are stored."""
    short = begin(tmp_path_factory.mktemp("proof"), SMALL)
    short.run(stop_after=4)
    return short


@pytest.fixture
def rows(short: ShortStudy) -> list[StoredTrial]:
    return stored_trials.load_trials(short.records)


# ------------------------------------------------------------------------------------------ tensors


def test_a_file_with_one_altered_bit_is_refused_though_it_renders_the_same(
    short: ShortStudy, rows: list[StoredTrial], tmp_path: Path
) -> None:
    whole, folder = tmp_path / "whole.safetensors", tmp_path / "refused"
    delivered(short, rows[2], whole)
    right = render_file(whole, short.study)
    flip_a_bit(whole, UNUSED)
    altered = render_file(whole, short.study)
    assert all(torch.equal(one, other) for one, other in zip(right, altered, strict=True))

    folder.mkdir()

    def damage(_: int) -> None:
        if not damaged:
            (written,) = folder.glob(".merge.safetensors.*.part/merge.safetensors")
            flip_a_bit(written, UNUSED)
            damaged.append(written)

    damaged: list[Path] = []
    message = rf"not the merge in memory in 1 of {len(load_file(whole))} tensors \({UNUSED}\), so it was not kept"
    with pytest.raises(ExportError, match=message):
        delivered(short, rows[2], folder / "merge.safetensors", compared=damage)
    assert list(folder.iterdir()) == []


Alteration = Callable[[dict[str, Tensor]], None]


def _drop(tensors: dict[str, Tensor]) -> None:
    del tensors[UNUSED]


def _add(tensors: dict[str, Tensor]) -> None:
    tensors["more"] = torch.zeros(1)


def _widen(tensors: dict[str, Tensor]) -> None:
    tensors[UNUSED] = tensors[UNUSED].double()


def _lose_a_sign(tensors: dict[str, Tensor]) -> None:
    tensors[UNUSED][0, 0] = -0.0


@pytest.mark.parametrize(
    ("alter", "expected"), [(_drop, UNUSED), (_add, "more"), (_widen, UNUSED), (_lose_a_sign, UNUSED)]
)
def test_what_differs_is_named(
    alter: Alteration, expected: str, short: ShortStudy, rows: list[StoredTrial], tmp_path: Path
) -> None:
    resident, ingredients = short.runtime.evaluator.resident, short.runtime.plan.ingredients
    resident.merge(rows[2].recipe)
    live = resident.live_tensors()[UNUSED]
    live[0, 0] = 0.0  # so that there is a sign to lose
    write_merge(tmp_path / "merge", rows[2].recipe, ingredients, {}, CPU)
    tensors = load_file(tmp_path / "merge")
    tensors[UNUSED][0, 0] = 0.0
    layout = export_layout(ingredients, rows[2].recipe.dtype)

    def different() -> list[str]:
        save_file(tensors, tmp_path / "again.safetensors")
        return different_tensors(Checkpoint.open(tmp_path / "again.safetensors"), layout, resident, quiet)

    assert different() == []
    alter(tensors)
    assert different() == [expected]
    resident.merge(rows[0].recipe)  # the live values were touched behind its back: made anew


def test_one_model_is_held_at_a_time(short: ShortStudy, rows: list[StoredTrial], tmp_path: Path) -> None:
    def models() -> int:
        return sum(type(each) is ResidentModel for each in gc.get_objects())

    def look_once(_: int) -> None:  # there are hundreds of tensors, and the heap is large
        if not comparing:
            comparing.add(models())

    comparing: set[int] = set()
    rendering: set[int] = set()
    before = models()  # the study's own
    delivered(
        short,
        rows[2],
        tmp_path / "merge.safetensors",
        compared=look_once,
        rendered=lambda _: rendering.add(models()),
    )
    assert comparing == rendering == {before + 1}


# ------------------------------------------------------------------------------------------ renders


def forget_pixels(short: ShortStudy, trial: StoredTrial, item: int, digest: str = "0" * 64) -> None:
    which = (tables.renders.c.trial_id == trial.id) & (tables.renders.c.item == item)
    with short.database.write() as connection:
        connection.execute(tables.renders.update().where(which).values(pixels_sha256=digest))


@pytest.fixture
def other_pixels(short: ShortStudy, rows: list[StoredTrial]) -> StoredTrial:
    """A trial whose first render was, as its digest says, another than the file gives."""
    forget_pixels(short, rows[2], item=0)
    return rows[2]


def test_equal_tensors_and_other_pixels_on_the_same_machine_are_kept_with_words(
    short: ShortStudy, other_pixels: StoredTrial, tmp_path: Path
) -> None:
    target = tmp_path / "merge.safetensors"
    done = delivered(short, other_pixels, target)
    tensors = len(Checkpoint.open(target).tensors)
    assert done.proof == (
        f"all {tensors} tensors of the file are equal, to the bit, to the merge in memory: "
        "it is the model that was scored"
    )
    assert done.difference == (
        "1 of 2 renders of the file are not identical to those that were scored (by how much is unknown, as the scored "
        "images were not all stored); nothing is known to have changed: with little free memory libraries may compute "
        "in another order, but if this happens again, report it. The weights are the same, so the file is kept"
    )


def test_another_machine_is_named_by_what_it_has_differently(
    short: ShortStudy, other_pixels: StoredTrial, tmp_path: Path
) -> None:
    machine = dict(other_pixels.machine) | {"device": "NVIDIA H100", "cudnn": "92400"}
    done = delivered(short, replace(other_pixels, machine=machine), tmp_path / "merge.safetensors")
    assert "by another machine or in other batches (device NVIDIA H100, here cpu)." in done.difference


def test_a_machine_that_does_not_repeat_itself_is_told_as_one(
    short: ShortStudy, other_pixels: StoredTrial, tmp_path: Path
) -> None:
    machine = dict(other_pixels.machine) | {VARIATION_FIELD: "0.031"}
    done = delivered(short, replace(other_pixels, machine=machine), tmp_path / "merge.safetensors")
    assert (
        "this machine does not repeat itself: two renders of one item were 0.031 grey levels apart" in done.difference
    )


def test_renders_that_are_nearly_the_scored_ones_are_told_from_another_models(
    short: ShortStudy, rows: list[StoredTrial], tmp_path: Path
) -> None:
    parent = rows[0]
    files = short.artifacts.of_trial(short.study.key, parent.number, parent.worker_id)
    stored = files_of(load_renders(short.records, parent))[0]
    nearly = render_file(short.runtime.plan.checkpoints[0].path, short.study)[0].clone()
    nearly[0, 0, 0] ^= 1  # one grey level in one of 3 x 64 x 64 values
    files.save_renders([RenderFile(file=stored, pixels=nearly.numpy())])
    forget_pixels(short, parent, item=0, digest=pixels_digest(nearly))
    near = delivered(short, parent, tmp_path / "near.safetensors").difference
    assert (
        "1 of 2 renders of the file are not identical to those that were scored, and less than 0.01 of 255 grey levels"
        in near
    )
    assert "so they show the same model" in near

    other = replace(parent, recipe_text=rows[1].recipe_text)  # what was scored is parent A, what is written is B
    far = delivered(short, other, tmp_path / "far.safetensors").difference
    assert "2 of 2 renders of the file" in far
    assert "so they alone would not tell which model it is" in far


def test_the_bound_is_half_way_to_the_nearest_parent() -> None:
    assert RenderComparison(scored=2, different=1, distance=1.0, nearest=3.0).bound == 1.5
    assert RenderComparison(scored=2, different=1, distance=1.0).bound is None


def test_a_file_that_cannot_be_rendered_for_want_of_memory_is_kept(
    short: ShortStudy, rows: list[StoredTrial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [1 << 40]
    monkeypatch.setattr(fitting, "available_host_bytes", lambda: free[0])
    target = tmp_path / "merge.safetensors"

    def take_it_all(_: int) -> None:
        free[0] = 0

    done = delivered(short, rows[3], target, compared=take_it_all)
    assert done.proof.endswith("it is the model that was scored")
    assert done.difference.startswith("the memory here was too small to render the file")
    assert Checkpoint.open(target).sha256 == done.file.sha256


def test_a_file_whose_prompts_cannot_be_embedded_for_want_of_memory_is_kept(
    short: ShortStudy, rows: list[StoredTrial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("optimizer.rendering.prompts.encoder.PromptEncoder._encode", no_memory)
    target = tmp_path / "merge.safetensors"
    done = delivered(short, rows[3], target)
    assert done.difference.startswith("the memory here was too small to render the file")
    assert Checkpoint.open(target).sha256 == done.file.sha256


IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from dataclasses import replace
from demo_study import reopen
from optimizer.outcome.export import Watch, deliver
from studies.records.stored_trials import load_trials
def quiet(_): pass
short = reopen(Path(sys.argv[1]))
spec = short.study.spec
study = replace(short.study, spec=spec.model_copy(update={"render": spec.render.model_copy(update={"batch_size": 1})}))
records = replace(short.records, study=study)
trial = load_trials(short.records)[0]
watch = Watch(written=quiet, compared=quiet, rendered=quiet)
print(deliver(
    records, trial, short.runtime.plan, short.artifacts, Path(sys.argv[2]), overwrite=False, watch=watch
))
"""


def test_a_second_process_with_another_batch_size_proves_the_file(tmp_path: Path) -> None:
    whole = {"suite": SMALL["suite"] | {"steps": 4, "seeds": [1, 2, 3, 4, 5]}}
    short = begin(tmp_path, {**SMALL, **whole})
    short.run(stop_after=1)
    short.database.close()
    target = tmp_path / "merge.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path), str(target)],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Whether pixels differ, too, is up to the CPU: its libraries choose convolutions by the batch.
    assert "tensors of the file are equal, to the bit, to the merge in memory" in done.stdout
    assert target.exists()


def test_how_far_a_machine_is_from_repeating_itself_is_stored_with_its_trials(tmp_path: Path) -> None:
    short = begin(tmp_path, SMALL)
    replace(short, runtime=replace(short.runtime, variation=0.03125)).run(stop_after=1)
    short.run(stop_after=1)
    varied, same = stored_trials.load_trials(short.records)
    assert varied.machine[VARIATION_FIELD] == "0.031"
    assert dict(varied.machine) == {**same.machine, VARIATION_FIELD: "0.031"}
    short.database.close()
