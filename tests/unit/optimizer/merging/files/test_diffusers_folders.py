"""Folders that diffusers and transformers themselves write, read as if they were the checkpoint they came from."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import random_tensors, write_checkpoint
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers_pipelines import TRAINED_NOISE
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from optimizer.errors import CheckpointError
from optimizer.families.registry import model_family
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.vae import VaeFile
from optimizer.rendering.prediction import Prediction, prediction_of
from search_spaces.blocks import Architecture

BOTH = pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
LOGIT_SCALE = "conditioner.embedders.1.model.logit_scale"


def converted(tensors: dict[str, Tensor], architecture: Architecture) -> dict[str, dict[str, Tensor]]:
    """What diffusers' own single-file loader makes of a checkpoint: the opposite way of what is tested here."""
    kind = {"addition_embed_type": "text_time"} if architecture == Architecture.SDXL else {}
    levels = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    found: dict[str, dict[str, Tensor]] = {
        "unet": convert_ldm_unet_checkpoint(dict(tensors), {"layers_per_block": 2} | kind),
        "vae": convert_ldm_vae_checkpoint(dict(tensors), levels),
        "text_encoder": convert_ldm_clip_checkpoint(dict(tensors)),
    }
    if architecture == Architecture.SDXL:
        found["text_encoder_2"] = convert_open_clip_checkpoint(None, dict(tensors), "conditioner.embedders.1.model.")
    return {
        component: {name: row for name, row in rows.items() if not name.endswith("position_ids")}
        for component, rows in found.items()
    }


def models_of(tensors: dict[str, Tensor], architecture: Architecture) -> dict[str, nn.Module]:
    """diffusers' and transformers' own models with a checkpoint's values."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
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
    for component, rows in converted(tensors, architecture).items():
        prefix = (
            ""
            if any(name.startswith("text_model.") for name, _ in models[component].named_parameters())
            else ("text_model.")
        )
        models[component].load_state_dict({name.removeprefix(prefix): row for name, row in rows.items()})
        models[component].half()
    return models


def pipeline_of(architecture: str) -> Any:
    models = models_of(random_tensors(architecture, 1), Architecture(architecture))
    scheduler = DDIMScheduler(**TRAINED_NOISE, steps_offset=1, clip_sample=False)
    if architecture == "sd15":
        return StableDiffusionPipeline(
            **models,
            tokenizer=None,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return StableDiffusionXLPipeline(**models, tokenizer=None, tokenizer_2=None, scheduler=scheduler)


@cache
def _written(architecture: str, base: Path) -> Path:
    folder = base / f"written-{architecture}"
    pipeline_of(architecture).save_pretrained(folder)
    return folder


@pytest.fixture
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small pipeline as save_pretrained wrote it; read only."""
    return lambda architecture: _written(architecture, tmp_path_factory.getbasetemp())


@pytest.fixture
def folder(written: Callable[[str], Path], tmp_path: Path) -> Path:
    """One of SD1.5 to be changed."""
    return Path(shutil.copytree(written("sd15"), tmp_path / "pipe"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> bool:
    return all(torch.equal(checkpoint.tensor(key), tensor) for key, tensor in tensors.items())


def weights(architecture: str) -> dict[str, Tensor]:
    """What a pipeline of the same values holds: models have no positions and no logit scale."""
    tensors = random_tensors(architecture, 1)
    return {key: row for key, row in tensors.items() if not key.endswith("position_ids") and key != LOGIT_SCALE}


class TestReading:
    @BOTH
    def test_a_saved_pipeline_reads_as_the_checkpoint_it_was_made_from(
        self, architecture: str, written: Callable[[str], Path]
    ) -> None:
        checkpoint = Checkpoint.open(written(architecture))
        expected = weights(architecture)
        assert checkpoint.architecture == architecture
        assert checkpoint.tensors.keys() == expected.keys()
        for key, tensor in expected.items():
            read = checkpoint.tensor(key)
            assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape), key
            assert (checkpoint.tensors[key].dtype, checkpoint.tensors[key].shape) == (read.dtype, tuple(read.shape))
            assert torch.equal(read, tensor), key
        assert (checkpoint.notes, checkpoint.metadata) == ((), {})

    @BOTH
    def test_components_are_those_of_the_pipeline(self, architecture: str, written: Callable[[str], Path]) -> None:
        second = ("text_encoder_2",) if architecture == "sdxl" else ()
        assert Checkpoint.open(written(architecture)).components == ("unet", "text_encoder", *second, "vae")

    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
    def test_fused_projections_keep_the_bytes_of_every_dtype(
        self, dtype: torch.dtype, written: Callable[[str], Path], tmp_path: Path
    ) -> None:
        folder = Path(shutil.copytree(written("sdxl"), tmp_path / "pipe"))
        file = folder / "text_encoder_2" / "model.safetensors"
        save_file({key: tensor.to(dtype) for key, tensor in load_file(file).items()}, file)
        key = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
        read, expected = Checkpoint.open(folder).tensor(key), weights("sdxl")[key].to(dtype)
        assert torch.equal(read.view(torch.uint8), expected.view(torch.uint8))

    def test_older_names_of_the_vae_attention_are_read(self, folder: Path) -> None:
        file = folder / "vae" / "diffusion_pytorch_model.safetensors"
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        tensors = load_file(file)
        for new, name in old.items():
            tensors = {key.replace(f".attentions.0.{new}.", f".attentions.0.{name}."): t for key, t in tensors.items()}
        assert sum(".query." in key for key in tensors) == 4
        save_file(tensors, file)
        checkpoint = Checkpoint.open(folder)
        assert checkpoint.tensors.keys() == weights("sd15").keys()
        assert same(checkpoint, weights("sd15"))

    def test_a_component_that_the_index_leaves_out_is_not_there(self, folder: Path) -> None:
        edit(folder / "model_index.json", vae=[None, None])
        shutil.rmtree(folder / "vae")
        assert Checkpoint.open(folder).components == ("unet", "text_encoder")


class TestFiles:
    def test_the_fp16_variant_is_read_where_it_is_the_only_one(self, folder: Path) -> None:
        for file in folder.glob("*/*.safetensors"):
            file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
        assert same(Checkpoint.open(folder), weights("sd15"))

    @pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
    @pytest.mark.parametrize("variant", ["bf16", "non_ema", "ema.fp16"])
    def test_any_other_variant_is_read_where_it_is_the_only_one_with_a_note(
        self, variant: str, suffix: str, folder: Path
    ) -> None:
        for file in folder.glob("*/*.safetensors"):
            stem = "pytorch_model" if file.stem == "model" and suffix == ".bin" else file.stem
            target = file.with_name(f"{stem}.{variant}{suffix}")
            save_file(load_file(file), target) if suffix == ".safetensors" else torch.save(load_file(file), target)
            file.unlink()
        checkpoint = Checkpoint.open(folder)
        assert same(checkpoint, weights("sd15"))
        notes = [note for note in checkpoint.notes if f"only the variant {variant} is there" in note]
        assert [note.split("/")[0] for note in notes] == ["unet", "vae", "text_encoder"]

    def test_shards_of_another_variant_are_read(self, tmp_path: Path) -> None:
        pipeline_of("sd15").save_pretrained(tmp_path / "pipe", max_shard_size="200KB", variant="bf16")
        checkpoint = Checkpoint.open(tmp_path / "pipe")
        assert same(checkpoint, weights("sd15"))
        assert any("unet/: only the variant bf16 is there" in note for note in checkpoint.notes)

    def test_several_variants_without_a_usual_one_are_listed(self, folder: Path) -> None:
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        for variant in ("bf16", "non_ema"):
            shutil.copy(file, file.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
        assert same(Checkpoint.open(folder), weights("sd15"))
        file.unlink()
        with pytest.raises(CheckpointError, match=r"unet holds several variants of the weights \(bf16, non_ema\)"):
            Checkpoint.open(folder)

    def test_weights_of_other_programs_are_named(self, folder: Path) -> None:
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_name("diffusion_flax_model.msgpack"))
        with pytest.raises(CheckpointError, match=r"there are: config\.json, diffusion_flax_model\.msgpack"):
            Checkpoint.open(folder)

    def test_full_precision_is_read_where_both_are_there(self, folder: Path) -> None:
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        half = load_file(file)
        shutil.move(file, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
        save_file({key: tensor.float() + 1 for key, tensor in half.items()}, file)
        checkpoint = Checkpoint.open(folder)
        key = "model.diffusion_model.out.2.bias"
        assert torch.equal(checkpoint.tensor(key), weights("sd15")[key].float() + 1)

    @pytest.mark.parametrize("variant", [None, "fp16"])
    def test_shards_that_an_index_names_are_read(self, variant: str | None, tmp_path: Path) -> None:
        pipeline_of("sd15").save_pretrained(tmp_path / "pipe", max_shard_size="200KB", variant=variant)
        assert len(list((tmp_path / "pipe" / "unet").glob("*-of-*.safetensors"))) > 1
        checkpoint = Checkpoint.open(tmp_path / "pipe")
        assert checkpoint.tensors.keys() == weights("sd15").keys()
        assert same(checkpoint, weights("sd15"))

    def test_bin_files_are_read_where_there_are_no_others(self, folder: Path) -> None:
        for file in folder.glob("*/*.safetensors"):
            stem = "pytorch_model" if file.stem == "model" else file.stem
            torch.save(load_file(file), file.with_name(f"{stem}.bin"))
            file.unlink()
        assert same(Checkpoint.open(folder), weights("sd15"))

    def test_a_bin_file_that_runs_code_is_refused(self, folder: Path, tmp_path: Path) -> None:
        marker = tmp_path / "ran"

        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (marker,)

        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        torch.save({"w": Evil()}, folder / "unet" / "diffusion_pytorch_model.bin")
        with pytest.raises(CheckpointError, match="executable code"):
            Checkpoint.open(folder)
        assert not marker.exists()

    def test_identity_is_that_of_the_weight_files(self, folder: Path) -> None:
        checkpoint = Checkpoint.open(folder)
        names = [
            "text_encoder/model.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        ]
        lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
        seen: list[int] = []
        assert checkpoint.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest() == checkpoint.hash(seen.append)
        stats = [(folder / name).stat() for name in names]
        assert checkpoint.size_bytes == sum(stat.st_size for stat in stats) == sum(seen)
        assert checkpoint.mtime_ns == max(stat.st_mtime_ns for stat in stats)
        assert (checkpoint.legacy_hash, checkpoint.data_hash) == (None, None)

    def test_a_folder_with_a_dot_in_its_name_keeps_it(self, folder: Path) -> None:
        assert Checkpoint.open(folder.rename(folder.with_name("model-v1.5"))).name == "model-v1.5"

    def test_another_place_is_the_same_model_and_other_weights_are_another(self, folder: Path, tmp_path: Path) -> None:
        before = Checkpoint.open(folder).sha256
        moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
        edit(moved / "model_index.json", _name_or_path="renamed")
        assert Checkpoint.open(moved).sha256 == before
        write_checkpoint(moved / "unused.safetensors")
        assert Checkpoint.open(moved).sha256 == before
        file = moved / "vae" / "diffusion_pytorch_model.safetensors"
        save_file({key: tensor + 1 for key, tensor in load_file(file).items()}, file)
        assert Checkpoint.open(moved).sha256 != before


class TestScheduler:
    @pytest.mark.parametrize(
        ("prediction", "rescaled", "markers"),
        [
            ("epsilon", False, set()),
            ("v_prediction", False, {"v_pred"}),
            ("v_prediction", True, {"v_pred", "ztsnr"}),
            ("epsilon", True, {"ztsnr"}),
        ],
    )
    def test_what_the_model_predicts_becomes_a_marker_key(
        self, prediction: str, rescaled: bool, markers: set[str], folder: Path
    ) -> None:
        plain = Checkpoint.open(folder)
        scheduler = EulerDiscreteScheduler(**TRAINED_NOISE, prediction_type=prediction, rescale_betas_zero_snr=rescaled)
        scheduler.save_pretrained(folder / "scheduler")
        checkpoint = Checkpoint.open(folder)
        assert checkpoint.tensors.keys() - plain.tensors.keys() == markers
        for marker in markers:
            assert checkpoint.tensor(marker).dtype == torch.float32
            assert tuple(checkpoint.tensor(marker).shape) == checkpoint.tensors[marker].shape == (0,)
        assert (checkpoint.sha256 == plain.sha256) == (not markers)  # another prediction is another model
        assert bool(checkpoint.notes) == bool(markers)

    def test_a_folder_without_scheduler_is_taken_for_epsilon_and_says_so(self, folder: Path) -> None:
        shutil.rmtree(folder / "scheduler")
        checkpoint = Checkpoint.open(folder)
        assert "v_pred" not in checkpoint.tensors
        assert any("no scheduler settings" in note for note in checkpoint.notes)

    def test_the_range_of_cosxl_becomes_its_markers(self, folder: Path) -> None:
        scheduler = EDMEulerScheduler(sigma_min=0.004, sigma_max=150.0, sigma_data=1.0, prediction_type="v_prediction")
        scheduler.save_pretrained(folder / "scheduler")
        checkpoint = Checkpoint.open(folder)
        assert checkpoint.tensor("edm_vpred.sigma_max").item() == 150
        assert checkpoint.tensor("edm_vpred.sigma_min").item() == pytest.approx(0.004)
        assert "v_pred" not in checkpoint.tensors

    def test_the_latents_of_playground_become_its_markers(self, folder: Path) -> None:
        EDMEulerScheduler().save_pretrained(folder / "scheduler")
        before = Checkpoint.open(_with_statistics(folder, [-1.5, 2.25, 0.5, 1.0], [8.5, 5.5, 6.0, 4.5]))
        assert before.tensor("edm_mean").flatten().tolist() == [-1.5, 2.25, 0.5, 1.0]
        assert before.tensor("edm_std").flatten().tolist() == [8.5, 5.5, 6.0, 4.5]
        digest = before.sha256
        assert Checkpoint.open(_with_statistics(folder, [0.0] * 4, [1.0] * 4)).sha256 != digest

    @pytest.mark.parametrize(
        "scheduler",
        [
            DDIMScheduler(prediction_type="sample", steps_offset=1, clip_sample=False),
            EDMEulerScheduler(),  # without the latents' statistics
            EDMEulerScheduler(sigma_data=0.7, prediction_type="v_prediction"),
        ],
        ids=["sample", "no statistics", "another deviation"],
    )
    def test_what_no_marker_can_say_is_refused(self, scheduler: Any, folder: Path) -> None:
        scheduler.save_pretrained(folder / "scheduler")
        with pytest.raises(CheckpointError, match="cannot be read from a folder"):
            Checkpoint.open(folder)

    @pytest.mark.parametrize(
        ("scheduler", "shift"),
        [
            (FlowMatchEulerDiscreteScheduler(shift=6.0), 6.0),
            (FlowMatchEulerDiscreteScheduler(), 1.0),
            (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 3.0),  # by image size: the usual one
            (FlowMatchHeunDiscreteScheduler(shift=2.5), 2.5),
            (UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0), 5.0),
        ],
    )
    def test_a_flow_is_told_and_its_shift_is_read(self, scheduler: Any, shift: float, folder: Path) -> None:
        plain = Checkpoint.open(folder)
        scheduler.save_pretrained(folder / "scheduler")
        checkpoint = Checkpoint.open(folder)
        assert any("follows a flow" in note for note in checkpoint.notes)
        assert prediction_of(checkpoint) == Prediction(kind="flow", shift=shift)
        assert checkpoint.sha256 != plain.sha256  # another prediction is another model

    def test_a_flow_whose_shift_is_out_of_range_is_never_taken_for_another_model(self, folder: Path) -> None:
        FlowMatchEulerDiscreteScheduler(shift=0.5).save_pretrained(folder / "scheduler")
        with pytest.raises(CheckpointError, match=r"marked with the shift '0.5', expected a number from 1 to 12"):
            prediction_of(Checkpoint.open(folder))


class TestSettings:
    """Numbers beside the weights that no checkpoint file can hold."""

    @pytest.mark.parametrize(
        ("file", "changes"),
        [
            ("vae", {"scaling_factor": 0.13025}),
            ("vae", {"shift_factor": 0.1159}),
            ("vae", {"latents_mean": [0.1, 0.0, 0.0, 0.0], "latents_std": [1.0] * 4}),
            ("vae", {"norm_num_groups": 16}),
            ("vae", {"act_fn": "gelu"}),
            ("text_encoder", {"hidden_act": "gelu"}),
            ("text_encoder", {"num_hidden_layers": 1}),
            ("text_encoder", {"num_attention_heads": 2}),
            ("text_encoder", {"layer_norm_eps": 1e-3}),
            ("unet", {"attention_head_dim": 4}),
            ("unet", {"attention_head_dim": [8, 8, 8, 4]}),
            ("unet", {"flip_sin_to_cos": False}),
            ("unet", {"norm_eps": 1e-6}),
            ("scheduler", {"beta_end": 0.02}),
            ("scheduler", {"beta_schedule": "linear"}),
            ("scheduler", {"num_train_timesteps": 500}),
            ("scheduler", {"trained_betas": [0.1] * 1000}),
        ],
        ids=lambda value: value if isinstance(value, str) else next(iter(value)),
    )
    def test_what_differs_from_the_family_is_refused(self, file: str, changes: dict[str, Any], folder: Path) -> None:
        path = folder / file / ("scheduler_config.json" if file == "scheduler" else "config.json")
        edit(path, **changes)
        key = next(iter(changes))
        with pytest.raises(CheckpointError, match=rf"{file}.{path.name} says {key} .* where SD1.5 has ") as caught:
            Checkpoint.open(folder)
        assert "\n" not in str(caught.value)

    def test_other_spellings_of_the_same_and_what_changes_nothing_are_read(self, folder: Path) -> None:
        before = Checkpoint.open(folder)
        edit(folder / "vae" / "config.json", shift_factor=0.0, force_upcast=False, sample_size=1024)
        edit(folder / "text_encoder" / "config.json", eos_token_id=2, attention_dropout=0.1)
        edit(folder / "unet" / "config.json", attention_head_dim=[8] * 4, upcast_attention=True)
        edit(
            folder / "scheduler" / "scheduler_config.json",
            timestep_spacing="trailing",
            steps_offset=0,
            lambda_min_clipped=-math.inf,
        )
        after = Checkpoint.open(folder)
        assert (after.tensors, after.notes) == (before.tensors, before.notes)

    def test_sdxl_has_settings_of_its_own(self, written: Callable[[str], Path], tmp_path: Path) -> None:
        folder = Path(shutil.copytree(written("sdxl"), tmp_path / "pipe"))
        edit(folder / "text_encoder_2" / "config.json", hidden_act="quick_gelu")
        with pytest.raises(CheckpointError, match=r"_2.config.json says hidden_act 'quick_gelu' where SDXL"):
            Checkpoint.open(folder)

    def test_a_vae_alone_is_held_to_the_family_of_the_parents(self, folder: Path) -> None:
        """SD1.5's and SDXL's VAEs have the same names and shapes."""
        file = folder / "vae" / "diffusion_pytorch_model.safetensors"
        VaeFile.open(file).in_files_of(Architecture.SD15)
        with pytest.raises(CheckpointError, match=r"says scaling_factor 0\.18215 where SDXL has 0\.13025"):
            VaeFile.open(file).in_files_of(Architecture.SDXL)
        edit(folder / "vae" / "config.json", shift_factor=0.5)
        with pytest.raises(CheckpointError, match=r"says shift_factor 0\.5 where SD1.5 has None"):
            VaeFile.open(file).in_files_of(Architecture.SD15)

    @pytest.mark.parametrize("suffix", ["folder", "safetensors"])
    def test_the_vae_of_a_model_of_another_family_is_refused(self, suffix: str, folder: Path, tmp_path: Path) -> None:
        path = folder if suffix == "folder" else write_checkpoint(tmp_path / "a.safetensors")
        VaeFile.open(path).in_files_of(Architecture.SD15)
        with pytest.raises(CheckpointError, match=r"is a model of SD1.5, the parents are SDXL"):
            VaeFile.open(path).in_files_of(Architecture.SDXL)


def _with_statistics(folder: Path, mean: list[float], std: list[float]) -> Path:
    edit(folder / "vae" / "config.json", latents_mean=mean, latents_std=std)
    return folder


def _without_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def _broken_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def _listed_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("[]")


def _without_unet_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def _without_vae(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def _no_unet_named(folder: Path) -> None:
    edit(folder / "model_index.json", unet=[None, None])


def _other_vae(folder: Path) -> None:
    edit(folder / "model_index.json", vae=["diffusers", "AutoencoderTiny"])


def _truncated(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def _more_weights(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"time_embedding.cond_proj.weight": torch.ones(2, 2)}, file)


def _lost_shard(folder: Path) -> None:
    _without_unet_weights(folder)
    index = {"weight_map": {"conv_in.weight": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def _shard_elsewhere(folder: Path) -> None:
    _without_unet_weights(folder)
    index = {"weight_map": {"conv_in.weight": "../vae/diffusion_pytorch_model.safetensors"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def _shard_lacks_a_tensor(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shard = file.rename(file.with_name("diffusion_pytorch_model-00001-of-00001.safetensors"))
    index = {"weight_map": {"conv_in.weight": shard.name, "conv_in.other": shard.name}}
    file.with_name(f"{file.name}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_index, r"is a folder without model_index\.json"),
        (_broken_index, r"model_index\.json cannot be read"),
        (_listed_index, r"model_index\.json is damaged"),
        (_without_unet_weights, r"names unet, but .*unet holds no weights"),
        (_without_vae, r"names vae, but .*vae holds no weights"),
        (_no_unet_named, "names no U-Net"),
        (_other_vae, "AutoencoderTiny.*expected a AutoencoderKL"),
        (_truncated, "cut off"),
        (_more_weights, r"1 tensors that no SD1.5 or SDXL model has \(time_embedding.cond_proj.weight\)"),
        (_lost_shard, "names diffusion_pytorch_model-00001-of-00002.safetensors, which is not there"),
        (_shard_elsewhere, "must name files beside it"),
        (_shard_lacks_a_tensor, r"lack 1 tensors \(conv_in.other\)"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(
    change: Callable[[Path], None], message: str, folder: Path
) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint.open(folder)
    assert "\n" not in str(caught.value)


def test_query_key_and_value_must_all_be_there(written: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written("sdxl"), tmp_path / "pipe"))
    file = folder / "text_encoder_2" / "model.safetensors"
    tensors = load_file(file)
    del tensors["text_model.encoder.layers.0.self_attn.k_proj.bias"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"resblocks\.0\.attn\.in_proj_bias are not three"):
        Checkpoint.open(folder)


def test_the_folder_of_an_sd2_pipeline_is_refused(folder: Path) -> None:
    """Its attention is entered by linear layers; nothing else of its U-Net tells it from SD1.5's."""
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: t.flatten(1) if ".proj_" in k and t.dim() == 4 else t for k, t in load_file(file).items()}, file)
    with pytest.raises(CheckpointError, match="SD2"):
        _ = Checkpoint.open(folder).architecture
