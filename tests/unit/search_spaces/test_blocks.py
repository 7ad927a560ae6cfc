"""The block map: total, and the same as counting the keys by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import read_layout

from search_spaces.blocks import (
    EMA,
    OTHER,
    Architecture,
    blocks,
    place_of,
    places,
    section_of,
    sections,
    text_encoders,
)
from search_spaces.errors import SpaceError, UnknownArchitectureError, UnknownBlockError
from search_spaces.recognition import architecture_of

SD15, SDXL = Architecture.SD15, Architecture.SDXL

# Counted with awk over the layout lists, by the words between the dots. IN00 has 4 tensors of time_embed (and
# SDXL 4 of label_emb), the last OUT block has 4 of the head `out.`.
_SD15_IN = (2 + 4, 36, 36, 2, 38, 36, 2, 38, 36, 2, 10, 10)
_SD15_OUT = (12, 12, 14, 38, 38, 40, 38, 38, 40, 38, 38, 38 + 4)
_SDXL_IN = (2 + 4 + 4, 10, 10, 2, 58, 56, 2, 218, 216)
_SDXL_OUT = (218, 218, 220, 58, 58, 60, 12, 12, 12 + 4)
TENSORS_PER_PLACE = {
    SD15: {
        "text_encoder": 197,
        **{f"IN{number:02d}": count for number, count in enumerate(_SD15_IN)},
        "M00": 46,
        **{f"OUT{number:02d}": count for number, count in enumerate(_SD15_OUT)},
        "vae": 248,
    },
    SDXL: {
        "text_encoder": 197,
        "text_encoder_2": 390,
        **{f"IN{number:02d}": count for number, count in enumerate(_SDXL_IN)},
        "M00": 226,
        **{f"OUT{number:02d}": count for number, count in enumerate(_SDXL_OUT)},
        "vae": 248,
    },
}

every_architecture = pytest.mark.parametrize("architecture", Architecture)


@every_architecture
def test_each_place_has_as_many_tensors_as_counted_by_hand(architecture: Architecture) -> None:
    counted = Counter(place_of(row.key, architecture) for row in read_layout(architecture))
    assert counted == TENSORS_PER_PLACE[architecture]


@every_architecture
def test_places_are_listed_as_the_signal_passes_them(architecture: Architecture) -> None:
    assert places(architecture) == tuple(TENSORS_PER_PLACE[architecture])


@every_architecture
def test_places_are_text_encoders_then_blocks_then_vae(architecture: Architecture) -> None:
    assert places(architecture) == (*text_encoders(architecture), *blocks(architecture), "vae")


_words = st.sampled_from(
    (
        *("model", "diffusion_model", "input_blocks", "output_blocks", "middle_block", "out", "time_embed"),
        *(
            "cond_stage_model",
            "conditioner",
            "embedders",
            "first_stage_model",
            "model_ema",
            "0",
            "8",
            "12",
            "٣",
        ),
    ),
)


@every_architecture
@given(key=st.one_of(st.text(), st.lists(_words, max_size=5).map(".".join)))
def test_every_string_has_exactly_one_place(architecture: Architecture, key: str) -> None:
    assert place_of(key, architecture) in {*places(architecture), OTHER, EMA}


@every_architecture
@pytest.mark.parametrize(
    "key",
    [
        "betas",
        "alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "v_pred",
        "ztsnr",
        "edm_vpred.sigma_max",
        "edm_mean",
        "",
        "model.diffusion_model.",
        "model.diffusion_model.outer.weight",
        "model.diffusion_model.input_blocks.weight",
        "model.diffusion_model.input_blocks.00.0.weight",
        "model.diffusion_model.input_blocks.12.0.weight",
        "model.diffusion_model.output_blocks.123.0.weight",
        "model.diffusion_model.output_blocks." + "9" * 5000 + ".weight",
        "xmodel.diffusion_model.out.0.weight",
    ],
)
def test_buffers_markers_and_unknown_keys_are_kept_from_a(architecture: Architecture, key: str) -> None:
    assert place_of(key, architecture) == OTHER


def test_blocks_that_only_sd15_has_are_unknown_to_sdxl() -> None:
    key = "model.diffusion_model.input_blocks.9.0.op.weight"
    assert place_of(key, SD15) == "IN09"
    assert place_of(key, SDXL) == OTHER


def test_label_emb_is_unknown_to_sd15() -> None:
    assert place_of("model.diffusion_model.label_emb.0.0.weight", SD15) == OTHER


@every_architecture
@pytest.mark.parametrize("key", ["model_ema.decay", "model_ema.diffusion_modeloutput_blocks00weight"])
def test_ema_copies_are_a_place_of_their_own(architecture: Architecture, key: str) -> None:
    assert place_of(key, architecture) == EMA


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("conditioner.embedders.1.model.logit_scale", "text_encoder_2"),
        ("conditioner.embedders.1.model.text_projection", "text_encoder_2"),
        ("conditioner.embedders.1.model.positional_embedding", "text_encoder_2"),
        ("model.diffusion_model.label_emb.0.2.bias", "IN00"),
        ("model.diffusion_model.time_embed.0.weight", "IN00"),
        ("model.diffusion_model.out.2.weight", "OUT08"),
    ],
)
def test_tensors_that_other_tools_forget_have_a_place(key: str, place: str) -> None:
    assert place_of(key, SDXL) == place


@every_architecture
def test_every_block_is_in_one_section_and_sections_follow_depth(architecture: Architecture) -> None:
    found = [section_of(block) for block in blocks(architecture)]
    assert tuple(dict.fromkeys(found)) == sections(architecture) == ("IN", "MID", "OUT")
    assert found == sorted(found, key=sections(architecture).index)
    assert found.count("MID") == 1


@pytest.mark.parametrize("name", ["vae", "text_encoder", "IN", "in00", "OUT000", ""])
def test_only_blocks_have_a_section(name: str) -> None:
    with pytest.raises(UnknownBlockError, match="expected a block such as IN00"):
        section_of(name)


# ---------------------------------------------------------------------------------------- architecture


def layout(name: str) -> dict[str, tuple[int, ...]]:
    return {row.key: row.shape for row in read_layout(name)}


UNET = "model.diffusion_model."


def unet_only(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in shapes.items() if key.startswith(UNET)}


def linear(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """As SD2 has it: attention is entered and left by linear layers."""
    return {key: shape[:2] if ".proj_" in key and len(shape) == 4 else shape for key, shape in shapes.items()}


def refiner() -> dict[str, tuple[int, ...]]:
    """The refiner's U-Net has SD1.5's levels, SDXL's labels and linear entrances."""
    labels = {key: shape for key, shape in layout("sdxl").items() if ".label_emb." in key}
    return linear(unet_only(layout("sd15"))) | labels


@every_architecture
def test_a_complete_checkpoint_is_recognised(architecture: Architecture) -> None:
    shapes = layout(architecture)
    assert architecture_of(shapes) is architecture
    assert architecture_of(dict(reversed(shapes.items()))) is architecture


@every_architecture
@pytest.mark.parametrize(
    "gone",
    [
        ("first_stage_model.",),
        ("cond_stage_model.", "conditioner."),
        ("conditioner.embedders.0.",),
        ("conditioner.embedders.1.",),
        ("first_stage_model.", "cond_stage_model.", "conditioner."),
    ],
)
def test_a_checkpoint_without_vae_or_text_encoders_is_recognised(
    architecture: Architecture, gone: tuple[str, ...]
) -> None:
    assert architecture_of({key: shape for key, shape in layout(architecture).items() if not key.startswith(gone)}) is (
        architecture
    )


@every_architecture
def test_widths_do_not_matter(architecture: Architecture) -> None:
    unet = {key: tuple(min(size, 8) for size in shape) for key, shape in unet_only(layout(architecture)).items()}
    assert architecture_of(unet) is architecture


@every_architecture
def test_optional_tensors_and_extras_do_not_matter(architecture: Architecture) -> None:
    needed = {row.key: row.shape for row in read_layout(architecture) if not row.optional}
    extras: dict[str, tuple[int, ...]] = {"v_pred": (0,), "model_ema.decay": (), "alphas_cumprod": (1000,)}
    assert architecture_of(needed | extras) is architecture


def test_more_input_channels_are_still_the_same_family() -> None:
    shapes = unet_only(layout("sd15")) | {f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3)}
    assert architecture_of(shapes) is SD15


def test_a_text_encoder_without_text_model_in_its_keys_is_sd15() -> None:
    assert architecture_of({key.replace(".text_model.", "."): shape for key, shape in layout("sd15").items()}) is SD15


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        (linear(unet_only(layout("sd15"))), "SD2"),
        (linear(layout("sd15")), "SD2"),
        (refiner(), "refiner"),
        ({key: shape for key, shape in unet_only(layout("sdxl")).items() if ".label_emb." not in key}, "neither"),
        ({key: shape for key, shape in unet_only(layout("sd15")).items() if ".proj_in." not in key}, "neither"),
        (
            {key: shape for key, shape in layout("sd15").items() if not key.startswith("cond_")}
            | {key: shape for key, shape in layout("sdxl").items() if key.startswith("conditioner.")},
            "a U-Net of sd15 with the text encoder of sdxl",
        ),
    ],
)
def test_u_nets_of_other_families_are_refused(shapes: dict[str, tuple[int, ...]], what: str) -> None:
    with pytest.raises(UnknownArchitectureError, match=what):
        architecture_of(shapes)


CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ([CONV_IN, "cond_stage_model.model.ln_final.weight"], "SD2"),
        (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "SD3"),
        (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"], "a LoRA"),
        (["base_model.model.down_blocks.0.to_q.lora_A.weight"], "a LoRA"),
        (["unet.down_blocks.0.attentions.0.processor.to_q_lora.up.weight"], "a LoRA"),
        ([CONV_IN, "conditioner.embedders.0.model.ln_final.weight"], "refiner"),
        (["down_blocks.0.resnets.0.conv1.weight", "mid_block.x"], "diffusers naming"),
        ([CONV_IN], "only a part of one"),
        (["encoder.conv_in.weight", "decoder.conv_out.weight"], "a bare VAE"),
        (["encoder.down_blocks.0.resnets.0.conv1.weight"], "a bare VAE"),
        (["first_stage_model.encoder.conv_in.weight"], "a bare VAE"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], "a text encoder only"),
        (["conditioner.embedders.1.model.ln_final.weight"], "a text encoder only"),
        (["cond_stage_model.transformer.text_model.final_layer_norm.bias"], "a text encoder only"),
        (["some.weight", "other.weight"], "'some.weight', 'other.weight'"),
        ([], "no tensors at all"),
    ],
)
def test_other_files_are_refused_by_name_and_in_one_line(keys: list[str], what: str) -> None:
    with pytest.raises(UnknownArchitectureError, match=r"expected a complete .* checkpoint") as caught:
        architecture_of(dict.fromkeys(keys, (4,)))
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SpaceError)
