"""LoRA files: every naming convention and layer kind against the formula in float64, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from checkpoints import small_shapes
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from layouts import read_layout
from safetensors.torch import save_file
from slow_cases import first_fast
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from basics.files import sha256_of
from optimizer.errors import CheckpointError, LoraError
from optimizer.families.registry import model_family
from optimizer.merging.files.sources import TensorInfo
from optimizer.merging.lora.file import Lora, delta
from optimizer.merging.lora.names import _names_of, targets_by_name, targets_of
from search_spaces.blocks import Architecture

SD15, SDXL = Architecture.SD15, Architecture.SDXL
BOTH = pytest.mark.parametrize("architecture", list(Architecture))
UNET = "model.diffusion_model."


def tensors_of(architecture: Architecture) -> dict[str, TensorInfo]:
    return {key: TensorInfo(torch.float16, shape) for key, shape in small_shapes(architecture.value).items()}


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def write(folder: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path = folder / "style.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


def kohya(module: str, up: Tensor, down: Tensor, alpha: float | None) -> dict[str, Tensor]:
    named = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}
    return named if alpha is None else named | {f"{module}.alpha": torch.tensor(alpha)}


def peft(module: str, up: Tensor, down: Tensor, alpha: float | None) -> dict[str, Tensor]:
    named = {f"{module}.lora_B.weight": up, f"{module}.lora_A.weight": down}
    return named if alpha is None else named | {f"{module}.alpha": torch.tensor(alpha)}


def peft_with_adapter(module: str, up: Tensor, down: Tensor, alpha: float | None) -> dict[str, Tensor]:
    return {key.replace(".weight", ".default.weight"): value for key, value in peft(module, up, down, alpha).items()}


def dotted(module: str, up: Tensor, down: Tensor, alpha: float | None) -> dict[str, Tensor]:
    named = {f"{module}.lora.up.weight": up, f"{module}.lora.down.weight": down}
    return named if alpha is None else named | {f"{module}.alpha": torch.tensor(alpha)}


def linear_layer(module: str, up: Tensor, down: Tensor, alpha: float | None) -> dict[str, Tensor]:
    return {key.replace(".lora.", ".lora_linear_layer."): row for key, row in dotted(module, up, down, alpha).items()}


def processor(module: str, up: Tensor, down: Tensor, alpha: float | None) -> dict[str, Tensor]:
    named = {f"{module}_lora.up.weight": up, f"{module}_lora.down.weight": down}
    return named if alpha is None else named | {f"{module}_lora.alpha": torch.tensor(alpha)}


Writer = Callable[[str, Tensor, Tensor, float | None], dict[str, Tensor]]

# (checkpoint, how the file is written, the module's name in it, key in the checkpoint)
CLIP_15 = "cond_stage_model.transformer.text_model.encoder.layers"
CLIP_XL = "conditioner.embedders.0.transformer.text_model.encoder.layers"
CONVENTIONS: tuple[tuple[Architecture, Writer, str, str], ...] = (
    (
        SD15,
        kohya,
        "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_k",
        f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
    ),
    (SD15, kohya, "lora_unet_mid_block_attentions_0_proj_in", f"{UNET}middle_block.1.proj_in.weight"),
    (SD15, kohya, "lora_unet_up_blocks_3_resnets_2_conv1", f"{UNET}output_blocks.11.0.in_layers.2.weight"),
    (SD15, kohya, "lora_unet_down_blocks_1_resnets_0_time_emb_proj", f"{UNET}input_blocks.4.0.emb_layers.1.weight"),
    (SD15, kohya, "lora_unet_down_blocks_0_downsamplers_0_conv", f"{UNET}input_blocks.3.0.op.weight"),
    (SD15, kohya, "lora_te_text_model_encoder_layers_1_self_attn_q_proj", f"{CLIP_15}.1.self_attn.q_proj.weight"),
    (SD15, kohya, "lora_te_text_model_encoder_layers_0_mlp_fc2", f"{CLIP_15}.0.mlp.fc2.weight"),
    (
        SDXL,
        kohya,
        "lora_unet_input_blocks_4_1_transformer_blocks_0_ff_net_0_proj",
        f"{UNET}input_blocks.4.1.transformer_blocks.0.ff.net.0.proj.weight",
    ),
    (SDXL, kohya, "lora_unet_input_blocks_7_0_skip_connection", f"{UNET}input_blocks.7.0.skip_connection.weight"),
    (
        SDXL,
        kohya,
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_ff_net_0_proj",
        f"{UNET}input_blocks.4.1.transformer_blocks.0.ff.net.0.proj.weight",
    ),
    (SDXL, kohya, "lora_te1_text_model_encoder_layers_0_mlp_fc1", f"{CLIP_XL}.0.mlp.fc1.weight"),
    (
        SDXL,
        kohya,
        "lora_te2_text_model_encoder_layers_1_mlp_fc1",
        "conditioner.embedders.1.model.transformer.resblocks.1.mlp.c_fc.weight",
    ),
    (
        SD15,
        peft,
        "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_out.0",
        f"{UNET}output_blocks.5.1.transformer_blocks.0.attn1.to_out.0.weight",
    ),
    (SD15, peft, "text_encoder.text_model.encoder.layers.1.mlp.fc1", f"{CLIP_15}.1.mlp.fc1.weight"),
    (SD15, peft, "text_encoder.encoder.layers.1.mlp.fc1", f"{CLIP_15}.1.mlp.fc1.weight"),
    (SDXL, peft, "text_encoder.text_model.encoder.layers.1.mlp.fc1", f"{CLIP_XL}.1.mlp.fc1.weight"),
    (
        SDXL,
        peft,
        "text_encoder_2.text_model.encoder.layers.0.self_attn.out_proj",
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.out_proj.weight",
    ),
    (
        SD15,
        peft_with_adapter,
        "base_model.model.down_blocks.2.attentions.0.transformer_blocks.0.attn1.to_v",
        f"{UNET}input_blocks.7.1.transformer_blocks.0.attn1.to_v.weight",
    ),
    (SD15, peft, "base_model.model.text_model.encoder.layers.0.mlp.fc1", f"{CLIP_15}.0.mlp.fc1.weight"),
    (SD15, dotted, "unet.conv_in", f"{UNET}input_blocks.0.0.weight"),
    (SD15, linear_layer, "text_encoder.text_model.encoder.layers.0.mlp.fc1", f"{CLIP_15}.0.mlp.fc1.weight"),
    (
        SD15,
        processor,
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q",
        f"{UNET}middle_block.1.transformer_blocks.0.attn1.to_q.weight",
    ),
    (
        SD15,
        processor,
        "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out",
        f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_out.0.weight",
    ),
    (
        SD15,
        processor,
        "text_encoder.text_model.encoder.layers.0.self_attn.to_v",
        f"{CLIP_15}.0.self_attn.v_proj.weight",
    ),
    (
        SD15,
        processor,
        "text_encoder.text_model.encoder.layers.1.self_attn.to_out",
        f"{CLIP_15}.1.self_attn.out_proj.weight",
    ),
    (SDXL, kohya, "diffusion_model.label_emb.0.0", f"{UNET}label_emb.0.0.weight"),
    (SD15, peft, "diffusion_model.mid_block.attentions.0.proj_in", f"{UNET}middle_block.1.proj_in.weight"),
    # OneTrainer's, from its convert_sd_lora.py, convert_sdxl_lora.py and convert_clip.py
    (SD15, kohya, "unet.output_blocks.11.0.in_layers.2", f"{UNET}output_blocks.11.0.in_layers.2.weight"),
    (
        SDXL,
        kohya,
        "unet.input_blocks.4.1.transformer_blocks.0.attn1.to_q",
        f"{UNET}input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
    ),
    *(
        (SD15, kohya, f"{prefix}text_model.encoder.layers.0.mlp.fc1", f"{CLIP_15}.0.mlp.fc1.weight")
        for prefix in ("clip_l.", "clip_l.transformer.", "text_encoders.clip_l.")
    ),
    (
        SDXL,
        kohya,
        "clip_g.text_model.encoder.layers.0.self_attn.out_proj",
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.out_proj.weight",
    ),
    (SD15, kohya, "lora_unet.mid_block.attentions.0.proj_out", f"{UNET}middle_block.1.proj_out.weight"),
    (SD15, kohya, "lora_te.text_model.encoder.layers.1.mlp.fc2", f"{CLIP_15}.1.mlp.fc2.weight"),
    # ComfyUI's, from its comfy/lora.py
    (
        SD15,
        kohya,
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
        f"{CLIP_15}.0.mlp.fc1.weight",
    ),
    (
        SDXL,
        peft,
        "text_encoders.clip_g.transformer.text_model.encoder.layers.1.mlp.fc2",
        "conditioner.embedders.1.model.transformer.resblocks.1.mlp.c_proj.weight",
    ),
    (SD15, kohya, "lora_prior_unet_middle_block_1_proj_in", f"{UNET}middle_block.1.proj_in.weight"),
    (
        SDXL,
        kohya,
        "lora_prior_te_text_model_encoder_layers_1_mlp_fc1",
        "conditioner.embedders.1.model.transformer.resblocks.1.mlp.c_fc.weight",
    ),
    (SD15, kohya, "lycoris_down_blocks_0_attentions_0_proj_in", f"{UNET}input_blocks.1.1.proj_in.weight"),
    (
        SD15,
        peft,
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out",
        f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_out.0.weight",
    ),
    # the checkpoint's own
    (SD15, kohya, "model.diffusion_model.middle_block.0.emb_layers.1", f"{UNET}middle_block.0.emb_layers.1.weight"),
    (SD15, peft, f"{CLIP_15}.0.self_attn.k_proj", f"{CLIP_15}.0.self_attn.k_proj.weight"),
    (SD15, peft, "transformer.mid_block.attentions.0.proj_in", f"{UNET}middle_block.1.proj_in.weight"),
)


@pytest.mark.parametrize("alpha", first_fast(1, [12.0, None, 1.0]))
@pytest.mark.parametrize(("architecture", "writer", "module", "key"), CONVENTIONS, ids=[row[2] for row in CONVENTIONS])
def test_every_convention_gives_the_change_that_the_formula_gives(
    device: torch.device,
    tmp_path: Path,
    architecture: Architecture,
    writer: Writer,
    module: str,
    key: str,
    alpha: float | None,
) -> None:
    """(alpha / rank) * up @ down in float64, with a convolution's kernel flattened."""
    rank = 3
    out, inputs, *kernel = small_shapes(architecture.value)[key]
    up, down = matrix(out, rank, *[1] * len(kernel)), matrix(rank, inputs, *kernel, seed=1)
    lora = Lora.open(write(tmp_path, writer(module, up.half(), down.half(), alpha))).to(device)
    targets = lora.targets(tensors_of(architecture), architecture)
    assert list(targets) == [key]
    got = delta(targets[key], (out, inputs, *kernel)).cpu()
    scale = 1.0 if alpha is None else alpha / rank
    wanted = (
        scale
        * (up.half().numpy().astype(float).reshape(out, rank))
        @ (down.half().numpy().astype(float).reshape(rank, -1))
    )
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), wanted.reshape(out, inputs, *kernel), rtol=1e-5, atol=1e-5)


def test_attention_of_the_second_text_encoder_goes_into_its_thirds(device: torch.device, tmp_path: Path) -> None:
    home = "lora_te2_text_model_encoder_layers_0_self_attn"
    key = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    out, width = small_shapes("sdxl")[key]
    rows = out // 3
    factors = {part: (matrix(rows, 2, seed=seed), matrix(2, width, seed=seed)) for seed, part in enumerate("qv")}
    named = {
        name: row for part, pair in factors.items() for name, row in kohya(f"{home}_{part}_proj", *pair, 6.0).items()
    }
    targets = Lora.open(write(tmp_path, named)).to(device).targets(tensors_of(SDXL), SDXL)
    got = delta(targets[key], (out, width)).cpu().double()
    for third, part in enumerate("qkv"):
        wanted = torch.zeros(rows, width).double()
        if part in factors:
            up, down = factors[part]
            wanted = 3.0 * up.double() @ down.double()
        torch.testing.assert_close(got[third * rows : (third + 1) * rows], wanted, rtol=1e-5, atol=1e-5)


def test_the_text_projection_is_stored_transposed(device: torch.device, tmp_path: Path) -> None:
    key = "conditioner.embedders.1.model.text_projection"
    width, out = small_shapes("sdxl")[key]
    up, down = matrix(out, 2), matrix(2, width, seed=3)
    lora = Lora.open(write(tmp_path, peft("text_encoder_2.text_projection", up, down, None))).to(device)
    got = delta(lora.targets(tensors_of(SDXL), SDXL)[key], (width, out))
    torch.testing.assert_close(got.cpu().double(), (up.double() @ down.double()).t(), rtol=1e-5, atol=1e-5)


def test_a_decomposed_convolution_is_three_convolutions_in_a_row(device: torch.device, tmp_path: Path) -> None:
    """1x1 into the rank, 3x3 within it, 1x1 out of it: applied to an image, they must do what their product does."""
    key = f"{UNET}input_blocks.1.0.in_layers.2.weight"
    shape = small_shapes("sd15")[key]
    up, mid, down = matrix(shape[0], 4, 1, 1), matrix(4, 4, 3, 3), matrix(4, shape[1], 1, 1)
    module = "lora_unet_down_blocks_0_resnets_0_conv1"
    named = kohya(module, up, down, 2.0) | {f"{module}.lora_mid.weight": mid}
    lora = Lora.open(write(tmp_path, named)).to(device)
    change = delta(lora.targets(tensors_of(SD15), SD15)[key], shape).cpu().double()
    image = matrix(1, shape[1], 9, 9, seed=7).double()
    inner = torch.conv2d(torch.conv2d(image, down.double()), mid.double(), padding=1)
    wanted = 0.5 * torch.conv2d(inner, up.double())
    torch.testing.assert_close(torch.conv2d(image, change, padding=1), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"unet.lora_alpha": 8, "unet.r": 4}, 2.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"conv_in": 2.0}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4.0),
        ({"text_encoder.lora_alpha": 8}, 1.0),
    ],
)
def test_alpha_is_read_from_the_adapter_configuration_where_diffusers_keeps_it(
    tmp_path: Path, settings: Mapping[str, object], scale: float
) -> None:
    shape = small_shapes("sd15")[f"{UNET}input_blocks.0.0.weight"]
    up, down = matrix(shape[0], 4, 1, 1), matrix(4, *shape[1:])
    path = write(tmp_path, peft("unet.conv_in", up, down, None), {"lora_adapter_metadata": json.dumps(settings)})
    ((_, parts),) = Lora.open(path).targets(tensors_of(SD15), SD15).items()
    wanted = scale * (up.flatten(1) @ down.flatten(1)).view(shape)
    torch.testing.assert_close(delta(parts, shape), wanted, rtol=1e-5, atol=1e-5)


@given(rank=st.integers(1, 9), seed=st.integers(0, 99), weight=st.floats(-2, 2, width=16))
def test_the_change_is_linear_in_the_factors(rank: int, seed: int, weight: float) -> None:
    """A LoRA whose ranks are cut in two gives two LoRAs whose changes add up to its own."""
    info = {f"{UNET}input_blocks.0.0.weight": TensorInfo(torch.float32, (8, 4, 3, 3))}
    up, down = matrix(8, 2 * rank, seed=seed) * weight, matrix(2 * rank, 4, 3, 3, seed=seed)

    def change(part: slice) -> Tensor:
        with TemporaryDirectory() as folder:
            lora = Lora.open(write(Path(folder), peft("unet.conv_in", up[:, part], down[part], None)))
            ((key, parts),) = lora.targets(info, SD15).items()
            return delta(parts, info[key].shape)

    whole = change(slice(None))
    torch.testing.assert_close(change(slice(rank)) + change(slice(rank, None)), whole, rtol=1e-4, atol=1e-4)


@BOTH
def test_the_layers_are_those_of_the_full_size_models_and_no_name_means_two(architecture: Architecture) -> None:
    shapes = {row.key: row.shape for row in read_layout(architecture.value)}
    with torch.device("meta"):
        models: dict[str, nn.Module] = {
            "unet": UNet2DConditionModel(**model_family(architecture).unet_config(shapes)),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(**model_family(architecture).text_configs(shapes)["text_encoder"])
            ),
        }
        if architecture == SDXL:
            models["text_encoder_2"] = CLIPTextModelWithProjection(
                CLIPTextConfig(**model_family(Architecture.SDXL).text_configs(shapes)["text_encoder_2"])
            )
    wanted = {
        (component, name.removeprefix("text_model.")): tuple(module.weight.shape)
        for component, model in models.items()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    tensors = {key: TensorInfo(torch.float16, shape) for key, shape in shapes.items()}
    layers = [target for key, info in tensors.items() for target in targets_of(key, info, architecture)]
    assert {(layer.view.component, layer.module.removeprefix("text_model.")): layer.shape for layer in layers} == wanted
    names = [name for layer in layers for name in set(_names_of(layer, architecture))]
    assert len(names) == len(set(names)) == len(targets_by_name(tensors, architecture))


def test_a_file_is_known_by_name_content_and_places(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        kohya("lora_unet_mid_block_attentions_0_proj_in", matrix(128, 2), matrix(2, 128), 2.0)
        | kohya("lora_te_text_model_encoder_layers_0_mlp_fc1", matrix(128, 2), matrix(2, 64), 2.0),
        {"ss_base_model_version": "sd_v1"},
    )
    lora = Lora.open(path)
    assert (lora.name, lora.sha256, lora.metadata) == ("style", sha256_of(path), {"ss_base_model_version": "sd_v1"})
    assert lora.places(tensors_of(SD15), SD15) == ("text_encoder", "M00")
    moved = lora.to("cpu")
    assert moved.sha256 == lora.sha256
    assert {factors.up.dtype for factors in moved.modules.values()} == {torch.float32}


class TestRefused:
    """Whatever cannot be applied whole is refused in one line that says what it is."""

    GOOD = kohya("lora_unet_mid_block_attentions_0_proj_in", matrix(128, 2), matrix(2, 128), 2.0)

    @pytest.mark.parametrize(
        ("extra", "words"),
        [
            ({"lora_unet_x.dora_scale": matrix(4, 1)}, "a DoRA"),
            ({"unet.x.lora_magnitude_vector": matrix(4)}, "a DoRA"),
            ({"lora_unet_x.hada_w1_a": matrix(4, 4)}, "a LoHa"),
            ({"lora_unet_x.lokr_w1": matrix(4, 4)}, "a LoKr"),
            ({"lora_unet_x.diff": matrix(4, 4)}, "full differences"),
            ({"lora_unet_x.diff_b": matrix(4)}, "full differences"),
            ({"lora_unet_x.oft_blocks": matrix(4, 4)}, "an OFT"),
            ({"lora_unet_x.a1.weight": matrix(4, 4)}, "a GLoRA"),
            ({"lora_unet_x.on_input": torch.ones(1)}, "an (IA)^3"),
            ({"bundle_emb.me.string_to_param.*": matrix(2, 4)}, "bundled embeddings"),
            ({"unet.x.lora_B.bias": matrix(4)}, "biases"),
            ({"model.diffusion_model.out.2.weight": matrix(4, 4)}, "a checkpoint"),
            ({"input_blocks.0.0.weight": matrix(4, 4, 3, 3)}, "is a U-Net"),
            ({"something.else": matrix(4)}, "something.else does not belong to one"),
        ],
    )
    def test_other_kinds_are_named(self, tmp_path: Path, extra: Mapping[str, Tensor], words: str) -> None:
        with pytest.raises(LoraError) as caught:
            Lora.open(write(tmp_path, {**self.GOOD, **extra}))
        assert words in str(caught.value)
        assert "style.safetensors" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_what_is_no_file_or_no_safetensors(self, tmp_path: Path) -> None:
        with pytest.raises(LoraError, match="no LoRA at"):
            Lora.open(tmp_path / "none.safetensors")
        with pytest.raises(LoraError, match="no LoRA at"):
            Lora.open(tmp_path)
        (tmp_path / "text.safetensors").write_text("hello")
        with pytest.raises(CheckpointError, match=r"not a \.safetensors file"):
            Lora.open(tmp_path / "text.safetensors")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda named: named.pop("m.lora_up.weight"), "lacks a factor of 1 layer \\(m\\)"),
            (lambda named: named.update({"m.lora_up.weight": matrix(4, 3)}), "4x3 and 2x4 do not make a layer"),
            (lambda named: named.update({"m.lora_up.weight": matrix(4, 2, 3, 3)}), "do not make a layer"),
            (lambda named: named.update({"m.lora_mid.weight": matrix(3, 2, 3, 3)}), "do not make a layer"),
            (lambda named: named.update({"m.lora_down.weight": torch.full((2, 4), torch.nan)}), "not finite numbers"),
            (lambda named: named.update({"m.alpha": torch.tensor(torch.inf)}), "not finite numbers"),
            (lambda named: named.update({"m.alpha": torch.ones(2)}), "not finite numbers"),
            (
                lambda named: named.update({"m.lora_up.weight": torch.ones(4, 2, dtype=torch.int8)}),
                "int8 codes instead of weights",
            ),
            (lambda named: named.update({"m.lora.up.weight": matrix(4, 2)}), "'up' of m twice"),
            (lambda named: named.clear(), "no tensors"),
        ],
    )
    def test_broken_files(self, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], words: str) -> None:
        named = kohya("m", matrix(4, 2), matrix(2, 4), 1.0)
        change(named)
        with pytest.raises(LoraError, match=words):
            Lora.open(write(tmp_path, named))

    def test_names_that_mean_nothing_are_counted_and_shown(self, tmp_path: Path) -> None:
        named = dict(self.GOOD)
        for number in range(5):
            named |= kohya(f"lora_unet_strange_{number}", matrix(4, 2), matrix(2, 4), 1.0)
        lora = Lora.open(write(tmp_path, named))
        with pytest.raises(LoraError, match="5 of its 6 layers are not in the checkpoint") as caught:
            lora.targets(tensors_of(SD15), SD15)
        assert [f"lora_unet_strange_{number}" in str(caught.value) for number in range(4)] == [True, True, True, False]

    @pytest.mark.parametrize("module", ["denoiser.block{}.attn", "net_{}", "unet_down{}_q"])
    def test_names_of_no_known_program_are_not_blamed_on_the_lora(self, tmp_path: Path, module: str) -> None:
        named: dict[str, Tensor] = {}
        for number in range(4):
            named |= kohya(module.format(number), matrix(128, 2), matrix(2, 128), 1.0)
        with pytest.raises(LoraError, match="the names of 4 of its 4 layers are not understood") as caught:
            Lora.open(write(tmp_path, named)).targets(tensors_of(SD15), SD15)
        assert [module.format(number) in str(caught.value) for number in range(4)] == [True, True, True, False]
        assert "made for this model" not in str(caught.value)

    @pytest.mark.parametrize(
        ("lacking", "module"),
        [
            ("text_encoder", "lora_te_text_model_encoder_layers_0_mlp_fc1"),
            ("text_encoder", "clip_l.text_model.encoder.layers.0.mlp.fc1"),
            ("unet", "unet.mid_block.attentions.0.proj_in"),
        ],
    )
    def test_a_component_that_the_checkpoint_lacks_is_named(self, tmp_path: Path, lacking: str, module: str) -> None:
        prefix = UNET if lacking == "unet" else "cond_stage_model."
        tensors = {key: info for key, info in tensors_of(SD15).items() if not key.startswith(prefix)}
        named = kohya(module, matrix(128, 2), matrix(2, 64), 1.0)
        with pytest.raises(LoraError, match=f"changes {lacking} in 1 of its 1 layers, and the checkpoint has none"):
            Lora.open(write(tmp_path, named)).targets(tensors, SD15)

    def test_a_layer_under_two_names(self, tmp_path: Path) -> None:
        named = self.GOOD | peft("unet.mid_block.attentions.0.proj_in", matrix(128, 2), matrix(2, 128), None)
        with pytest.raises(LoraError, match=r"mid_block\.attentions\.0\.proj_in twice"):
            Lora.open(write(tmp_path, named)).targets(tensors_of(SD15), SD15)

    def test_embeddings_and_norms_are_no_layers(self, tmp_path: Path) -> None:
        named = peft("text_encoder.text_model.embeddings.token_embedding", matrix(49408, 1), matrix(1, 64), None)
        with pytest.raises(LoraError, match="not in the checkpoint"):
            Lora.open(write(tmp_path, named)).targets(tensors_of(SD15), SD15)

    @pytest.mark.parametrize(
        ("module", "width", "metadata", "target", "words"),
        [
            ("lora_te2_text_model_encoder_layers_0_mlp_fc1", 64, {}, SD15, "a LoRA for SDXL, the checkpoint is SD1.5"),
            (
                "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
                2048,
                {},
                SD15,
                "a LoRA for SDXL, the checkpoint is SD1.5",
            ),
            (
                "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
                768,
                {},
                SDXL,
                "a LoRA for SD1.5, the checkpoint is SDXL",
            ),
            (
                "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
                1024,
                {},
                SDXL,
                "a LoRA for SD2, the checkpoint is SDXL",
            ),
            ("lora_unet_double_blocks_0_img_attn_qkv", 64, {}, SDXL, "a LoRA for Flux, the checkpoint is SDXL"),
            ("transformer.transformer_blocks.0.attn.to_q", 64, {}, SDXL, "a LoRA for a diffusion transformer, the"),
            ("lora_prior_unet_down_blocks_0_1_attention_to_q", 64, {}, SDXL, "a LoRA for Stable Cascade, the"),
            ("clip_g.text_model.encoder.layers.0.mlp.fc1", 64, {}, SD15, "a LoRA for SDXL, the checkpoint is SD1.5"),
            (
                "lora_te_text_model_encoder_layers_0_mlp_fc1",
                64,
                {"ss_base_model_version": "sd_v1"},
                SDXL,
                "a LoRA for SD1.5, the checkpoint is SDXL",
            ),
            (
                "unet.mid_block.attentions.0.proj_in",
                7,
                {"modelspec.architecture": "stable-diffusion-v1/lora"},
                SD15,
                "does not fit this SD1.5 checkpoint: 1 of its 1 layers have another shape",
            ),
        ],
    )
    def test_another_family_is_named(
        self,
        tmp_path: Path,
        module: str,
        width: int,
        metadata: dict[str, str],
        target: Architecture,
        words: str,
    ) -> None:
        writer = peft if module.startswith("unet.") else kohya
        lora = Lora.open(write(tmp_path, writer(module, matrix(128, 2), matrix(2, width), None), metadata))
        with pytest.raises(LoraError, match=words):
            lora.targets(tensors_of(target), target)
