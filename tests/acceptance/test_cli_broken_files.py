"""A study's check and its start refuse the same broken files, with the same line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import random_tensors
from command_line import caller, enter
from safetensors.torch import load_file, save_file

VAE = "first_stage_model."
OWN = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
MODULE = "lora_unet_mid_block_attentions_0_proj_in"
SPEC = """
study: x
parents: [a.safetensors, b.safetensors]
suite: {prompts: [a cat], sizes: [64], steps: 1}
scorers: {sharpness: null}
render: {device: cpu}
budget: {trials: 4}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parents, a VAE and a LoRA, all sound; read only."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        save_file(random_tensors("sd15", seed), folder / f"{name}.safetensors")
    vae = {key: row for key, row in random_tensors("sd15", 3).items() if key.startswith(VAE)}
    save_file(vae, folder / "vae.safetensors")
    factors = {f"{MODULE}.lora_up.weight": torch.ones(128, 2), f"{MODULE}.lora_down.weight": torch.ones(2, 128)}
    save_file(factors, folder / "lora.safetensors")
    return folder


def write_changed(folder: Path, file: str, change: Callable[[dict[str, torch.Tensor]], object], more: str = "") -> None:
    """Write the study's spec, and one of its files with changed tensors in place of the link to it."""
    (folder / "spec.yaml").write_text(SPEC + more)
    path = folder / f"{file}.safetensors"
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path)


def first(prefix: str) -> Callable[[dict[str, torch.Tensor]], str]:
    return lambda tensors: next(key for key in tensors if key.startswith(prefix))


CASES = pytest.mark.parametrize(
    ("more", "file", "chosen", "value", "words"),
    [
        ("", "a", first("model.diffusion_model.middle"), math.nan, "parent A"),
        ("", "b", first(OWN), -math.inf, "parent B"),
        ("", "b", first(f"{VAE}decoder"), math.inf, "parent B"),
        ("vae: vae.safetensors\n", "vae", first(f"{VAE}decoder"), math.nan, "the VAE"),
        ("loras: {style: {path: lora.safetensors}}\n", "lora", first(MODULE), math.nan, "not finite numbers"),
    ],
    ids=["U-Net", "text encoder", "a parent's VAE", "VAE", "LoRA"],
)


@CASES
def test_check_start_and_registration_refuse_a_broken_file_alike(
    more: str,
    file: str,
    chosen: Callable[[dict[str, torch.Tensor]], str],
    value: float,
    words: str,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = enter(tmp_path, monkeypatch, models)
    write_changed(folder, file, lambda tensors: tensors[chosen(tensors)].view(-1)[-1:].fill_(value), more)
    call = caller(monkeypatch, capsys)
    outcomes = [
        call("study", *command, "--storage", "sqlite:///s.db")
        for command in (("check", "spec.yaml"), ("start", "spec.yaml"), ("start", "spec.yaml", "--detach"))
    ]
    assert {outcome.code for outcome in outcomes} == {2}, outcomes
    assert len({outcome.err for outcome in outcomes}) == 1, outcomes
    assert words in outcomes[0].err
    assert outcomes[0].err.count("\n") == 1


def test_what_no_model_reads_may_be_broken(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = enter(tmp_path, monkeypatch, models)
    write_changed(folder, "b", lambda tensors: tensors.update(log_one_minus_alphas_cumprod=torch.full((3,), -math.inf)))
    assert caller(monkeypatch, capsys)("study", "check", "spec.yaml").code == 0
