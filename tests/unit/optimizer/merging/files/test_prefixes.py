"""Names of tensors below prefixes that wrappers and training programs leave: read where it is clear what is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from checkpoints import random_tensors
from diffusers_pipelines import small_pipeline
from safetensors.torch import load_file, save_file
from slow_cases import first_fast
from torch import Tensor, nn

from optimizer.errors import CheckpointError
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.plan import VAE_SOURCE
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.merging.files.vae import VaeFile
from optimizer.merging.lora.file import Lora
from search_spaces.blocks import Architecture

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
CLIP_L = "conditioner.embedders.0.transformer."
Renamed = Callable[[str], str]


def saved(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    save_file({key: row.contiguous() for key, row in tensors.items()}, path)
    return path


def vae_of(seed: int) -> dict[str, Tensor]:
    return {key: row for key, row in random_tensors("sd15", seed).items() if key.startswith(VAE)}


def shortcuts(name: str) -> str:
    return name.replace("nin_shortcut", "conv_shortcut")


def ingredients(tmp_path: Path, vae: Mapping[str, Tensor]) -> Ingredients:
    parents = Parents.of([Checkpoint.open(saved(tmp_path / "a.safetensors", random_tensors("sd15", 1)))])
    return Ingredients(parents, vae=VaeFile.open(saved(tmp_path / "vae.safetensors", vae)))


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "vae.",
        "vae.module.",
        "module.vae.",
        "model.first_stage_model.",
        "module.model.vae.",
        "state_dict.first_stage_model.",
        "_orig_mod.",
        "autoencoder.net.",
    ],
)
@pytest.mark.parametrize("spelled", first_fast(1, [shortcuts, str]))
def test_a_vae_below_any_one_prefix_is_baked_whole(prefix: str, spelled: Renamed, tmp_path: Path) -> None:
    given = vae_of(3)
    files = ingredients(tmp_path, {prefix + spelled(key.removeprefix(VAE)): row for key, row in given.items()})
    assert {key for key in files.tensors if VAE_SOURCE in files.sources(key)} == given.keys()
    assert all(torch.equal(files.tensor(key, VAE_SOURCE), row) for key, row in given.items())


def test_a_shortcut_of_diffusers_name_is_known_in_a_checkpoint(tmp_path: Path) -> None:
    tensors = random_tensors("sd15", 1)
    named = {shortcuts(key) if key.startswith(VAE) else key: row for key, row in tensors.items()}
    assert named.keys() != tensors.keys()
    checkpoint = Checkpoint.open(saved(tmp_path / "a.safetensors", named))
    assert all(torch.equal(checkpoint.tensor(key), row) for key, row in tensors.items())
    assert checkpoint.tensors.keys() == tensors.keys()


def test_of_several_vaes_that_of_single_files_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    given = vae_of(3)
    others = {f"ema.{key.removeprefix(VAE)}": row + 1 for key, row in given.items()}
    files = ingredients(tmp_path, given | others)
    assert all(torch.equal(files.tensor(key, VAE_SOURCE), row) for key, row in given.items())
    assert any("another VAE is in the file and ignored, below `ema.`" in note for note in files.notes)


@pytest.mark.parametrize(("one", "two"), [("ema.", "model."), ("", "vae."), ("student.vae.", "teacher.vae.")])
def test_several_vaes_are_refused_where_it_is_not_clear_which_is_meant(one: str, two: str, tmp_path: Path) -> None:
    tensors = {prefix + key.removeprefix(VAE): row for prefix in (one, two) for key, row in vae_of(3).items()}
    with pytest.raises(CheckpointError, match=f"holds several VAEs, below {one or 'no prefix'} and {two}: keep"):
        VaeFile.open(saved(tmp_path / "vae.safetensors", tensors))


def test_the_names_of_what_holds_no_vae_are_shown(tmp_path: Path) -> None:
    tensors = {"dec.first.weight": torch.ones(2), "dec.last.weight": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"holds no VAE \(its tensors are called dec.first.weight, dec.last"):
        VaeFile.open(saved(tmp_path / "vae.safetensors", tensors))


def test_names_within_a_vae_that_are_not_understood_are_shown(tmp_path: Path) -> None:
    odd = {key.replace("mid.attn_1", "mid.attention"): row for key, row in vae_of(3).items()}
    with pytest.raises(CheckpointError, match=r"is incomplete: 20 of 248 .* 20 of its names .*mid\.attention"):
        ingredients(tmp_path, odd)


def parallel(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DataParallel's own naming, for a model whose parameters have these names."""
    holder = nn.Module()
    for key, row in tensors.items():
        parent = holder
        *path, leaf = key.split(".")
        for name in path:
            if not hasattr(parent, name):
                parent.add_module(name, nn.Module())
            parent = getattr(parent, name)
        parent.register_buffer(leaf, row)
    return dict(nn.DataParallel(holder).state_dict())


def below(prefix: str) -> Renamed:
    return lambda key: prefix + key


def unet_below(prefix: str) -> Renamed:
    return lambda key: key.replace(UNET, prefix) if key.startswith(UNET) else key


def within(component: str, part: str) -> Renamed:
    return lambda key: key.replace(component, component + part) if key.startswith(component) else key


def text_below(prefix: str) -> Renamed:
    return lambda key: key.replace(TEXT, prefix).replace(CLIP_L, prefix)


NAMES = pytest.mark.parametrize(
    "named",
    [
        below("module."),
        below("state_dict."),
        below("model."),
        below("generator.model."),
        unet_below("diffusion_model."),
        unet_below("unet."),
        unet_below("module.net."),
        within(UNET, "_orig_mod."),
        within(UNET, "module."),
        within(VAE, "module."),
        within(TEXT, "_fsdp_wrapped_module."),
        text_below("text_encoder."),
        text_below("module.text_encoder."),
    ],
)


@NAMES
@pytest.mark.parametrize("architecture", first_fast(1, ["sd15", "sdxl"]))
def test_a_checkpoint_below_one_prefix_is_read_under_the_usual_names_with_a_note(
    named: Renamed, architecture: str, tmp_path: Path
) -> None:
    tensors = {key: row for key, row in random_tensors(architecture, 1).items() if not key.endswith("position_ids")}
    changed = {named(key): row for key, row in tensors.items()}
    checkpoint = Checkpoint.open(saved(tmp_path / "a.safetensors", changed))
    assert checkpoint.architecture == architecture
    assert checkpoint.tensors.keys() == tensors.keys()
    assert all(torch.equal(checkpoint.tensor(key), row) for key, row in tensors.items())
    assert bool(checkpoint.notes) == (changed.keys() != tensors.keys())


def test_a_model_that_ran_in_parallel_is_read(tmp_path: Path) -> None:
    tensors = random_tensors("sd15", 1)
    torch.save({"state_dict": parallel(tensors)}, tmp_path / "a.ckpt")
    checkpoint = Checkpoint.open(tmp_path / "a.ckpt")
    assert checkpoint.tensors.keys() == tensors.keys()
    assert "`module` in their names: taken out" in "\n".join(checkpoint.notes)


def test_several_unets_are_refused_where_it_is_not_clear_which_is_meant(tmp_path: Path) -> None:
    unet = {key: row for key, row in random_tensors("sd15", 1).items() if key.startswith(UNET)}
    tensors = {prefix + key: row.clone() for prefix in ("ema.", "online.") for key, row in unet.items()}
    with pytest.raises(CheckpointError, match=f"holds several U-Nets, below ema.{UNET} and online.{UNET}: keep"):
        Checkpoint.open(saved(tmp_path / "a.safetensors", tensors))


@pytest.mark.parametrize("other", ["module.", "_orig_mod."])
def test_a_tensor_that_is_there_wrapped_and_not_is_refused(other: str, tmp_path: Path) -> None:
    tensors = random_tensors("sd15", 1)
    key = f"{UNET}out.2.bias"
    with pytest.raises(CheckpointError, match=rf"has .*{key} and .*{key}, which are one tensor but for a prefix"):
        Checkpoint.open(saved(tmp_path / "a.safetensors", tensors | {f"{other}{key}": tensors[key] + 1}))


def test_a_folder_of_wrapped_models_is_read(tmp_path: Path) -> None:
    pipeline = small_pipeline(Architecture.SD15, random_tensors("sd15", 1, torch.float32))
    pipeline.unet.save_pretrained(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    before = Checkpoint.open(tmp_path).tensors
    (file,) = (tmp_path / "unet").glob("*.safetensors")
    saved(file, {f"module.{key}": row for key, row in load_file(file).items()})
    assert Checkpoint.open(tmp_path).tensors == before


@pytest.mark.parametrize("prefix", ["module.", "module.module.", "state_dict."])
def test_a_lora_below_a_wrapper_is_read(prefix: str, tmp_path: Path) -> None:
    module = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{module}.lora_up.weight": torch.ones(4, 2), f"{module}.lora_down.weight": torch.ones(2, 4)}
    path = saved(tmp_path / "l.safetensors", {prefix + key: row for key, row in tensors.items()})
    assert list(Lora.open(path).modules) == [module]
