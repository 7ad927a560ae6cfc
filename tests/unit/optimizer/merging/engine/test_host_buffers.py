"""Host memory for sources: as much as is asked for, on pages of its own, given back."""

from __future__ import annotations

import gc
from mmap import PAGESIZE as PAGE

import psutil
import pytest
import torch

from optimizer.errors import NoMemoryError
from optimizer.merging.engine.host_buffers import HostBuffers

CPU = torch.device("cpu")


def test_parts_are_zeros_in_their_sources_own_pages() -> None:
    buffers = HostBuffers({"A": 3 * PAGE + 8, "B": 1}, CPU)
    first, rest = buffers.part("A", 0, PAGE, torch.uint8), buffers.part("A", PAGE, PAGE // 4 + 2, torch.float32)
    other = buffers.part("B", 0, 1, torch.uint8)
    assert first.data_ptr() % PAGE == other.data_ptr() % PAGE == 0
    assert rest.data_ptr() == first.data_ptr() + PAGE
    assert not any(row.any() for row in (first, rest, other))
    rest.fill_(1.0)
    assert torch.equal(buffers.part("A", PAGE, rest.numel(), torch.float32), torch.ones(rest.numel()))
    assert not first.any()
    assert not other.any()


def test_a_source_without_bytes_has_an_empty_part() -> None:
    assert HostBuffers({"A": 0}, CPU).part("A", 0, 0, torch.float16).shape == (0,)


def test_nothing_is_pinned_for_a_processor() -> None:
    assert HostBuffers({"A": PAGE}, CPU).pinned_bytes == 0


def test_what_the_system_does_not_give_is_told() -> None:
    with pytest.raises(NoMemoryError, match=r"cannot allocate 1152921504\.6 GB of memory"):
        HostBuffers({"A": 1, "B": 1 << 60}, CPU)


def test_it_takes_what_is_asked_for_and_gives_it_back() -> None:
    size = (3 << 25) + 1  # in a block of a power of two it would take a third more
    process = psutil.Process()
    before = process.memory_info().vms
    buffers = HostBuffers({"A": size}, CPU)
    assert size <= process.memory_info().vms - before < size + (8 << 20)
    del buffers
    gc.collect()
    assert process.memory_info().vms - before < 8 << 20
