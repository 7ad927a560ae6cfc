"""NaN and Inf are found wherever they are, and nowhere else."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import random_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from optimizer.merging.files.checkpoint import Checkpoint, total_bytes
from optimizer.merging.files.health import CHUNK_ELEMENTS, NotFinite, count_not_finite, not_finite

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
values = st.one_of(st.floats(-1000, 1000), st.sampled_from([math.nan, math.inf, -math.inf, 0.0]))


@given(st.lists(values, max_size=40), st.sampled_from(FLOATS))
@settings(deadline=None)
def test_counts_are_those_of_numpy(numbers: list[float], dtype: torch.dtype) -> None:
    expected = np.array(numbers, dtype=np.float64)
    assert count_not_finite(torch.tensor(numbers, dtype=dtype)) == (
        np.isnan(expected).sum(),
        np.isinf(expected).sum(),
    )


def test_large_but_finite_values_are_sound() -> None:
    for dtype in FLOATS:
        assert count_not_finite(torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_are_read(dtype: torch.dtype) -> None:
    assert count_not_finite(torch.tensor([1.0, math.nan, 2.0]).to(dtype)) == (1, 0)


def test_a_value_beyond_the_first_piece_is_found() -> None:
    tensor = torch.zeros(CHUNK_ELEMENTS + 5, dtype=torch.float16)
    assert count_not_finite(tensor) == (0, 0)
    tensor[-1] = math.nan
    assert count_not_finite(tensor.view(5, -1) if tensor.numel() % 5 == 0 else tensor) == (1, 0)


def test_places_are_told_with_the_first_of_their_keys(tmp_path: Path) -> None:
    tensors = random_tensors("sd15", 1)
    keys = sorted(key for key in tensors if key.startswith("model.diffusion_model.output_blocks.3."))
    for key in keys[2:4]:
        tensors[key].view(-1)[0] = math.nan
    tensors[keys[3]].view(-1)[1:3] = math.inf
    vae = "first_stage_model.decoder.conv_in.bias"
    tensors[vae][1] = -math.inf
    save_file(tensors, tmp_path / "bad.safetensors")
    checkpoint = Checkpoint.open(tmp_path / "bad.safetensors")
    told: list[int] = []
    assert not_finite(checkpoint, told.append) == {
        "OUT03": NotFinite(nan=2, infinite=2, tensors=2, first_key=keys[2]),
        "vae": NotFinite(nan=0, infinite=1, tensors=1, first_key=vae),
    }
    assert sum(told) == total_bytes(checkpoint.tensors.values())


def test_a_sound_file_has_nothing_to_tell(tmp_path: Path) -> None:
    save_file(random_tensors("sd15", 1), tmp_path / "a.safetensors")
    assert not_finite(Checkpoint.open(tmp_path / "a.safetensors")) == {}
