"""Parents as people have them, not as one would like them: the plan says so, and the pictures are the right ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from demo_study import DEMO, short_spec
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.runtime.device_choice import choose_device
from optimizer.runtime.digest_cache import DigestCache
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import Plan, make_plan
from optimizer.runtime.setup import build_renderer
from studies.spec.study import parse_spec

UNET = "model.diffusion_model."


def planned(folder: Path, *parents: Path) -> Plan:
    spec = short_spec(parents=[str(parent) for parent in parents])
    return make_plan(parse_spec(yaml.safe_dump(spec), base_dir=folder))


def pictures(plan: Plan) -> tuple[Tensor, ...]:
    """Of the model as it is before any merge: parent A, completed by the others."""
    spec = plan.spec
    _, renderer = build_renderer(plan.ingredients, spec.suite, spec.render, choose_device("cpu"), spec.export.dtype)
    with torch.inference_mode():
        return renderer.render().images


def written(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    save_file(dict(tensors), path)
    return path


def test_a_bare_u_net_and_an_old_ckpt_render_as_the_checkpoint_put_together_by_hand(tmp_path: Path) -> None:
    animals, foods = (load_file(DEMO / f"{name}.safetensors") for name in ("animals", "foods"))
    bare = {key.removeprefix(UNET): row for key, row in animals.items() if key.startswith(UNET)}
    old = {key.replace(".transformer.text_model.", ".transformer."): row for key, row in foods.items()}
    torch.save({"state_dict": old, "global_step": 470000}, tmp_path / "foods.ckpt")
    plan = planned(tmp_path, written(tmp_path / "unet.safetensors", bare), tmp_path / "foods.ckpt")
    for words in ("A has no text_encoder: B's is taken", "A has no vae: B's is taken", "global_step", "text_model."):
        assert any(words in note for note in plan.notes), words

    by_hand = foods | {key: row for key, row in animals.items() if key.startswith(UNET)}
    expected = planned(tmp_path, written(tmp_path / "whole.safetensors", by_hand), DEMO / "foods.safetensors")
    for ours, theirs in zip(pictures(plan), pictures(expected), strict=True):
        assert torch.equal(ours, theirs)


def test_parents_are_hashed_once_whatever_kind_of_file_they_are(tmp_path: Path) -> None:
    torch.save(load_file(DEMO / "foods.safetensors"), tmp_path / "foods.ckpt")
    plan = planned(tmp_path, DEMO / "animals.safetensors", tmp_path / "foods.ckpt")
    read: list[int] = []
    digests = DigestCache(tmp_path / "sha256.json")
    files = hash_parents(plan, (), read.append, digests=digests)
    assert [file.bytes for file in files] == [checkpoint.path.stat().st_size for checkpoint in plan.checkpoints]
    assert sum(read) == sum(file.bytes for file in files)
    read.clear()
    for known in (digests, DigestCache(tmp_path / "sha256.json")):
        assert hash_parents(plan, files, read.append, digests=known) == files
    assert read == []


def test_a_parent_that_holds_code_is_refused_in_the_plan(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": {}, "x": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="holds executable code"):
        planned(tmp_path, DEMO / "animals.safetensors", tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


def test_weights_of_8_bits_are_told_with_the_dtype_that_keeps_small_changes(tmp_path: Path) -> None:
    tensors = load_file(DEMO / "animals.safetensors")
    small = {key: row.to(torch.float8_e4m3fn) if row.is_floating_point() else row for key, row in tensors.items()}
    path = written(tmp_path / "small.safetensors", small)
    (note,) = [note for note in planned(tmp_path, path, DEMO / "foods.safetensors").notes if "float8_e4m3fn" in note]
    assert "`export: {dtype: fp16}` keeps them" in note
    assert not any("float8" in note for note in planned(tmp_path, DEMO / "foods.safetensors", path).notes)
    spec = short_spec(parents=[str(path), str(DEMO / "foods.safetensors")], export={"dtype": "fp16"})
    plan = make_plan(parse_spec(yaml.safe_dump(spec), base_dir=tmp_path))
    assert not any("float8" in note for note in plan.notes)
