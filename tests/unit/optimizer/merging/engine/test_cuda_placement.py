"""Merges on a CUDA device: the same bits wherever the sources stay, in memory that does not grow."""

from __future__ import annotations

import gc
from mmap import PAGESIZE as PAGE
from pathlib import Path

import pytest
import torch
from merge_cases import ADDED, Case, bits

from optimizer.merging.engine.export import export_layout, merged_tensors
from optimizer.merging.engine.flat import Scratch, merge_flat
from optimizer.merging.engine.host_buffers import HostBuffers, _pinned
from optimizer.merging.engine.placement import Placement
from optimizer.merging.engine.plan import PlacePlan, PlannedStep
from optimizer.merging.engine.staging import BUFFER_BYTES, BUFFERS, Staging
from studies.recipe.methods import METHODS
from studies.recipe.recipe import Operation

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

CUDA = torch.device("cuda")
HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
CHAINS = {
    "weighted sum": (Operation(method="weighted_sum", inputs=("A", "B")),),
    "add difference": (Operation(method="add_difference", inputs=("A", "B", "C")),),
    "tensor by tensor": (
        Operation(method="ties", inputs=("A", "B", "C")),
        Operation(method="weighted_sum", inputs=("A", "result-1"), clip=True),
    ),
}
MANY = 20_000_003  # elements: several pieces, and a tail that no vector fills
MIXES = {"half": ((HALF,),) * 3, "mixed": ((HALF,), (FULL,), (BRAIN,))}


@pytest.mark.parametrize("live", [HALF, FULL])
@pytest.mark.parametrize("loras", [0, 1])
@pytest.mark.parametrize("dtypes", MIXES)
@pytest.mark.parametrize("chain", CHAINS)
def test_the_bits_do_not_depend_on_where_the_sources_stay_and_are_those_of_the_file(
    chain: str, dtypes: str, loras: int, live: torch.dtype, tmp_path: Path
) -> None:
    case = Case(operations=CHAINS[chain], dtypes=MIXES[dtypes], loras=loras, vae=True, added=(0, 4), export="fp16")
    files = case.open(tmp_path)
    models = {placement: case.resident(files, placement, live, "cuda") for placement in Placement}
    for seed in range(4):
        recipe = case.recipe(files, seed)
        for model in models.values():
            model.merge(recipe)
        layout = export_layout(files, recipe.dtype)
        saved = dict(merged_tensors(recipe, files, layout, CUDA))
        assert saved[ADDED].shape == (0, 4)
        for placement, model in models.items():
            for key, row in model.live_tensors().items():
                assert bits(row) == bits(saved[key].to(row.dtype)), (seed, placement, key)


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize("chain", CHAINS)
def test_fifty_merges_take_no_more_device_memory(chain: str, placement: Placement, tmp_path: Path) -> None:
    case = Case(operations=CHAINS[chain], dtypes=MIXES["half"])
    files = case.open(tmp_path)
    model = case.resident(files, placement, HALF, "cuda")
    for seed in range(50):
        model.merge(case.recipe(files, seed))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for seed in range(50):
        model.merge(case.recipe(files, seed))
    torch.cuda.synchronize()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_sources_on_the_host_are_pinned_and_the_models_end_unpins_them(tmp_path: Path) -> None:
    case = Case()
    model = case.resident(case.open(tmp_path), Placement.HOST, HALF, "cuda")
    held = [row for slab in model._slabs for row in slab.buffers.values() if row.numel()]
    assert held
    assert all(row.is_pinned() for row in held)
    del model
    gc.collect()
    assert not any(row.is_pinned() for row in held)


@pytest.mark.parametrize("live", [HALF, FULL])
@pytest.mark.parametrize("dtypes", MIXES)
@pytest.mark.parametrize("method", ["weighted_sum", "add_difference", "sum_twice", "multiply_difference"])
def test_many_pieces_from_the_host_make_what_one_pass_on_the_device_makes(
    method: str, dtypes: str, live: torch.dtype
) -> None:
    operation = Operation(method=method, inputs=tuple("ABC"[: METHODS[method].most_inputs]))
    values = tuple(0.3 + 0.1 * index for index, _ in enumerate(operation.slots))
    plan = PlacePlan((PlannedStep(operation, values, "result-1"),), "result-1")
    kinds = {name: dtype for name, (dtype,) in zip("ABC", MIXES[dtypes], strict=True)}
    buffers = HostBuffers({name: MANY * dtype.itemsize for name, dtype in kinds.items()}, CUDA)
    there = {name: buffers.part(name, 0, MANY, dtype) for name, dtype in kinds.items()}
    for seed, row in enumerate(there.values()):
        row.copy_(torch.randn(MANY, generator=torch.Generator().manual_seed(seed)))
    here = {name: row.to(CUDA) for name, row in there.items()}
    found, wanted = (torch.zeros(MANY, dtype=live, device=CUDA) for _ in range(2))
    scratch = Scratch.on(CUDA)
    for _ in range(3):
        found.zero_()
        merge_flat(plan, there, found, HALF, scratch)
    merge_flat(plan, here, wanted, HALF, scratch)
    assert bits(found) == bits(wanted)


class TestHostBuffers:
    def test_what_is_pinned_is_what_was_asked_for(self) -> None:
        buffers = HostBuffers({"A": 3 * PAGE + 8, "B": 0, "C": 1}, CUDA)
        assert buffers.pinned_bytes == 3 * PAGE + 8 + 1
        assert buffers.part("C", 0, 1, torch.uint8).is_pinned()

    def test_after_a_refusal_the_memory_is_pageable_and_the_next_kernel_runs(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        buffers = HostBuffers({"A": 2 * PAGE}, CUDA)
        pinned = buffers.part("A", 0, 2 * PAGE, torch.uint8)
        caplog.clear()
        assert _pinned([pinned], CUDA) == []  # the same pages cannot be pinned again
        (message,) = caplog.messages
        assert "could not be pinned" in message
        assert torch.ones(3, device=CUDA).sum().item() == 3


class TestStaging:
    def test_a_buffer_that_is_still_read_is_not_filled_again(self) -> None:
        """The readers are kept waiting for as long as several copies take."""
        count, staging = 1 << 20, Staging(CUDA, 1 << 21)
        buffers = HostBuffers({"A": 20 * 2 * count}, CUDA)
        source = buffers.part("A", 0, 20 * count, HALF)
        source.view(20, count).copy_(torch.arange(20, dtype=HALF)[:, None])
        found = torch.empty(20, count, dtype=HALF, device=CUDA)
        for index, row in enumerate(source.view(20, count)):
            with staging.filled({"A": row}) as there:
                torch.cuda._sleep(5_000_000)  # type: ignore[no-untyped-call]  # cycles, some milliseconds
                found[index].copy_(there["A"])
        assert torch.equal(found.cpu(), source.view(20, count))

    def test_a_computation_waits_for_its_copies(self) -> None:
        count, staging = BUFFER_BYTES // 2, Staging(CUDA)
        buffers = HostBuffers({"A": 2 * count}, CUDA)
        source = buffers.part("A", 0, count, HALF)
        for number in range(2 * BUFFERS):
            torch.cuda.synchronize()
            source.fill_(number)
            with staging.filled({"A": source}) as there:
                found = there["A"].clone()
            assert torch.equal(found, torch.full_like(found, number))
