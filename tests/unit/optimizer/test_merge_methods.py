"""The arithmetic of merging against float64, and its independence of how the tensors are cut."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.flat import Scratch, merge_flat

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
EXPORTS = (HALF, BRAIN, FULL)
MIXES = ((HALF, HALF), (BRAIN, BRAIN), (FULL, FULL), (HALF, FULL), (BRAIN, HALF))
RATIOS = (0.1, 1 / 3, 0.5, 0.7, 0.95)


def merged(
    method: str,
    parents: Sequence[Tensor],
    ratios: Sequence[float],
    *,
    live: torch.dtype = FULL,
    export: torch.dtype = FULL,
    chunk: int = 1 << 16,
) -> Tensor:
    out = torch.full((parents[0].numel(),), 99.0, dtype=live)
    merge_flat(method, parents, ratios, out, export, Scratch(torch.empty(chunk), torch.empty(chunk)))
    return out


def values(count: int, dtypes: Sequence[torch.dtype], seed: int = 0) -> list[Tensor]:
    """Values over several orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(dtypes), count, generator=generator) * 10 ** (torch.rand(count, generator=generator) * 4 - 3)
    return [row.to(dtype) for row, dtype in zip(rows, dtypes, strict=True)]


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])


def folded(parents: Sequence[Tensor], ratios: Sequence[float]) -> Tensor:
    """The weighted sum in float64."""
    total = parents[0].double()
    for parent, ratio in zip(parents[1:], ratios, strict=True):
        total = (1 - ratio) * total + ratio * parent.double()
    return total


def assert_one_unit(result: Tensor, exact: Tensor, parents: Sequence[Tensor], export: torch.dtype) -> None:
    """Within one unit in the last place of the export dtype, and of float32 at the inputs' size where they cancel."""
    info = torch.finfo(export)
    unit = (exact.abs() * info.eps).clamp_min(info.tiny * info.eps)
    largest = torch.stack([parent.double().abs() for parent in parents]).amax(dim=0)
    assert ((result.double() - exact).abs() <= unit + 4 * torch.finfo(FULL).eps * largest).all()


class TestWeightedSum:
    @pytest.mark.parametrize("export", EXPORTS)
    @pytest.mark.parametrize("dtypes", MIXES)
    def test_two_parents_match_float64(self, dtypes: tuple[torch.dtype, torch.dtype], export: torch.dtype) -> None:
        parents = values(4_099, dtypes)
        for ratio in RATIOS:
            result = merged("weighted_sum", parents, [ratio], live=export, export=export)
            assert_one_unit(result, folded(parents, [ratio]), parents, export)

    @pytest.mark.parametrize("export", EXPORTS)
    @pytest.mark.parametrize("dtypes", [(HALF, HALF, HALF), (FULL, HALF, BRAIN)])
    def test_a_third_parent_is_folded_into_the_first_two(
        self, dtypes: tuple[torch.dtype, ...], export: torch.dtype
    ) -> None:
        parents = values(4_099, dtypes)
        for ratios in ((0.3, 0.6), (0.9, 0.1), (0.0, 0.4), (0.4, 0.0)):
            result = merged("weighted_sum", parents, ratios, live=export, export=export)
            assert_one_unit(result, folded(parents, ratios), parents, export)

    @pytest.mark.parametrize("dtype", EXPORTS)
    @pytest.mark.parametrize(("ratios", "whole"), [((0.0, 0.0), 0), ((1.0, 0.0), 1), ((0.3, 1.0), 2), ((0.0, 1.0), 2)])
    def test_endpoints_are_the_parent_bit_for_bit(
        self, dtype: torch.dtype, ratios: tuple[float, float], whole: int
    ) -> None:
        parents = values(1_000, [dtype] * 3)
        parents[whole][:4] = torch.tensor([-0.0, 0.0, torch.inf, torch.finfo(dtype).max])
        result = merged("weighted_sum", parents, ratios, live=dtype, export=dtype)
        assert torch.equal(bits(result), bits(parents[whole]))

    @pytest.mark.parametrize("dtype", EXPORTS)
    def test_two_parents_at_ratio_one_give_b_bit_for_bit(self, dtype: torch.dtype) -> None:
        parents = values(1_000, [dtype] * 2)
        parents[1][:2] = torch.tensor([-0.0, torch.finfo(dtype).max])
        parents[0][1] = torch.finfo(dtype).min  # B - A overflows
        assert torch.equal(bits(merged("weighted_sum", parents, [1.0], live=dtype, export=dtype)), bits(parents[1]))

    @pytest.mark.parametrize(
        ("broken", "ratios"), [(1, (0.0, 0.5)), (2, (0.5, 0.0)), (0, (1.0, 0.5)), (0, (1.0, 0.0)), (1, (0.4, 1.0))]
    )
    def test_nan_of_a_parent_without_a_share_does_not_leak(self, broken: int, ratios: tuple[float, float]) -> None:
        parents = values(130, [HALF] * 3)
        parents[broken][:] = torch.nan
        assert merged("weighted_sum", parents, ratios, live=HALF, export=HALF).isfinite().all()

    @pytest.mark.parametrize("broken", [0, 1, 2])
    def test_nan_of_a_parent_with_a_share_shows(self, broken: int) -> None:
        parents = values(130, [HALF] * 3)
        parents[broken][7] = torch.nan
        result = merged("weighted_sum", parents, (0.5, 0.5), live=HALF, export=HALF)
        assert result.isnan().nonzero().flatten().tolist() == [7]

    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64])
    def test_dtypes_without_a_fused_pass_are_merged_in_float32(self, dtype: torch.dtype) -> None:
        parents = [torch.linspace(low, 3, 65).to(dtype) for low in (-2, 1)]
        result = merged("weighted_sum", parents, [0.25], live=dtype, export=dtype)
        exact = torch.lerp(parents[0].float(), parents[1].float(), 0.25).to(dtype)
        assert torch.equal(bits(result), bits(exact))


class TestAddDifference:
    @pytest.mark.parametrize("export", EXPORTS)
    @pytest.mark.parametrize("dtypes", [(HALF, HALF, HALF), (FULL, FULL, FULL), (BRAIN, FULL, HALF)])
    def test_matches_float64(self, dtypes: tuple[torch.dtype, ...], export: torch.dtype) -> None:
        parents = values(4_099, dtypes)
        first, second, base = (parent.double() for parent in parents)
        for ratio in (*RATIOS, 1.0, 1.5, -0.5):
            result = merged("add_difference", parents, [ratio], live=export, export=export)
            assert_one_unit(result, first + ratio * (second - base), parents, export)

    @pytest.mark.parametrize("dtype", EXPORTS)
    def test_ratio_zero_is_parent_a_bit_for_bit_whatever_the_others_hold(self, dtype: torch.dtype) -> None:
        parents = values(200, [dtype] * 3)
        parents[0][0] = -0.0
        parents[1][:], parents[2][:] = torch.nan, torch.inf
        assert torch.equal(bits(merged("add_difference", parents, [0.0], live=dtype, export=dtype)), bits(parents[0]))


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["weighted_sum", "add_difference"]),
    dtypes=st.lists(st.sampled_from(EXPORTS), min_size=3, max_size=3),
    same=st.booleans(),
    export=st.sampled_from(EXPORTS),
    ratios=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    cuts=st.lists(st.integers(1, 2_499), max_size=6),
    chunk=st.integers(1, 300),
)
def test_results_do_not_depend_on_how_the_tensor_is_cut(
    method: str,
    dtypes: list[torch.dtype],
    same: bool,
    export: torch.dtype,
    ratios: tuple[float, float],
    cuts: list[int],
    chunk: int,
) -> None:
    parents = values(2_500, dtypes[:1] * 3 if same else dtypes)
    if method == "weighted_sum" and same:
        parents = parents[:2]  # the fused pass
    slots = ratios[:1] if method == "add_difference" or len(parents) == 2 else ratios
    whole = merged(method, parents, slots, live=export, export=export)
    edges = [0, *sorted(set(cuts)), 2_500]
    pieces = [
        merged(method, [row[start:end].clone() for row in parents], slots, live=export, export=export, chunk=chunk)
        for start, end in itertools.pairwise(edges)
    ]
    assert torch.equal(bits(torch.cat(pieces)), bits(whole))


@pytest.mark.parametrize("method", ["weighted_sum", "add_difference"])
@pytest.mark.parametrize("export", [HALF, BRAIN])
@pytest.mark.parametrize("ratio", [0.0, 0.35, 1.0])
def test_a_float32_live_tensor_holds_the_values_rounded_to_the_export_dtype(
    method: str, export: torch.dtype, ratio: float
) -> None:
    parents = values(1_000, [FULL] * (3 if method == "add_difference" else 2))
    live = merged(method, parents, [ratio], live=FULL, export=export, chunk=96)
    assert live.dtype == FULL
    assert torch.equal(live, live.to(export).float())
    assert torch.equal(live, merged(method, parents, [ratio], live=export, export=export).float())
    assert not torch.equal(live, merged(method, parents, [ratio], live=FULL, export=FULL))  # something was rounded


def test_parents_are_left_as_they_were() -> None:
    parents = values(500, [HALF, HALF, HALF])
    before = [parent.clone() for parent in parents]
    for method, ratios in (("weighted_sum", (0.3, 1.0)), ("weighted_sum", (1.0, 0.3)), ("add_difference", (0.3,))):
        merged(method, parents, ratios, live=HALF, export=HALF)
    assert all(torch.equal(bits(one), bits(other)) for one, other in zip(parents, before, strict=True))
