"""Quantised weights are refused in every kind of file, told by their dtypes; plain 8-bit floats are numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from checkpoints import random_tensors
from command_line import caller, enter
from diffusers_pipelines import small_pipeline
from safetensors.torch import load_file, save_file
from slow_cases import first_fast
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.vae import VaeFile
from optimizer.merging.lora.file import Lora
from search_spaces.blocks import Architecture

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model."


def int8(key: str, weight: Tensor) -> dict[str, Tensor]:
    """bitsandbytes' LLM.int8: codes, and a scale of each row."""
    scales = weight.flatten(1).abs().amax(1)
    shape = (-1, *[1] * (weight.dim() - 1))
    return {key: (weight / scales.view(shape) * 127).round().to(torch.int8), f"{key.removesuffix('weight')}SCB": scales}


def int8_alone(key: str, weight: Tensor) -> dict[str, Tensor]:
    """Codes whose scales are called as no program that we know calls them."""
    codes = int8(key, weight)
    return {key: codes[key], f"{key.removesuffix('weight')}steps_of_rows": torch.ones(len(weight))}


def nf4(key: str, weight: Tensor) -> dict[str, Tensor]:
    """bitsandbytes' NF4: two codes in a byte, one row of all, and a code book."""
    return {
        key: torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8),
        f"{key}.absmax": torch.ones(weight.numel() // 64),
        f"{key}.quant_map": torch.linspace(-1, 1, 16),
        f"{key}.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
    }


def int4(key: str, weight: Tensor) -> dict[str, Tensor]:
    """GPTQ's: eight codes in an int32, under names of its own, and no weight."""
    stem = key.removesuffix("weight")
    rows = weight.flatten(1)
    packed = torch.zeros(len(rows), -(-rows.shape[1] // 8), dtype=torch.int32)
    return {f"{stem}codes": packed, f"{stem}ranges": torch.ones(len(rows), 1)}


def fp8(key: str, weight: Tensor) -> dict[str, Tensor]:
    """ComfyUI's scaled fp8."""
    stem = key.removesuffix("weight")
    return {key: weight.to(torch.float8_e4m3fn), f"{stem}scale_weight": torch.tensor(0.01)}


def fp8_inverse(key: str, weight: Tensor) -> dict[str, Tensor]:
    return {key: weight.to(torch.float8_e5m2), f"{key}.by_which_to_divide": torch.tensor(100.0)}


def packed_fp8(key: str, weight: Tensor) -> dict[str, Tensor]:
    """optimum-quanto's: names within the weight's."""
    return {f"{key}._data": weight.to(torch.float8_e4m3fn), f"{key}._scale": torch.tensor(0.01)}


def packed_fp8_of_layer(key: str, weight: Tensor) -> dict[str, Tensor]:
    """torchao's: names beside the weight's, which is not there."""
    stem = key.removesuffix("weight")
    codes = weight.to(torch.float8_e4m3fn)
    return {f"{stem}_weight_qdata": codes, f"{stem}_weight_scale": torch.ones(len(weight), 1)}


def packed_fp8_elsewhere(key: str, weight: Tensor) -> dict[str, Tensor]:
    """Codes and scales called as no program that we know calls them."""
    stem = key.removesuffix("weight")
    return {f"{key}.inner.codes": weight.to(torch.float8_e5m2), f"{stem}steps": torch.ones(len(weight))}


IN_PLACE = (int8, int8_alone, nf4, int4, fp8, fp8_inverse)
PACKED = (packed_fp8, packed_fp8_of_layer, packed_fp8_elsewhere)
FORMATS = pytest.mark.parametrize("quantise", [*IN_PLACE, *PACKED])


def quantised(
    tensors: Mapping[str, Tensor], prefix: str, quantise: Callable[[str, Tensor], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Quantise the attention's matrices below a prefix, as programs do."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        attention = ".attn" in key or "self_attn" in key
        is_matrix = key.startswith(prefix) and attention and key.endswith(".weight") and tensor.dim() in {2, 4}
        found |= quantise(key, tensor.float()) if is_matrix else {key: tensor}
    assert len(found) > len(tensors)
    return {key: tensor.contiguous() for key, tensor in found.items()}


@FORMATS
@pytest.mark.parametrize(
    ("suffix", "prefix"),
    [
        ("safetensors", UNET),
        *first_fast(0, [("safetensors", TEXT), ("ckpt", VAE), ("safetensors", VAE), ("ckpt", UNET), ("ckpt", TEXT)]),
    ],
)
def test_a_checkpoint_with_a_quantised_part_is_refused(
    quantise: Callable[[str, Tensor], dict[str, Tensor]], prefix: str, suffix: str, tmp_path: Path
) -> None:
    tensors = quantised(random_tensors("sd15", 1), prefix, quantise)
    path = tmp_path / f"b.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"b\..* is quantised"):
        Checkpoint.open(path)


@FORMATS
@pytest.mark.parametrize("prefix", ["", VAE])
def test_a_quantised_vae_is_refused(
    quantise: Callable[[str, Tensor], dict[str, Tensor]], prefix: str, tmp_path: Path
) -> None:
    whole = quantised(random_tensors("sd15", 1), VAE, quantise)
    vae = {prefix + key.removeprefix(VAE): row for key, row in whole.items() if key.startswith(VAE)}
    save_file(vae, tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=r"vae.safetensors is quantised"):
        VaeFile.open(tmp_path / "vae.safetensors")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with a U-Net and a text encoder; read only."""
    folder = tmp_path_factory.mktemp("pipeline")
    made = small_pipeline(Architecture.SD15, random_tensors("sd15", 1, torch.float32))
    made.unet.save_pretrained(folder / "unet")
    made.text_encoder.save_pretrained(folder / "text_encoder")
    index = '{"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"]}'
    (folder / "model_index.json").write_text(index)
    assert Checkpoint.open(folder).components == ("unet", "text_encoder")
    return folder


@FORMATS
@pytest.mark.parametrize("component", first_fast(1, ["unet", "text_encoder"]))
def test_a_folder_with_a_quantised_component_is_refused(
    quantise: Callable[[str, Tensor], dict[str, Tensor]], component: str, pipeline: Path, tmp_path: Path
) -> None:
    """Also where the scales have names that no checkpoint has a place for."""
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    (file,) = (tmp_path / component).glob("*.safetensors")
    save_file(quantised(load_file(file), "", quantise), file)
    with pytest.raises(CheckpointError, match=rf"{component} is quantised"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("quantise", IN_PLACE)  # the other names are no LoRA's
def test_a_quantised_lora_is_refused(quantise: Callable[[str, Tensor], dict[str, Tensor]], tmp_path: Path) -> None:
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{module}.lora_up.weight": torch.randn(32, 4), f"{module}.lora_down.weight": torch.randn(4, 64)}
    coded: dict[str, Tensor] = {f"{module}.alpha": torch.tensor(4)}
    for key, tensor in tensors.items():
        coded |= quantise(key, tensor)
    save_file(coded, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=r"lora.safetensors is quantised"):
        Lora.open(tmp_path / "lora.safetensors")


@pytest.mark.parametrize("name", ["{layer}.scale", "{layer}.weight._scale", "{layer}.output_scale", "{layer}.scales"])
@pytest.mark.parametrize("prefix", [UNET, TEXT, VAE])
def test_a_scale_beside_a_weight_of_full_width_is_refused(name: str, prefix: str, tmp_path: Path) -> None:
    tensors = random_tensors("sd15", 1)
    scales = {
        name.format(layer=key.removesuffix(".weight")): torch.tensor([0.125])
        for key, tensor in tensors.items()
        if key.startswith(prefix) and key.endswith(".weight") and tensor.dim() in {2, 4}
    }
    save_file(tensors | scales, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=rf"mean nothing without {len(scales)} scales"):
        Checkpoint.open(tmp_path / "a.safetensors")


def scales_apart(name: str, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """One scale for each matrix below a prefix; `name` may have its key, its layer, and the key without dots."""
    keys = [key for key, row in tensors.items() if key.startswith(prefix) and key[-7:] == ".weight" and row.dim() > 1]
    names = [
        name.format(
            key=key, layer=key.removesuffix(".weight"), flat=key.replace(".", "_"), rest=key.removeprefix(prefix)
        )
        for key in keys
    ]
    return {scale: torch.tensor([0.125]) for scale in names}


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float8_e4m3fn, "scale_weights.{key}"),
        (torch.float8_e5m2, "scale_weights.{layer}"),
        (torch.float8_e4m3fn, "fp8.scales.{flat}"),
        (torch.float8_e4m3fn, "scales.{flat}"),
        (torch.float8_e4m3fn, "amax.{key}"),
        (torch.float8_e4m3fn, "fp8_meta.{layer}.history"),
        (torch.float16, "scale_weights.{key}"),
        (torch.bfloat16, "quantised.scales.{layer}.value"),
    ],
)
@pytest.mark.parametrize("prefix", first_fast(1, [TEXT, UNET, VAE]))
def test_scales_below_a_prefix_of_their_own_are_refused(
    name: str, dtype: torch.dtype, prefix: str, tmp_path: Path
) -> None:
    tensors = random_tensors("sd15", 1)
    weights = {key: row.to(dtype) if row.is_floating_point() else row for key, row in tensors.items()}
    scales = scales_apart(name, tensors, prefix)
    save_file(weights | scales, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=rf"mean nothing without {len(scales)} scales"):
        Checkpoint.open(tmp_path / "a.safetensors")


@pytest.mark.parametrize("own", ["", VAE, "module.", "model."])
@pytest.mark.parametrize("apart", ["scale_weights.", "fp8.scales."])
def test_a_vae_file_with_scales_apart_is_refused_as_quantised(own: str, apart: str, tmp_path: Path) -> None:
    whole = {key: row for key, row in random_tensors("sd15", 1).items() if key.startswith(VAE)}
    vae = {own + key.removeprefix(VAE): row.to(torch.float8_e4m3fn) for key, row in whole.items()}
    save_file(vae | scales_apart(apart + "{key}", vae, ""), tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=r"vae.safetensors is quantised .* scales such as"):
        VaeFile.open(tmp_path / "vae.safetensors")


def test_a_folder_whose_text_encoder_has_scales_apart_is_refused(tmp_path: Path) -> None:
    """Tensors of unknown names in a text encoder are otherwise left out with a note."""
    pipeline = small_pipeline(Architecture.SD15, random_tensors("sd15", 1, torch.float32))
    pipeline.unet.save_pretrained(tmp_path / "unet")
    pipeline.text_encoder.save_pretrained(tmp_path / "text_encoder")
    index = '{"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"]}'
    (tmp_path / "model_index.json").write_text(index)
    (file,) = (tmp_path / "text_encoder").glob("*.safetensors")
    weights = {key: row.to(torch.float8_e4m3fn) for key, row in load_file(file).items()}
    save_file(weights | scales_apart("scale_weights.{key}", weights, ""), file)
    with pytest.raises(CheckpointError, match="text_encoder is quantised"):
        Checkpoint.open(tmp_path)


def test_a_copy_of_8_bit_weights_below_another_prefix_is_no_scale(tmp_path: Path) -> None:
    tensors = {key: row.to(torch.float8_e4m3fn) for key, row in random_tensors("sd15", 1).items() if key[:5] == "model"}
    copies = {f"backup.{key}": row.clone() for key, row in tensors.items()}
    save_file(tensors | copies, tmp_path / "a.safetensors")
    assert Checkpoint.open(tmp_path / "a.safetensors").architecture == "sd15"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16])
def test_names_of_ordinary_files_are_no_scales_and_no_codes(dtype: torch.dtype, tmp_path: Path) -> None:
    """Both encoders of SDXL with all their parameters, a VAE's loss, and scales of what no model has."""
    clip = "conditioner.embedders.1.model."
    extra = {
        f"{clip}logit_scale": torch.tensor(4.6),
        f"{clip}transformer.resblocks.0.attn.in_proj_scale": torch.ones(3),
        f"{VAE}loss.logvar": torch.ones(2),
        f"{VAE}loss.perceptual_loss.scaling_layer.scale": torch.ones(1, 3, 1, 1),
        f"{VAE}loss.perceptual_loss.scaling_layer.shift": torch.ones(1, 3, 1, 1),
    }
    if dtype == torch.float16:
        extra |= {"control.layer.weight": torch.ones(4, 4), "control.layer.scale": torch.ones(4)}
    tensors = random_tensors("sdxl", 1) | extra
    assert any(key.endswith("in_proj_weight") for key in tensors)
    stored = {key: row.to(dtype) if row.is_floating_point() else row for key, row in tensors.items()}
    save_file(stored, tmp_path / "a.safetensors")
    assert Checkpoint.open(tmp_path / "a.safetensors").tensors.keys() == tensors.keys()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_plain_8_bit_floats_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {key: row.to(dtype) if row.is_floating_point() else row for key, row in random_tensors("sd15", 1).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    assert Checkpoint.open(tmp_path / "a.safetensors").tensors.keys() == tensors.keys()
    assert len(VaeFile.open(tmp_path / "a.safetensors").tensors) == sum(key.startswith(VAE) for key in tensors)


def test_integers_that_are_no_weights_are_read(tmp_path: Path) -> None:
    """Positions, counts of steps, and whatever lies beside the models."""
    extra = {
        "global_steps": torch.arange(3),
        f"{VAE}loss.discriminator.main.3.num_batches_tracked": torch.tensor(7),
        f"{TEXT}transformer.text_model.mask": torch.ones(4, dtype=torch.bool),
        "model_ema.num_updates": torch.tensor(9),
    }
    save_file(random_tensors("sd15", 1) | extra, tmp_path / "a.safetensors")
    assert extra.keys() <= Checkpoint.open(tmp_path / "a.safetensors").tensors.keys()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.safetensors, and b.safetensors whose U-Net is int8; read only."""
    folder = tmp_path_factory.mktemp("models")
    save_file(random_tensors("sd15", 1), folder / "a.safetensors")
    save_file(quantised(random_tensors("sd15", 2), UNET, int8), folder / "b.safetensors")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ("merge", "half.yaml", "-o", "out.safetensors"),
        ("merge", "vae.yaml", "-o", "out.safetensors"),
        ("lora", "extract", "a.safetensors", "b.safetensors", "-o", "out.safetensors"),
        ("diff", "a.safetensors", "b.safetensors"),
        ("inspect", "b.safetensors"),
        ("study", "check", "spec.yaml"),
    ],
)
def test_every_command_refuses_it(
    arguments: tuple[str, ...],
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = enter(tmp_path, monkeypatch, models)
    quantised_vae = quantised(random_tensors("sd15", 3), VAE, nf4)
    save_file({key: row for key, row in quantised_vae.items() if key.startswith(VAE)}, folder / "b-vae.safetensors")
    (folder / "half.yaml").write_text("parents: [a.safetensors, b.safetensors]\nratio: 0.5\n")
    (folder / "vae.yaml").write_text(
        f"parents: [a.safetensors, {shutil.copy('a.safetensors', 'c.safetensors')}]\nratio: 0.5\n"
        "vae: b-vae.safetensors\n"
    )
    spec = "study: x\nparents: [a.safetensors, b.safetensors]\nsuite: {prompts: [a cat], sizes: [64], steps: 1}\n"
    (folder / "spec.yaml").write_text(f"{spec}scorers: {{sharpness: null}}\nrender: {{device: cpu}}\n")
    outcome = caller(monkeypatch, capsys)(*arguments)
    assert outcome.code == 2, outcome
    assert outcome.err.count("\n") == 1
    assert "is quantised" in outcome.err
    assert not (folder / "out.safetensors").exists()
