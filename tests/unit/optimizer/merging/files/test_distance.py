"""Distances of checkpoints against numpy in float64 over whole tensors, and what must never change them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import random_tensors, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from optimizer.errors import CheckpointError, ParentsDifferError
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.distance import (
    CHUNK_ELEMENTS,
    Comparison,
    Distance,
    combined,
    compare,
    compared_bytes,
    tensor_distance,
)

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn)
POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
PREFIXES = {  # of whole places, told here by hand
    "IN05": "model.diffusion_model.input_blocks.5.",
    "M00": "model.diffusion_model.middle_block.",
    "OUT03": "model.diffusion_model.output_blocks.3.",
    "text_encoder": "cond_stage_model.",
    "vae": "first_stage_model.",
}


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def numpy_relative(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """||b - a|| / ||a|| over all pairs as one vector."""
    a = np.concatenate([pair[0].double().numpy().ravel() for pair in pairs])
    b = np.concatenate([pair[1].double().numpy().ravel() for pair in pairs])
    return float(np.linalg.norm(b - a) / np.linalg.norm(a))


# -------------------------------------------------------------------------------------- one tensor


@given(
    st.integers(1, 400), st.integers(0, 2**31), st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.floats(0.001, 10)
)
@settings(deadline=None)
def test_a_distance_is_that_of_numpy_whatever_the_dtypes(
    size: int, seed: int, dtype_a: torch.dtype, dtype_b: torch.dtype, scale: float
) -> None:
    a, b = noise(seed, size, dtype=dtype_a), (noise(seed + 1, size) * scale).to(dtype_b)
    found = tensor_distance(a, b)
    x, y = a.double().numpy(), b.double().numpy()
    assert found.relative == pytest.approx(numpy_relative([(a, b)]), rel=1e-12)
    expected = np.dot(y - x, x) / (np.linalg.norm(y - x) * np.linalg.norm(x)) if (y != x).any() and x.any() else None
    assert found.cosine == (None if expected is None else pytest.approx(expected, abs=1e-12))
    assert (found.tensors, found.size, found.identical) == (1, size, int((x == y).all()))


def test_a_tensor_larger_than_a_piece_counts_to_its_last_element() -> None:
    a = noise(1, CHUNK_ELEMENTS + 3, 2)
    b = a.clone()
    b[-1, -1] += 3
    found = tensor_distance(a, b)
    assert found.relative == pytest.approx(numpy_relative([(a, b)]), rel=1e-12)
    assert found.relative > 0
    assert found.identical == 0


def test_differences_that_float32_cannot_hold_are_measured() -> None:
    a = torch.full((1000,), 1.0, dtype=torch.float64)
    assert tensor_distance(a, a + 1e-12).relative == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_values_have_no_distance_whatever_they_are_stored_as(dtype: torch.dtype) -> None:
    a = noise(3, 6, 7, dtype=torch.float8_e4m3fn).to(dtype)
    found = tensor_distance(a, a.double())
    assert (found.relative, found.cosine, found.identical) == (0.0, None, 1)


def test_the_cosine_tells_a_scaled_copy_from_one_that_went_its_own_way() -> None:
    a = noise(4, 50)
    assert tensor_distance(a, 1.25 * a).cosine == pytest.approx(1)
    assert tensor_distance(a, 0.5 * a).cosine == pytest.approx(-1)
    x, y = torch.tensor([3.0, 0, 0]), torch.tensor([3.0, 4, 0])
    assert tensor_distance(x, y).cosine == 0
    assert tensor_distance(x, y).relative == pytest.approx(4 / 3)


def test_zeros_are_at_no_distance_of_zeros_and_infinitely_far_from_all_else() -> None:
    zeros = torch.zeros(5)
    assert tensor_distance(zeros, zeros).relative == 0
    assert tensor_distance(zeros, torch.ones(5)).relative == math.inf
    assert tensor_distance(torch.zeros(0), torch.zeros(0)).relative == 0


@pytest.mark.parametrize("values", [[math.nan], [math.inf], [-math.inf], [math.inf, -math.inf]])
@pytest.mark.parametrize("where", ["a", "b", "both"])
def test_what_is_not_finite_has_no_distance_and_no_place_with_it_has(values: list[float], where: str) -> None:
    sound = noise(5, 8)
    bad = sound.clone()
    bad[: len(values)] = torch.tensor(values)
    found = tensor_distance(sound if where == "b" else bad, sound if where == "a" else bad)
    assert not found.finite
    assert math.isnan(found.relative)
    assert found.cosine is None
    assert math.isnan(combined([found, tensor_distance(sound, 2 * sound), found]).relative)


# ---------------------------------------------------------------------------------- several tensors

sums = st.floats(0, 1e30)
distances = st.builds(
    Distance,
    tensors=st.just(1),
    size=st.integers(0, 10**9),
    identical=st.integers(0, 1),
    squared_difference=sums,
    squared_norm=sums,
    inner=st.floats(-1e30, 1e30),
)


@given(st.lists(distances, max_size=30), st.integers(0, 2**31))
def test_the_order_of_tensors_changes_no_bit(rows: list[Distance], seed: int) -> None:
    shuffled = rows.copy()
    random.Random(seed).shuffle(shuffled)
    assert combined(shuffled) == combined(rows)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 2**31))
@settings(deadline=None)
def test_several_tensors_count_as_one_long_vector(sizes: list[int], seed: int) -> None:
    pairs = [(noise(seed + n, size), noise(seed - n - 1, size)) for n, size in enumerate(sizes)]
    found = combined(tensor_distance(a, b) for a, b in pairs)
    assert found.relative == pytest.approx(numpy_relative(pairs), rel=1e-12)
    assert (found.tensors, found.size) == (len(sizes), sum(sizes))


# -------------------------------------------------------------------------------------- whole files


def opened(path: Path, tensors: Mapping[str, Tensor]) -> Checkpoint:
    save_file(dict(tensors), path)
    return Checkpoint.open(path)


@pytest.fixture(scope="module")
def tensors() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A, and B where the VAE is A's."""
    a, b = random_tensors("sd15", 1), random_tensors("sd15", 2)
    return a, {key: a[key] if key.startswith("first_stage_model.") else value for key, value in b.items()}


@pytest.fixture(scope="module")
def compared(
    tensors: tuple[dict[str, Tensor], dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> Comparison:
    folder = tmp_path_factory.mktemp("files")
    a, b = tensors
    return compare(opened(folder / "a.safetensors", a), opened(folder / "b.safetensors", b))


@pytest.mark.parametrize("place", PREFIXES)
def test_a_place_has_the_distance_of_all_its_weights_together(
    place: str, tensors: tuple[dict[str, Tensor], dict[str, Tensor]], compared: Comparison
) -> None:
    a, b = tensors
    keys = [key for key in a if key.startswith(PREFIXES[place]) and key != POSITIONS]
    found = compared.by_place()[place]
    assert found.relative == pytest.approx(numpy_relative([(a[key], b[key]) for key in keys]), rel=1e-12)
    assert found.tensors == len(keys)
    assert found.identical == sum(torch.equal(a[key], b[key]) for key in keys)


def test_every_tensor_is_told_once_and_the_most_different_are_those_of_numpy(
    tensors: tuple[dict[str, Tensor], dict[str, Tensor]], compared: Comparison
) -> None:
    a, b = tensors
    assert sorted([*(row.key for row in compared.tensors), *compared.unaveraged]) == sorted(a)
    expected = sorted(
        ((numpy_relative([(a[key], b[key])]), key) for key in a if key != POSITIONS), key=lambda row: (-row[0], row[1])
    )[:5]
    found = compared.most_different(5)
    assert [row.key for row in found] == [key for _, key in expected]
    assert [row.distance.relative for row in found] == pytest.approx([value for value, _ in expected], rel=1e-12)


def test_the_order_in_the_file_changes_no_bit(
    tensors: tuple[dict[str, Tensor], dict[str, Tensor]], compared: Comparison, tmp_path: Path
) -> None:
    a, b = tensors
    wide = {key: value.double() if len(key) % 2 and key != POSITIONS else value for key, value in a.items()}
    again = compare(opened(tmp_path / "a.safetensors", wide), opened(tmp_path / "b.safetensors", b))
    assert [row.key for row in again.tensors] != [row.key for row in compared.tensors]  # wide ones come first
    assert again.by_place() == compared.by_place()


def test_a_file_is_at_no_distance_of_itself(tmp_path: Path) -> None:
    file = Checkpoint.open(write_checkpoint(tmp_path / "a.safetensors", "sdxl"))
    found = compare(file, file)
    assert all(distance.relative == 0 for distance in found.by_place().values())
    assert all(row.distance.identical for row in found.tensors)
    assert found.only_in_a == found.only_in_b == found.other_shapes == found.unaveraged_different == ()


# A few keys are a checkpoint too: enough to say what happens to odd ones.
SMALL = {
    "model.diffusion_model.input_blocks.0.0.weight": noise(1, 32, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.0.in_layers.0.weight": noise(2, 32),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": noise(3, 10, 64),
    POSITIONS: torch.arange(77)[None],
    "model_ema.diffusion_modelinput_blocks00weight": noise(4, 8),
    "v_pred": torch.zeros(0),
}
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def test_positions_and_markers_are_compared_but_not_measured(tmp_path: Path) -> None:
    same = compare(opened(tmp_path / "a.safetensors", SMALL), opened(tmp_path / "b.safetensors", SMALL))
    assert same.unaveraged == (POSITIONS, "v_pred")
    moved = SMALL | {POSITIONS: torch.arange(77)[None].flip(1)}
    found = compare(opened(tmp_path / "a.safetensors", SMALL), opened(tmp_path / "b.safetensors", moved))
    assert found.unaveraged_different == (POSITIONS,)
    assert found.by_place() == same.by_place()


def test_ema_copies_are_left_out(tmp_path: Path) -> None:
    ema = "model_ema.diffusion_modelinput_blocks00weight"
    without = {key: value for key, value in SMALL.items() if key != ema}
    found = compare(opened(tmp_path / "a.safetensors", SMALL), opened(tmp_path / "b.safetensors", without))
    assert found.only_in_a == ()
    assert ema not in {row.key for row in found.tensors}


def test_keys_of_one_file_and_other_shapes_are_named(tmp_path: Path) -> None:
    inner = "model.diffusion_model.input_blocks.1.0.in_layers.0"
    other = {key: value for key, value in SMALL.items() if key != "v_pred"} | {f"{inner}.bias": noise(5, 32)}
    other[f"{inner}.weight"] = noise(6, 16)
    a, b = opened(tmp_path / "a.safetensors", SMALL), opened(tmp_path / "b.safetensors", other)
    found = compare(a, b)
    assert found.only_in_a == ("v_pred",)
    assert found.only_in_b == (f"{inner}.bias",)
    assert found.other_shapes == (f"{inner}.weight",)
    assert f"{inner}.weight" not in {row.key for row in found.tensors}


def test_shapes_that_differ_in_ones_at_the_end_are_compared(tmp_path: Path) -> None:
    """A 1x1 convolution is a linear layer, and files store it as either."""
    key = "first_stage_model.decoder.mid.attn_1.q.weight"
    flat = noise(7, 8, 8)
    a = opened(tmp_path / "a.safetensors", SMALL | {key: flat[:, :, None, None], "betas": torch.arange(3)})
    b = opened(tmp_path / "b.safetensors", SMALL | {key: flat * 2, "betas": torch.arange(3)[:, None]})
    found = compare(a, b)
    assert found.other_shapes == found.unaveraged_different == ()
    (row,) = [row for row in found.tensors if row.key == key]
    assert row.distance.relative == pytest.approx(1)


def test_progress_tells_the_bytes_of_both_files(tmp_path: Path) -> None:
    a = opened(tmp_path / "a.safetensors", SMALL)
    b = opened(tmp_path / "b.safetensors", {key: value.double() for key, value in SMALL.items()})
    told: list[int] = []
    compare(a, b, told.append)
    kept = [value for key, value in SMALL.items() if not key.startswith("model_ema.")]
    assert sum(told) == compared_bytes(a, b) == sum(value.nbytes + 8 * value.numel() for value in kept)


def test_files_of_different_architecture_are_refused(tmp_path: Path) -> None:
    xl = Checkpoint.open(write_checkpoint(tmp_path / "xl.safetensors", "sdxl"))
    with pytest.raises(ParentsDifferError, match=r"A \(a.safetensors\) is sd15, B \(xl.safetensors\) is sdxl"):
        compare(opened(tmp_path / "a.safetensors", SMALL), xl)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    lora = opened(tmp_path / "lora.safetensors", {"lora_unet_x.lora_up.weight": noise(1, 4, 4)})
    with pytest.raises(CheckpointError, match=r"lora.safetensors.*LoRA"):
        compare(opened(tmp_path / "a.safetensors", SMALL), lora)
