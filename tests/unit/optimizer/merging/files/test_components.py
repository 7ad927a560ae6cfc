"""A component is taken whole: other names of its tensors are understood, and what is incomplete is not used."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from checkpoints import random_tensors
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint, convert_open_clip_checkpoint
from safetensors.torch import save_file
from slow_cases import first_fast
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.plan import VAE_SOURCE
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.merging.files.vae import VaeFile

VAE = "first_stage_model."
CLIP_G = "conditioner.embedders.1.model."
TEXT = "cond_stage_model.transformer."
Renamed = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0", "norm": "group_norm"}
_OLD_ATTENTION = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn", "norm": "group_norm"}


def opened(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> Checkpoint:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    return Checkpoint.open(folder / f"{name}.safetensors")


def vae_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: row for key, row in tensors.items() if key.startswith(VAE)}


def attention_renamed(tensors: Mapping[str, Tensor], leaves: Mapping[str, str], *, linear: bool) -> dict[str, Tensor]:
    found = {}
    for key, row in tensors.items():
        before, middle, leaf = key.rpartition("mid.attn_1.")
        stem, _, parameter = leaf.rpartition(".")
        changed = row.flatten(1) if middle and linear and row.dim() == 4 else row
        found[f"{before}{middle}{leaves[stem]}.{parameter}" if middle else key] = changed
    return found


def leaves_alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return attention_renamed(tensors, _ATTENTION, linear=False)


def old_leaves_as_linear_layers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return attention_renamed(tensors, _OLD_ATTENTION, linear=True)


def as_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' own conversion of the VAE, below the prefix of single files."""
    levels = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = convert_ldm_vae_checkpoint(vae_of(tensors), levels)
    rest = {key: row for key, row in tensors.items() if not key.startswith(VAE)}
    return rest | {f"{VAE}{key}": row for key, row in vae.items()}


def as_diffusers_before_0_18(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    swap = {f".{new}.": f".{_OLD_ATTENTION[stem]}." for stem, new in _ATTENTION.items() if stem != "norm"}
    found = {}
    for key, row in as_diffusers(tensors).items():
        pair = next(((new, old) for new, old in swap.items() if "mid_block.attentions" in key and new in key), None)
        found[key.replace(*pair) if pair else key] = row
    return found


VAE_NAMES = pytest.mark.parametrize(
    "renamed", [leaves_alone, old_leaves_as_linear_layers, as_diffusers, as_diffusers_before_0_18]
)


@VAE_NAMES
def test_a_vae_of_other_names_is_read_under_the_usual_ones_with_a_note(renamed: Renamed, tmp_path: Path) -> None:
    tensors = random_tensors("sd15", 1)
    checkpoint = opened(tmp_path, "a", renamed(tensors))
    assert checkpoint.tensors.keys() == tensors.keys()
    assert all(torch.equal(checkpoint.tensor(key), row) for key, row in tensors.items())
    assert [note for note in checkpoint.notes if "have other names than in most checkpoints" in note]


@VAE_NAMES
@pytest.mark.parametrize("prefix", first_fast(1, ["", VAE, "vae."]))
def test_a_vae_file_of_other_names_is_baked_whole(renamed: Renamed, prefix: str, tmp_path: Path) -> None:
    given = vae_of(random_tensors("sd15", 3))
    named = {prefix + key.removeprefix(VAE): row for key, row in renamed(given).items()}
    opened(tmp_path, "parent", random_tensors("sd15", 1))
    save_file({key: row.contiguous() for key, row in named.items()}, tmp_path / "vae.safetensors")
    parents = Parents.of([opened(tmp_path, "a", random_tensors("sd15", 1))])
    files = Ingredients(parents, vae=VaeFile.open(tmp_path / "vae.safetensors"))
    assert {key for key in files.tensors if VAE_SOURCE in files.sources(key)} == given.keys()
    assert all(torch.equal(files.tensor(key, VAE_SOURCE), row) for key, row in given.items())
    assert [note for note in files.notes if note.startswith("the VAE (vae.safetensors): ")]


def with_transformers_names(prefix: str) -> Renamed:
    """transformers' names for OpenCLIP's text model, as its conversion in diffusers gives them."""

    def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {key: row for key, row in tensors.items() if key.startswith(CLIP_G)}
        converted = convert_open_clip_checkpoint(None, dict(own), CLIP_G)
        rest = {key: row for key, row in tensors.items() if key not in own}
        return rest | {f"{prefix}{key}": row for key, row in converted.items() if "position_ids" not in key}

    return renamed


@pytest.mark.parametrize("prefix", [CLIP_G, "conditioner.embedders.1.transformer.", "clip_g.transformer."])
def test_the_second_text_encoder_is_known_by_transformers_names(prefix: str, tmp_path: Path) -> None:
    """Among them the projection, which lies the other way there."""
    tensors = random_tensors("sdxl", 1)
    checkpoint = opened(tmp_path, "a", with_transformers_names(prefix)(tensors))
    left_out = {f"{CLIP_G}logit_scale"}
    assert checkpoint.tensors.keys() == tensors.keys() - left_out
    assert all(torch.equal(checkpoint.tensor(key), tensors[key]) for key in checkpoint.tensors)


@pytest.mark.parametrize("prefix", ["cond_stage_model.clip_l.transformer.", "clip_l.transformer."])
def test_a_text_encoder_below_another_prefix_is_known(prefix: str, tmp_path: Path) -> None:
    tensors = {key: row for key, row in random_tensors("sd15", 1).items() if not key.endswith("position_ids")}
    checkpoint = opened(tmp_path, "a", {key.replace(TEXT, prefix): row for key, row in tensors.items()})
    assert checkpoint.tensors.keys() == tensors.keys()
    assert all(torch.equal(checkpoint.tensor(key), row) for key, row in tensors.items())


def cut(tensors: Mapping[str, Tensor], prefix: str, kept: int) -> dict[str, Tensor]:
    """Keep some of the tensors below a prefix, and all others."""
    own = [key for key in tensors if key.startswith(prefix) and not key.endswith("position_ids")]
    return {key: row for key, row in tensors.items() if key not in own[kept:]}


PARTS = pytest.mark.parametrize(
    ("architecture", "prefix", "component"),
    [
        ("sd15", VAE, "vae"),
        ("sd15", TEXT, "text_encoder"),
        ("sdxl", CLIP_G, "text_encoder_2"),
    ],
)


@PARTS
@pytest.mark.parametrize("kept", first_fast(1, [2, -1]))
def test_what_is_incomplete_in_a_is_taken_whole_from_the_next_that_has_it(
    architecture: str, prefix: str, component: str, kept: int, tmp_path: Path
) -> None:
    full = random_tensors(architecture, 2)
    parents = Parents.of(
        [
            opened(tmp_path, "a", cut(random_tensors(architecture, 1), prefix, kept)),
            opened(tmp_path, "b", cut(random_tensors(architecture, 3), prefix, 5)),
            opened(tmp_path, "c", full),
        ]
    )
    own = [key for key in full if key.startswith(prefix)]
    assert set(own) <= parents.tensors.keys()
    assert all(torch.equal(parents.kept(key), full[key]) for key in own)
    assert not any(parents.is_merged(key) for key in own)
    notes = "\n".join(parents.notes)
    assert f"A's {component} is incomplete (" in notes
    assert f"parent A has no {component}: C's is taken as it is" in notes


@PARTS
def test_what_is_incomplete_in_another_parent_leaves_as_whole(
    architecture: str, prefix: str, component: str, tmp_path: Path
) -> None:
    full = random_tensors(architecture, 1)
    files = [opened(tmp_path, "a", full), opened(tmp_path, "b", cut(random_tensors(architecture, 2), prefix, 9))]
    parents = Parents.of(files)
    own = [key for key in full if key.startswith(prefix)]
    assert not any(parents.is_merged(key) for key in own)
    assert all(torch.equal(parents.kept(key), full[key]) for key in own)
    assert f"B has no {component}: parent A's stays" in parents.notes


def test_a_given_vae_replaces_the_rest_of_one(tmp_path: Path) -> None:
    given = vae_of(random_tensors("sd15", 3))
    save_file(given, tmp_path / "vae.safetensors")
    parents = Parents.of([opened(tmp_path, "a", cut(random_tensors("sd15", 1), VAE, 2))])
    files = Ingredients(parents, vae=VaeFile.open(tmp_path / "vae.safetensors"))
    assert {key for key in files.tensors if key.startswith(VAE)} == given.keys()
    for key, row in given.items():
        assert list(files.sources(key)) == [VAE_SOURCE]
        assert torch.equal(files.tensor(key, VAE_SOURCE), row)
    assert "the parents' own vae is incomplete (2 of 248 tensors) and is not used" in files.notes


def test_a_given_vae_that_is_incomplete_is_refused(tmp_path: Path) -> None:
    save_file(cut(vae_of(random_tensors("sd15", 3)), VAE, 200), tmp_path / "vae.safetensors")
    parents = Parents.of([opened(tmp_path, "a", random_tensors("sd15", 1))])
    with pytest.raises(CheckpointError, match=r"vae.safetensors is incomplete: 48 of 248 tensors are not in it"):
        Ingredients(parents, vae=VaeFile.open(tmp_path / "vae.safetensors"))


@pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
@pytest.mark.parametrize("lost", first_fast(1, ["time_embed.0.bias", "out.2.weight", "input_blocks.0.0.weight"]))
def test_a_u_net_without_what_every_one_has_is_refused(architecture: str, lost: str, tmp_path: Path) -> None:
    key = f"model.diffusion_model.{lost}"
    whole, damaged = random_tensors(architecture, 1), random_tensors(architecture, 2)
    del damaged[key]
    a, b = opened(tmp_path, "a", whole), opened(tmp_path, "b", damaged)
    assert (a.lacking, b.lacking) == ((), (key,))
    for parents, letter in (([a, b], "B"), ([b, a], "A"), ([b, b], "A"), ([b], "A")):
        with pytest.raises(CheckpointError, match=rf"parent {letter} .* incomplete U-Net, without {re.escape(key)}"):
            Parents.of(parents)


@pytest.mark.parametrize(
    "lost",
    first_fast(1, ["encoder.layers.0.mlp.fc1.bias", "final_layer_norm.weight", "embeddings.position_embedding.weight"]),
)
def test_a_text_encoder_that_no_parent_has_whole_is_refused(lost: str, tmp_path: Path) -> None:
    key = f"{TEXT}text_model.{lost}"
    tensors = [random_tensors("sd15", seed) for seed in range(3)]
    for each in tensors[:2]:
        del each[key]
    a, b, c = (opened(tmp_path, name, each) for name, each in zip("abc", tensors, strict=True))
    with pytest.raises(CheckpointError, match=rf"no parent has a whole text_encoder: A's .*{re.escape(key)}"):
        Parents.of([a, b])
    assert Parents.of([a, b, c]).home(key) == 2


def test_a_vae_that_no_parent_has_whole_is_told_and_may_be_given(tmp_path: Path) -> None:
    key = "first_stage_model.decoder.conv_out.bias"
    tensors = [random_tensors("sd15", seed) for seed in range(2)]
    for each in tensors:
        del each[key]
    parents = Parents.of([opened(tmp_path, name, each) for name, each in zip("ab", tensors, strict=True)])
    assert f"no parent has a whole vae (without {key}): give one with `vae:`" in parents.notes
    whole = {name: row for name, row in random_tensors("sd15", 3).items() if name.startswith("first_stage_model.")}
    save_file(whole, tmp_path / "vae.safetensors")
    files = Ingredients(parents, vae=VaeFile.open(tmp_path / "vae.safetensors"))
    assert list(files.sources(key)) == [VAE_SOURCE]
