"""The compiled add difference: the same bits as the library calls, or it is not used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optimizer.merging.engine.flat import Scratch, merge_flat
from optimizer.merging.engine.fused import WORTH_COMPILING, FusedAddDifference
from optimizer.merging.engine.plan import PlacePlan, PlannedStep
from studies.recipe.recipe import Operation

PLAN = PlacePlan(
    (PlannedStep(Operation(method="add_difference", inputs=("A", "B", "C")), (0.61,), "result-1"),), "result-1"
)


@pytest.fixture(scope="module")
def compiling() -> Scratch:
    scratch = Scratch.on("cpu", WORTH_COMPILING)
    assert scratch.fused is not None
    return scratch


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("size", "offset"), [(70_001, 0), (4_096, 3)])
def test_compiled_or_not_the_bits_are_the_same(compiling: Scratch, stored: torch.dtype, size: int, offset: int) -> None:
    generator = torch.Generator().manual_seed(size)
    sources = {name: torch.randn(size + offset, generator=generator).to(stored)[offset:] for name in "ABC"}
    sources["A"][5], sources["B"][6], sources["C"][7] = float("nan"), float("inf"), -0.0
    with_compiler, without = torch.zeros(size), torch.zeros(size)
    merge_flat(PLAN, sources, with_compiler, stored, compiling)
    merge_flat(PLAN, sources, without, stored, Scratch.on("cpu"))
    assert torch.equal(with_compiler.view(torch.int32), without.view(torch.int32))
    assert with_compiler.isnan()[5]
    if shutil.which("g++") is not None and compiling.fused is not None:
        assert all(compiling.fused._agrees.values()), "there is a compiler, so it was compiled"


def test_a_loop_that_rounds_otherwise_is_not_used() -> None:
    def reference(inputs: object, ratios: object, live: torch.Tensor, export_dtype: torch.dtype) -> None:
        live.fill_(1.0)  # what the compiled loop cannot give

    fused = FusedAddDifference(reference)
    live = torch.zeros(8)
    assert not fused([torch.ones(8).half()] * 3, (0.5,), live, torch.float16)
    assert torch.equal(live, torch.zeros(8))


def test_without_a_compiler_the_library_calls_do_it(tmp_path: Path) -> None:
    """A real process whose compiler cannot be found."""
    program = """
import torch
from optimizer.merging.engine.flat import Scratch, merge_flat
from optimizer.merging.engine.fused import WORTH_COMPILING
from optimizer.merging.engine.plan import PlacePlan, PlannedStep
from studies.recipe.recipe import Operation
operation = Operation(method="add_difference", inputs=("A", "B", "C"))
plan = PlacePlan((PlannedStep(operation, (0.5,), "result-1"),), "result-1")
scratch, live = Scratch.on("cpu", WORTH_COMPILING), torch.zeros(4)
sources = {"A": torch.ones(4).half(), "B": torch.full((4,), 3.0).half(), "C": torch.ones(4).half()}
merge_flat(plan, sources, live, torch.float16, scratch)
print(live.tolist())
"""
    environment = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=200
    )
    assert done.stdout.strip() == "[2.0, 2.0, 2.0, 2.0]"
