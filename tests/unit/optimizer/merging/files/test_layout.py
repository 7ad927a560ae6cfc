"""File keys and live parameters: against the models that diffusers and transformers build, and their own conversion."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from checkpoints import random_tensors
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from layouts import read_layout
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from optimizer.errors import CheckpointError
from optimizer.families.registry import model_family
from optimizer.merging.files.layout import THIRDS, Component, LiveView, Reading, StoredPart, live_views, stored_part
from search_spaces.blocks import Architecture

BOTH = pytest.mark.parametrize("architecture", list(Architecture))

# What a file may hold and no live model has.
WITHOUT_A_VIEW = {
    Architecture.SD15: {"cond_stage_model.transformer.text_model.embeddings.position_ids"},
    Architecture.SDXL: {
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
        "conditioner.embedders.1.model.logit_scale",
    },
}


def full_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    return {row.key: row.shape for row in read_layout(architecture.value)}


@cache
def full_models(architecture: Architecture) -> dict[str, nn.Module]:
    """Full-size models without memory, from the configurations read off the key list."""
    shapes = full_shapes(architecture)
    with torch.device("meta"):
        models: dict[str, nn.Module] = {
            "unet": UNet2DConditionModel(**model_family(architecture).unet_config(shapes)),
            "vae": AutoencoderKL(**model_family(architecture).vae_config(shapes)),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(**model_family(architecture).text_configs(shapes)["text_encoder"])
            ),
        }
        if architecture == Architecture.SDXL:
            models["text_encoder_2"] = CLIPTextModelWithProjection(
                CLIPTextConfig(**model_family(Architecture.SDXL).text_configs(shapes)["text_encoder_2"])
            )
    return models


def plain(component: str, name: str) -> str:
    """transformers names CLIP-L's parameters with or without `text_model.`, as its version likes."""
    return name.removeprefix("text_model.") if component == "text_encoder" else name


class TestFullSize:
    @BOTH
    def test_every_key_has_a_view_or_is_known_to_have_none(self, architecture: Architecture) -> None:
        shapes = full_shapes(architecture)
        assert {key for key in shapes if not live_views(key, architecture, len(shapes[key]))} == (
            WITHOUT_A_VIEW[architecture]
        )

    @BOTH
    def test_views_are_exactly_the_parameters_of_the_models_in_their_shapes(self, architecture: Architecture) -> None:
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for key, shape in full_shapes(architecture).items():
            for view in live_views(key, architecture, len(shape)):
                name = plain(view.component, view.name)
                rows = found.setdefault(view.component, {})
                assert name not in rows, f"two tensors for {view.component} {name}"
                rows[name] = tuple(view.of(torch.empty(shape, device="meta")).shape)
        wanted = {
            component: {plain(component, name): tuple(row.shape) for name, row in model.named_parameters()}
            for component, model in full_models(architecture).items()
        }
        assert found == wanted

    def test_sd15_is_the_published_model(self) -> None:
        shapes = full_shapes(Architecture.SD15)
        assert model_family(Architecture.SD15).unet_config(shapes) == {
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            "transformer_layers_per_block": (1, 1, 1, 1),
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
            "use_linear_projection": False,
            "norm_num_groups": 32,
        }
        assert model_family(Architecture.SD15).text_configs(shapes)["text_encoder"] == CLIP_L
        assert model_family(Architecture.SD15).vae_config(shapes) == VAE | {
            "sample_size": 512,
            "scaling_factor": 0.18215,
        }

    def test_sdxl_is_the_published_model(self) -> None:
        shapes = full_shapes(Architecture.SDXL)
        assert model_family(Architecture.SDXL).unet_config(shapes) == {
            "sample_size": 128,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (320, 640, 1280),
            "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "norm_num_groups": 32,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
        assert model_family(Architecture.SDXL).text_configs(shapes)["text_encoder"] == CLIP_L
        assert model_family(Architecture.SDXL).text_configs(shapes)["text_encoder_2"] == CLIP_L | {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_attention_heads": 20,
            "num_hidden_layers": 32,
            "hidden_act": "gelu",
            "projection_dim": 1280,
        }
        assert model_family(Architecture.SDXL).vae_config(shapes) == VAE | {
            "sample_size": 1024,
            "scaling_factor": 0.13025,
        }

    @BOTH
    def test_a_text_encoder_without_its_last_layer_is_not_taken_for_a_shorter_one(
        self, architecture: Architecture
    ) -> None:
        """SDXL reads the last layer but one: counted in eleven layers, that would be another layer."""
        shapes = {key: shape for key, shape in full_shapes(architecture).items() if ".encoder.layers.11." not in key}
        with pytest.raises(CheckpointError, match="11 of 12 layers"):
            model_family(architecture).text_configs(shapes)

    @BOTH
    @pytest.mark.parametrize(
        ("prefix", "read"),
        [("model.diffusion_model.", "unet_config"), ("first_stage_model.", "vae_config"), ("cond", "text_configs")],
    )
    def test_a_file_without_a_part_is_refused(self, architecture: Architecture, prefix: str, read: str) -> None:
        shapes = {key: shape for key, shape in full_shapes(architecture).items() if not key.startswith(prefix)}
        with pytest.raises(CheckpointError, match="full checkpoint"):
            getattr(model_family(architecture), read)(shapes)


CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}


def converted(architecture: Architecture, tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What diffusers itself makes of a single file."""
    config = {"layers_per_block": 2} | ({"addition_embed_type": "text_time"} if architecture == "sdxl" else {})
    vae = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    found = {
        "unet": convert_ldm_unet_checkpoint(dict(tensors), config),
        "vae": convert_ldm_vae_checkpoint(dict(tensors), vae),
        "text_encoder": convert_ldm_clip_checkpoint(dict(tensors)),
    }
    if architecture == Architecture.SDXL:
        found["text_encoder_2"] = convert_open_clip_checkpoint(None, dict(tensors), "conditioner.embedders.1.model.")
    return {
        component: {plain(component, name): row for name, row in rows.items() if not name.endswith("position_ids")}
        for component, rows in found.items()
    }


class TestValues:
    @BOTH
    def test_every_live_parameter_is_what_diffusers_converts_the_file_to(self, architecture: Architecture) -> None:
        tensors = random_tensors(architecture.value, seed=5, dtype=torch.float32)
        ours: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            for view in live_views(key, architecture, tensor.dim()):
                ours.setdefault(view.component, {})[plain(view.component, view.name)] = view.of(tensor)
        theirs = converted(architecture, tensors)
        assert {name: set(rows) for name, rows in ours.items()} == {name: set(rows) for name, rows in theirs.items()}
        different = [
            f"{component} {name}"
            for component, rows in ours.items()
            for name, tensor in rows.items()
            if not torch.equal(tensor, theirs[component][name])
        ]
        assert different == []

    @BOTH
    def test_writing_to_a_live_parameter_writes_to_the_stored_tensor(self, architecture: Architecture) -> None:
        for key, tensor in random_tensors(architecture.value, seed=1).items():
            views = live_views(key, architecture, tensor.dim())
            for view in views:
                view.of(tensor).fill_(0.5)
            if views:  # the thirds together cover the whole
                assert (tensor == 0.5).all(), key

    def test_attention_that_is_stored_flat_is_read_as_it_is(self) -> None:
        """Newer VAE files hold [out, in] instead of [out, in, 1, 1]."""
        key = "first_stage_model.encoder.mid.attn_1.q.weight"
        name = "encoder.mid_block.attentions.0.to_q.weight"
        assert live_views(key, Architecture.SD15, 2) == (LiveView("vae", name, "whole"),)
        assert live_views(key, Architecture.SD15, 4) == (LiveView("vae", name, "linear"),)


@pytest.mark.parametrize(
    "key",
    [
        "v_pred",
        "ztsnr",
        "edm_vpred.sigma_max",
        "alphas_cumprod",
        "model_ema.diffusion_modelinput_blocks00weight",
        "model_ema.decay",
        "conditioner.embedders.1.model.logit_scale",
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
        "conditioner.embedders.0.transformer.text_projection.weight",
        "conditioner.embedders.0.transformer.logit_scale",
        "model.diffusion_model.something_new.weight",
        "no.such.key",
    ],
)
def test_what_no_live_model_has_gets_no_view(key: str) -> None:
    assert live_views(key, Architecture.SDXL, 1) == ()


# ------------------------------------------------------------------------------------------- backwards


def put_together(parts: dict[Reading, Tensor]) -> Tensor:
    return torch.cat([parts[third] for third in THIRDS]) if len(parts) > 1 else next(iter(parts.values()))


class TestBackwards:
    @BOTH
    def test_every_live_parameter_goes_back_to_the_key_and_bytes_it_came_from(self, architecture: Architecture) -> None:
        tensors = random_tensors(architecture.value, seed=7)
        back: dict[str, dict[Reading, Tensor]] = {}
        for key, tensor in tensors.items():
            for view in live_views(key, architecture, tensor.dim()):
                live = view.of(tensor)
                part = stored_part(view.component, view.name, architecture, live.dim())
                assert part is not None, view
                assert part.reading == view.reading
                back.setdefault(part.key, {})[part.reading] = part.of(live)
        expected = {key: tensor for key, tensor in tensors.items() if live_views(key, architecture, tensor.dim())}
        assert back.keys() == expected.keys()
        for key, parts in back.items():
            assert torch.equal(put_together(parts), expected[key]), key
            assert put_together(parts).shape == expected[key].shape, key

    @BOTH
    def test_every_key_of_the_full_layout_is_found_again(self, architecture: Architecture) -> None:
        for key, shape in full_shapes(architecture).items():
            stored = torch.empty(shape, device="meta")
            for view in live_views(key, architecture, len(shape)):
                live = view.of(stored)
                part = stored_part(view.component, view.name, architecture, live.dim())
                assert part == StoredPart(key, view.reading)
                assert part.shape_of(tuple(live.shape)) == tuple(part.of(live).shape)

    @BOTH
    def test_every_parameter_of_the_real_models_has_its_key(self, architecture: Architecture) -> None:
        """The names are those of diffusers and transformers themselves, not of this package."""
        found = set()
        for component, model in full_models(architecture).items():
            for name, row in model.named_parameters():
                part = stored_part(component, name, architecture, row.dim())
                assert part is not None, name
                found.add(part.key)
        assert found == full_shapes(architecture).keys() - WITHOUT_A_VIEW[architecture]

    @pytest.mark.parametrize(
        ("old", "new"),
        [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")],
    )
    def test_older_names_of_the_vae_attention_are_understood(self, old: str, new: str) -> None:
        home = "decoder.mid_block.attentions.0"
        for leaf, rank in (("weight", 2), ("bias", 1)):
            one, other = (stored_part("vae", f"{home}.{name}.{leaf}", Architecture.SDXL, rank) for name in (old, new))
            assert one == other
            assert one is not None

    def test_clip_names_are_understood_with_and_without_text_model(self) -> None:
        name = "encoder.layers.0.self_attn.q_proj.weight"
        components: tuple[Component, ...] = ("text_encoder", "text_encoder_2")
        for component in components:
            bare = stored_part(component, name, Architecture.SDXL, 2)
            assert bare == stored_part(component, f"text_model.{name}", Architecture.SDXL, 2)
            assert bare is not None

    @pytest.mark.parametrize(
        ("component", "name"),
        [
            ("unet", "time_embedding.cond_proj.weight"),
            ("unet", "down_blocks.0.motion_modules.0.proj_in.weight"),
            ("unet", "encoder_hid_proj.weight"),
            ("vae", "encoder.layers.0.weight"),
            ("vae", "decoder.mid_block.attentions.0.other.weight"),
            ("text_encoder", "visual_projection.weight"),
            ("text_encoder_2", "logit_scale"),
            ("text_encoder_2", "text_model.encoder.layers.0.unknown.weight"),
        ],
    )
    def test_a_name_of_no_such_model_has_no_key(self, component: Component, name: str) -> None:
        assert stored_part(component, name, Architecture.SDXL, 2) is None
