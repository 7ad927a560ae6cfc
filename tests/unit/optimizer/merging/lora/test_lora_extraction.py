"""LoRAs extracted from two checkpoints: what they hold, against numpy, and what B's weights are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import random_tensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from slow_cases import first_fast
from small_files import small_parents
from torch import Tensor

from optimizer.errors import LoraError, ParentsDifferError
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.sources import data_hash
from optimizer.merging.lora.extract import ExtractedLora, _truncated, extract, write_lora
from optimizer.merging.lora.file import Lora, delta
from search_spaces.blocks import Architecture, place_of

BOTH = pytest.mark.parametrize("architecture", list(Architecture))
SD15_FAST = pytest.mark.parametrize("architecture", first_fast(1, Architecture))
UNET = "model.diffusion_model."


@cache
def extracted(architecture: str, rank: int, conv_rank: int | None = None) -> ExtractedLora:
    a, b, _ = small_parents(architecture)
    return extract(a, b, rank, conv_rank)


def is_layer(key: str, tensor: np.ndarray) -> bool:
    """Weights of linear layers and convolutions outside the VAE, told by their names."""
    embedding = "token_embedding" in key or "position_embedding" in key or key.endswith("positional_embedding")
    return tensor.ndim in {2, 4} and not embedding and not key.startswith("first_stage_model.")


def numpy_difference(architecture: str) -> dict[str, np.ndarray]:
    a, b, _ = small_parents(architecture)
    return {
        key: b.tensor(key).numpy().astype(np.float64) - a.tensor(key).numpy().astype(np.float64)
        for key, info in a.tensors.items()
        if info.dtype.is_floating_point
    }


def matrices(key: str, difference: np.ndarray) -> list[np.ndarray]:
    if key.endswith("in_proj_weight"):
        return np.split(difference, 3)
    return [difference.reshape(difference.shape[0], -1)]


class TestEnergy:
    @SD15_FAST
    def test_shares_of_every_place_are_those_of_numpys_singular_values(self, architecture: Architecture) -> None:
        rank, conv_rank = 12, 5
        lora = extracted(architecture.value, rank, conv_rank)
        total: dict[str, float] = {}
        layers: dict[str, float] = {}
        kept: dict[str, float] = {}
        for key, difference in numpy_difference(architecture.value).items():
            place = place_of(key, architecture)
            total[place] = total.get(place, 0) + float(np.square(difference).sum())
            if not is_layer(key, difference):
                continue
            layers[place] = layers.get(place, 0) + float(np.square(difference).sum())
            limit = conv_rank if difference.ndim == 4 and difference.shape[-1] > 1 else rank
            for matrix in matrices(key, difference):
                values = np.linalg.svd(matrix, compute_uv=False)
                kept[place] = kept.get(place, 0) + float(np.square(values[:limit]).sum())
        for place, energy in lora.energy.items():
            assert energy.total == pytest.approx(total[place], rel=1e-9)
            assert energy.expressible == pytest.approx(layers.get(place, 0), rel=1e-9)
            assert energy.kept == pytest.approx(kept.get(place, 0), rel=1e-5)  # the factors are float16
        inside = [place for place in total if place not in {"vae", "other"}]
        overall = lora.overall
        assert overall.kept_share == pytest.approx(
            sum(kept[p] for p in inside) / sum(total[p] for p in inside), rel=1e-5
        )
        assert overall.not_expressible_share == pytest.approx(
            1 - sum(layers[p] for p in inside) / sum(total[p] for p in inside), rel=1e-9
        )
        assert lora.energy["vae"].kept == 0
        assert set(lora.energy) == {*inside, "vae"}

    def test_a_rank_of_0_leaves_the_3x3_convolutions_out_and_their_energy_is_not_kept(self) -> None:
        without, with_them = extracted("sd15", 12, 0), extracted("sd15", 12, 5)
        assert {target for target in with_them.factors if target.shape[2:] == (3, 3)} == (
            with_them.factors.keys() - without.factors.keys()
        )
        assert without.overall.kept < with_them.overall.kept
        assert without.overall.total == with_them.overall.total

    @pytest.mark.slow
    def test_more_rank_keeps_more(self) -> None:
        shares = [extracted("sdxl", rank).overall.kept_share for rank in (2, 12, 48)]
        assert shares == sorted(set(shares))


class TestFactors:
    @SD15_FAST
    def test_all_ranks_baked_onto_a_give_the_layers_of_b(self, architecture: Architecture, tmp_path: Path) -> None:
        a, b, _ = small_parents(architecture.value)
        write_lora(tmp_path / "all.safetensors", extract(a, b, 10_000, dtype=torch.float32))
        targets = Lora.open(tmp_path / "all.safetensors").targets(a.tensors, a.architecture)
        assert set(targets) == {key for key, row in numpy_difference(architecture.value).items() if is_layer(key, row)}
        for key, parts in targets.items():
            baked = a.tensor(key).float() + delta(parts, a.tensors[key].shape)
            torch.testing.assert_close(baked, b.tensor(key).float(), rtol=0, atol=2e-6, msg=key)

    @given(rows=st.integers(1, 24), columns=st.integers(1, 24), rank=st.integers(1, 30), seed=st.integers(0, 999))
    def test_no_factors_of_the_rank_come_nearer(self, rows: int, columns: int, rank: int, seed: int) -> None:
        """Eckart and Young: what is left is the norm of the singular values cut off, and the factors are balanced."""
        generator = np.random.default_rng(seed)
        matrix = generator.normal(size=(rows, columns)) * generator.choice([1e-6, 1.0, 1e3])
        if seed % 3 == 0:  # of rank 1, so that the other components are noise
            matrix = matrix[:, :1] @ matrix[:1]
        up, down = (part.numpy() for part in _truncated(torch.from_numpy(matrix), rank))
        values = np.linalg.svd(matrix, compute_uv=False)
        left = np.sqrt(np.square(values[rank:]).sum())
        assert up.shape[1] == down.shape[0] == min(rank, rows, columns)
        assert np.linalg.norm(matrix - up @ down) == pytest.approx(left, abs=3e-6 * values[0])
        np.testing.assert_allclose(np.linalg.norm(up, axis=0), np.linalg.norm(down, axis=1), rtol=1e-3, atol=1e-12)

    def test_small_differences_survive_float16(self) -> None:
        """A fine-tune in small steps differs by millionths: with S in one factor, entries would underflow."""
        a, b, _ = small_parents("sd15")
        key = f"{UNET}middle_block.1.proj_in.weight"
        layer = (b.tensor(key).double() - a.tensor(key).double()).flatten(1) * 1e-5
        up, down = (part.half().double() for part in _truncated(layer, 128))
        assert float((layer - up @ down).norm() / layer.norm()) < 2e-3

    def test_the_same_checkpoints_give_the_same_bytes(self, tmp_path: Path) -> None:
        a, b, _ = small_parents("sd15")
        for name in ("one", "two"):
            write_lora(tmp_path / f"{name}.safetensors", extract(a, b, 4, components=("text_encoder",)))
        assert data_hash(tmp_path / "one.safetensors") == data_hash(tmp_path / "two.safetensors")

    def test_only_what_was_asked_for_is_extracted(self) -> None:
        a, b, _ = small_parents("sdxl")
        lora = extract(a, b, 2, components=("text_encoder_2",))
        assert {target.view.component for target in lora.factors} == {"text_encoder_2"}
        assert set(lora.energy) == {"text_encoder_2", "vae"}

    def test_progress_reaches_the_end(self) -> None:
        a, b, _ = small_parents("sd15")
        seen: list[tuple[int, int]] = []
        extract(a, b, 1, components=("text_encoder",), progress=lambda done, total: seen.append((done, total)))
        assert [done for done, _ in seen] == list(range(1, seen[0][1] + 1))


def changed_copy(folder: Path, changes: Mapping[str, Tensor]) -> tuple[Checkpoint, Checkpoint]:
    """SD1.5 A, and B that is A but for some tensors; an empty one is left out."""
    tensors = random_tensors("sd15", 0)
    save_file(tensors, folder / "a.safetensors")
    changed = {key: row for key, row in {**tensors, **changes}.items() if row.numel()}
    save_file(changed, folder / "b.safetensors")
    return Checkpoint.open(folder / "a.safetensors"), Checkpoint.open(folder / "b.safetensors")


class TestCheckpoints:
    KEY = f"{UNET}middle_block.1.proj_in.weight"
    NORM = f"{UNET}middle_block.1.norm.weight"

    def test_layers_without_a_difference_are_left_out_and_counted(self, tmp_path: Path) -> None:
        a, b = changed_copy(tmp_path, {self.KEY: random_tensors("sd15", 1)[self.KEY]})
        lora = extract(a, b, 4)
        assert [target.key for target in lora.factors] == [self.KEY]
        assert list(lora.energy) == ["M00"]
        assert lora.unchanged == len(extracted("sd15", 12, 5).factors) - 1

    def test_keys_of_one_checkpoint_alone_are_named(self, tmp_path: Path) -> None:
        a, b = changed_copy(tmp_path, {self.KEY: random_tensors("sd15", 1)[self.KEY], self.NORM: torch.ones(0)})
        assert extract(a, b, 4).one_sided == (self.NORM,)

    def test_checkpoints_that_differ_in_nothing(self, tmp_path: Path) -> None:
        a, b = changed_copy(tmp_path, {})
        with pytest.raises(LoraError, match="nothing to extract"):
            extract(a, b, 4)

    def test_checkpoints_that_differ_only_where_no_lora_reaches(self, tmp_path: Path) -> None:
        a, b = changed_copy(tmp_path, {self.NORM: torch.full((128,), 3.0).half()})
        with pytest.raises(LoraError, match=r"cannot hold \(M00\)"):
            extract(a, b, 4)

    def test_checkpoints_of_two_families_or_shapes(self, tmp_path: Path) -> None:
        with pytest.raises(ParentsDifferError, match=r"is sd15, .* is sdxl"):
            extract(small_parents("sd15")[0], small_parents("sdxl")[0], 4)
        a, b = changed_copy(tmp_path, {self.KEY: torch.ones(128, 64, 1, 1)})
        with pytest.raises(ParentsDifferError, match=r"proj_in.weight is \[128, 128, 1, 1\]"):
            extract(a, b, 4)

    def test_a_1x1_convolution_of_one_may_be_a_linear_layer_of_the_other(self, tmp_path: Path) -> None:
        other = random_tensors("sd15", 1)[self.KEY]
        a, b = changed_copy(tmp_path, {self.KEY: other})
        (convolution,) = extract(a, b, 4).factors.values()
        a, b = changed_copy(tmp_path, {self.KEY: other.flatten(1)})
        (linear,) = extract(a, b, 4).factors.values()
        assert all(torch.equal(one, two) for one, two in zip(linear, convolution, strict=True))

    @pytest.mark.parametrize(
        "stored", first_fast(1, [torch.full((32,), torch.nan), torch.ones(7), torch.ones(32, 1, 1)])
    )
    def test_no_vae_stands_in_the_way(self, stored: Tensor, tmp_path: Path) -> None:
        """Of another shape, of no numbers, or stored otherwise: a LoRA holds none of it."""
        key = "first_stage_model.decoder.norm_out.bias"
        a, b = changed_copy(tmp_path, {self.KEY: random_tensors("sd15", 1)[self.KEY], key: stored})
        lora = extract(a, b, 4)
        assert [target.key for target in lora.factors] == [self.KEY]
        assert set(lora.energy) == {"M00", "vae"}
        assert lora.energy["vae"].kept_share == 0
        write_lora(tmp_path / "lora.safetensors", lora)

    def test_values_that_are_not_finite(self, tmp_path: Path) -> None:
        a, b = changed_copy(tmp_path, {self.KEY: torch.full((128, 128, 1, 1), torch.nan).half()})
        with pytest.raises(LoraError, match=f"{self.KEY} holds values that are not finite numbers"):
            extract(a, b, 4)


@BOTH
def test_the_header_says_what_other_programs_look_for(tmp_path: Path, architecture: Architecture) -> None:
    lora = extracted(architecture.value, 12, 5)
    path = tmp_path / "difference.safetensors"
    write_lora(path, lora)
    metadata = Lora.open(path).metadata
    sdxl = architecture == Architecture.SDXL
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], float(metadata["ss_network_alpha"])) == ("12", 12)
    assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "5", "conv_alpha": "5.0"}
    assert metadata["ss_base_model_version"] == ("sdxl_base_v1-0" if sdxl else "sd_v1")
    assert metadata["modelspec.architecture"] == f"stable-diffusion-{'xl-v1-base' if sdxl else 'v1'}/lora"
    assert metadata["modelspec.title"] == "difference"
    assert metadata["sshs_model_hash"] == data_hash(path)
    assert metadata["modelspec.hash_sha256"] == f"0x{data_hash(path)}"
    a, b, _ = small_parents(architecture.value)
    assert list(json.loads(metadata["sd_merge_models"])) == [a.sha256, b.sha256]
    assert json.loads(metadata["sd_merge_recipe"])["secondary_model_hash"] == b.sha256
