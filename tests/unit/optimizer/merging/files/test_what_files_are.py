"""What a file is instead of a checkpoint, a VAE or a plain LoRA is said by its name, and wrapped models are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import random_tensors, small_shapes, write_checkpoint
from command_line import caller, enter
from safetensors.torch import save_file
from slow_cases import first_fast
from torch import Tensor

from optimizer.errors import CheckpointError, LoraError
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.merging.files.vae import VaeFile
from optimizer.merging.lora.file import Lora

UNET = "model.diffusion_model."
TO_K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def written(path: Path, keys: tuple[str, ...]) -> Path:
    save_file({key: torch.ones(2, 2) for key in keys}, path)
    return path


# Keys as the programs write them that make such files.
OTHERS = [
    (("joint_blocks.0.x_block.attn.qkv.weight",), "an SD3 model"),
    ((f"{UNET}double_blocks.0.img_attn.qkv.weight", f"{UNET}single_blocks.0.linear1.weight"), "a Flux model"),
    (("double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer.in_proj.weight"), "a Chroma model"),
    (("double_blocks.0.img_attn.qkv.weight", "double_stream_modulation_img.lin.weight"), r"a Flux\.2 model"),
    (("layers.0.attention.qkv.weight", "noise_refiner.0.attention.qkv.weight"), "a Z-Image or Lumina model"),
    ((f"{UNET}noise_refiner.0.attention.qkv.weight",), "a Z-Image or Lumina model"),
    (("net.blocks.0.self_attn.q_proj.weight", "net.llm_adapter.blocks.0.norm.weight"), "an Anima model"),
    (("blocks.0.attn.qkv.weight", "txtfusion.proj.weight"), "a Krea 2 model"),
    (("transformer_blocks.0.img_mod.1.weight", "transformer_blocks.0.txt_mod.1.weight"), "a Qwen-Image model"),
    (
        ("model_ema.diffusion_modelinput_blocks00weight", "first_stage_model.decoder.conv_in.weight"),
        "only the EMA copy",
    ),
    (("control_model.zero_convs.0.0.weight", "control_model.input_blocks.0.0.weight"), "a ControlNet"),
    (("zero_convs.0.0.weight", "input_blocks.0.0.weight", "input_hint_block.0.weight"), "a ControlNet"),
    (("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"), "a ControlNet"),
    (("emb_params",), "an embedding"),
    (("clip_l", "clip_g"), "an embedding"),
    (("text_model.encoder.layers.0.mlp.fc1.weight",), "a text encoder only"),
    (("encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"), "a text encoder only"),
    (("model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"), "a text encoder only"),
    (("encoder.conv_in.weight", "decoder.mid.block_1.conv1.weight"), "a bare VAE"),
    (("vision_model.encoder.layers.0.mlp.fc1.weight",), "an image encoder"),
    (("ip_adapter.1.to_k_ip.weight", "image_proj.norm.weight"), "an IP-Adapter"),
    (("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight",), "a motion module"),
    (("conditioner.embedders.0.model.transformer.resblocks.0.ln_1.weight",), "an SDXL refiner"),
    (("lora_unet_x.hada_w1_a", "lora_unet_x.hada_w1_b"), "a LoRA"),
]


@pytest.mark.parametrize(("keys", "what"), OTHERS, ids=[f"{what}-{keys[0]}" for keys, what in OTHERS])
def test_a_file_of_another_kind_is_told_by_what_it_is(keys: tuple[str, ...], what: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"got {what}"):
        _ = Checkpoint.open(written(tmp_path / "x.safetensors", keys)).architecture


def test_a_controlnet_of_a_whole_encoder_is_no_checkpoint(tmp_path: Path) -> None:
    """Its encoder has the names and shapes of SD1.5's, so it was taken for one."""
    encoder = {
        key.removeprefix(UNET): row
        for key, row in random_tensors("sd15", 1).items()
        if key.startswith((f"{UNET}input_blocks.", f"{UNET}middle_block.", f"{UNET}time_embed."))
    }
    save_file(encoder | {"zero_convs.0.0.weight": torch.ones(2, 2)}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match="got a ControlNet"):
        _ = Checkpoint.open(tmp_path / "c.safetensors").architecture


def test_a_checkpoint_with_a_controlnet_beside_it_is_a_checkpoint(tmp_path: Path) -> None:
    save_file(
        random_tensors("sd15", 1) | {"control_model.zero_convs.0.0.weight": torch.ones(2)}, tmp_path / "c.safetensors"
    )
    assert Checkpoint.open(tmp_path / "c.safetensors").architecture == "sd15"


def test_a_file_without_a_vae_is_told_by_what_it_is(tmp_path: Path) -> None:
    file = written(tmp_path / "x.safetensors", ("text_model.encoder.layers.0.mlp.fc1.weight",))
    with pytest.raises(CheckpointError, match=r"holds no VAE \(it is a text encoder only\)"):
        VaeFile.open(file)


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda tensors: {"model": tensors}, "its tensors lie in 'model'"),
        (lambda tensors: {"module": tensors, "step": 7}, "its tensors lie in 'module'"),
        (
            lambda tensors: {"model_state_dict": tensors, "loss": torch.tensor(0.1)},
            "its tensors lie in 'model_state_dict'",
        ),
        (lambda tensors: {"whatever": {"state_dict": tensors}}, "its tensors lie in 'whatever'"),
        (
            lambda tensors: {
                "model": tensors,
                "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
            },
            "1 entry is ignored beside 'model': optimizer",
        ),
    ],
)
def test_a_wrapped_model_is_read_with_a_note(wrap: Any, note: str, tmp_path: Path) -> None:
    tensors = random_tensors("sd15", 1)
    torch.save(wrap(tensors), tmp_path / "a.pt")
    checkpoint = Checkpoint.open(tmp_path / "a.pt")
    assert checkpoint.architecture == "sd15"
    assert checkpoint.tensors.keys() == tensors.keys()
    assert note in checkpoint.notes


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}, "the state of an optimizer"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}}, "the state of an optimizer"),
        ({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": torch.ones(1, 768)}}, "an embedding"),
        ({"one": {"w": torch.ones(1)}, "two": {"w": torch.ones(1)}}, r"tensors in several entries \(one, two\)"),
    ],
)
def test_a_torch_file_without_a_model_is_told_by_what_it_holds(
    content: Mapping[str, Any], what: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=what):
        Checkpoint.open(tmp_path / "a.ckpt")


def lora_file(path: Path, modules: tuple[str, ...], extra: Mapping[str, Tensor] | None = None) -> Path:
    shapes = {TO_K: (32, 64), TEXT: (128, 64)}
    tensors = dict(extra or {})
    for module in modules:
        rows, columns = shapes[module]
        tensors[f"{module}.lora_up.weight"] = torch.randn(rows, 2)
        tensors[f"{module}.lora_down.weight"] = torch.randn(2, columns)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("lora_unet_mid_block_resnets_0_norm1.w_norm", "a LyCORIS with trained norms"),
        ("lora_unet_mid_block_resnets_0_norm1.b_norm", "a LyCORIS with trained norms"),
        (f"{TO_K}.dora_scale", "a DoRA"),
        (f"{TO_K}.hada_w1_a", "a LoHa"),
        (f"{TO_K}.lokr_w1", "a LoKr"),
        (f"{TO_K}.on_input", r"an \(IA\)\^3 adapter"),
        ("base_model.model.x.ia3_l", r"an \(IA\)\^3 adapter"),
        ("unet.x.vera_lambda_b", "a VeRA"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_told_by_its_kind(key: str, what: str, tmp_path: Path) -> None:
    file = lora_file(tmp_path / "l.safetensors", (TO_K,), {key: torch.ones(2)})
    with pytest.raises(LoraError, match=f"is {what}"):
        Lora.open(file)


@pytest.mark.parametrize(
    ("key", "what"), [("emb_params", "an embedding"), ("control_model.zero_convs.0.0.weight", "a ControlNet")]
)
def test_what_is_given_as_a_lora_and_is_none_is_told_by_what_it_is(key: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(LoraError, match=f"is {what}"):
        Lora.open(written(tmp_path / "l.safetensors", (key,)))


def test_a_u_net_alone_lacks_what_a_full_lora_changes(tmp_path: Path) -> None:
    unet = {key: row for key, row in random_tensors("sd15", 1).items() if key.startswith(UNET)}
    save_file(unet, tmp_path / "u.safetensors")
    parents = Parents.of([Checkpoint.open(tmp_path / "u.safetensors")])
    full = Lora.open(lora_file(tmp_path / "full.safetensors", (TO_K, TEXT)))
    with pytest.raises(LoraError, match="changes text_encoder in 1 of its 2 layers, and the checkpoint has none"):
        full.targets(parents.tensors, parents.architecture)
    alone = Lora.open(lora_file(tmp_path / "alone.safetensors", (TO_K,)))
    assert len(alone.targets(parents.tensors, parents.architecture)) == 1


SHIFT_JIS = "アニメ".encode("shift_jis")


@pytest.mark.parametrize(
    "name", first_fast(1, [SHIFT_JIS + b".safetensors", SHIFT_JIS + b".ckpt", "é".encode("latin-1") + b".sft"])
)
@pytest.mark.parametrize("command", ["inspect", "bake", "vae", "lora", "output"])
def test_a_name_that_is_not_utf_8_is_named_as_the_trouble(
    name: bytes, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter(tmp_path, monkeypatch)
    file = Path(os.fsdecode(name))
    write_checkpoint(Path("a.safetensors"))
    (lora_file if command == "lora" else lambda path, _: write_checkpoint(path))(Path("whole.safetensors"), (TO_K,))
    Path("whole.safetensors").rename(file)
    call = caller(monkeypatch, capsys)
    match command:
        case "inspect":
            outcome = call("inspect", file)
        case "bake":
            outcome = call("lora", "bake", file, "a.safetensors", "-o", "o.safetensors")
        case "vae":
            with pytest.raises(CheckpointError, match="not UTF-8"):
                VaeFile.open(file)
            return
        case "lora":
            outcome = call("lora", "bake", "a.safetensors", file, "-o", "o.safetensors")
        case _:
            target = Path(os.fsdecode(SHIFT_JIS + b"-merged.safetensors"))
            outcome = call("lora", "bake", "a.safetensors", "l.safetensors", "-o", target)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "this name is not UTF-8" in outcome.err
    assert not Path("o.safetensors").exists()


def test_every_key_of_a_real_checkpoint_is_no_other_kind_of_file(tmp_path: Path) -> None:
    for architecture in ("sd15", "sdxl"):
        save_file(
            {key: torch.zeros(shape) for key, shape in small_shapes(architecture).items()}, tmp_path / "a.safetensors"
        )
        assert Checkpoint.open(tmp_path / "a.safetensors").architecture == architecture
