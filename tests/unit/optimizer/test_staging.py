"""What goes through the two buffers arrives as it was, and nothing is allocated for it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.staging import BUFFERS, STEP, Staging

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.int64, torch.bool)

several = st.lists(st.sampled_from(DTYPES), min_size=1, max_size=5)


def random_sources(dtypes: list[torch.dtype], count: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-9, 9, (len(dtypes), count), generator=generator)
    return {name: row.to(dtype) for name, row, dtype in zip("ABCDE", rows, dtypes, strict=False)}


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@settings(deadline=None)
@given(dtypes=several, steps=st.integers(1, 3), share=st.floats(0, 1), spare=st.integers(0, 999))
def test_sources_of_any_dtypes_arrive_side_by_side_up_to_the_chunk(
    dtypes: list[torch.dtype], steps: int, share: float, spare: int
) -> None:
    staging = Staging("cpu", steps * STEP * sum(dtype.itemsize for dtype in dtypes) + spare)
    chunk = staging.chunk(dtypes)
    assert chunk >= steps * STEP
    for seed in range(BUFFERS + 1):
        for count in (chunk, round(share * chunk), 0):
            sources = random_sources(dtypes, count, seed)
            with staging.filled(sources) as there:
                assert there.keys() == sources.keys()
                assert all(same(there[name], row) for name, row in sources.items())


def test_every_source_begins_where_whole_vectors_begin() -> None:
    staging = Staging("cpu", 1 << 14)
    with staging.filled(random_sources([torch.float8_e4m3fn, torch.float16, torch.float32], 77, 0)) as there:
        first, *others = (row.data_ptr() for row in there.values())
    assert all((address - first) % STEP == 0 for address in others)


def test_more_sources_than_a_buffer_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="3 sources do not fit into a buffer of 2048 bytes"):
        Staging("cpu", 2048).chunk([torch.float32] * 3)


def test_one_buffer_is_filled_while_the_other_is_read_and_there_are_no_more() -> None:
    staging = Staging("cpu", 1 << 12)
    addresses = []
    before = random_sources([torch.float16], 300, 0)
    with staging.filled(before) as held, staging.filled(random_sources([torch.float16], 300, 1)):
        assert same(held["A"], before["A"])
    for seed in range(10):
        with staging.filled(random_sources([torch.float16], 300, seed)) as there:
            addresses.append(there["A"].data_ptr())
    assert len(set(addresses)) == BUFFERS
    assert all(one != other for one, other in pairwise(addresses))


def test_after_a_piece_that_failed_the_next_one_is_right() -> None:
    staging = Staging("cpu", 1 << 12)
    with pytest.raises(ZeroDivisionError), staging.filled(random_sources([torch.float16], 300, 0)):
        raise ZeroDivisionError
    for seed in range(3):
        sources = random_sources([torch.float16], 300, seed)
        with staging.filled(sources) as there:
            assert same(there["A"], sources["A"])
