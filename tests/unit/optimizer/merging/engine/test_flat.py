"""What the two passes promise: one rounding, whatever the dtypes, and bits that do not depend on how they are cut."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimizer.merging.engine.flat import IN_PLACE, Scratch, _merge_chunks, merge_flat, merge_one, merge_tensor
from optimizer.merging.engine.plan import PlacePlan, plan_places
from optimizer.merging.engine.staging import STEP, Staging
from search_spaces.blocks import Architecture, places
from studies.recipe.methods import METHODS
from studies.recipe.recipe import Operation, Parent, Recipe, Step, canonical_values

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
EXPORTS = (HALF, BRAIN, FULL)
MIXES = ((HALF, HALF), (BRAIN, BRAIN), (FULL, FULL), (HALF, FULL), (BRAIN, HALF))
Delta = tuple[float, Tensor]
RATIOS = (0.1, 1 / 3, 0.5, 0.7, 0.95)


ELEMENTWISE = [name for name, info in METHODS.items() if info.scope == "element"]


def plan_of(operations: Sequence[Operation], values: Sequence[Sequence[float]], count: int) -> PlacePlan:
    every = places(Architecture.SD15)
    recipe = Recipe(
        architecture="sd15",
        parents=tuple(Parent(letter=letter, name=letter, sha256="0" * 64) for letter in "ABCD"[:count]),
        steps=tuple(
            Step(operation=operation, values=canonical_values(dict.fromkeys(every, tuple(row))))
            for operation, row in zip(operations, values, strict=True)
        ),
    )
    return plan_places(recipe)["M00"]


class Passed(Protocol):
    """A plan through the pass over flat buffers, from parents and to a result on the CPU."""

    def __call__(
        self,
        plan: PlacePlan,
        parents: Sequence[Tensor],
        *,
        live: torch.dtype,
        export: torch.dtype,
        chunk: int = 1 << 16,
    ) -> Tensor: ...


@pytest.fixture(scope="module")
def passed(device: torch.device) -> Passed:
    def call(
        plan: PlacePlan, parents: Sequence[Tensor], *, live: torch.dtype, export: torch.dtype, chunk: int = 1 << 16
    ) -> Tensor:
        out = torch.full((parents[0].numel(),), 99.0, device=device).to(live)
        sources = {name: row.to(device) for name, row in zip("ABCD", parents, strict=False)}
        scratch = Scratch(torch.empty(chunk, device=device), torch.empty(chunk, device=device))
        merge_flat(plan, sources, out, export, scratch)
        return out.cpu()

    return call


class Merged(Protocol):
    """One step over all parents, as `Passed`."""

    def __call__(
        self,
        method: str,
        parents: Sequence[Tensor],
        ratios: Sequence[float],
        *,
        live: torch.dtype = FULL,
        export: torch.dtype = FULL,
        chunk: int = 1 << 16,
    ) -> Tensor: ...


@pytest.fixture(scope="module")
def merged(passed: Passed) -> Merged:
    def call(
        method: str,
        parents: Sequence[Tensor],
        ratios: Sequence[float],
        *,
        live: torch.dtype = FULL,
        export: torch.dtype = FULL,
        chunk: int = 1 << 16,
    ) -> Tensor:
        operation = Operation(method=method, inputs=tuple("ABCD"[: len(parents)]))
        plan = plan_of([operation], [ratios], len(parents))
        return passed(plan, parents, live=live, export=export, chunk=chunk)

    return call


def tensor_merged(
    plan: PlacePlan, key: str, sources: Mapping[str, Tensor], out: Tensor, export: torch.dtype, *deltas: Delta
) -> Tensor:
    """`merge_tensor` on `out`'s device, from sources on the CPU; the result is there too."""
    there = {name: row.to(out.device) for name, row in sources.items()}
    merge_tensor(plan, key, there, out, export, [(weight, row.to(out.device)) for weight, row in deltas])
    return out.cpu()


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
    def test_two_parents_match_float64(
        self, merged: Merged, dtypes: tuple[torch.dtype, torch.dtype], export: torch.dtype
    ) -> None:
        parents = values(4_099, dtypes)
        for ratio in RATIOS:
            result = merged("weighted_sum", parents, [ratio], live=export, export=export)
            assert_one_unit(result, folded(parents, [ratio]), parents, export)

    @pytest.mark.parametrize("export", EXPORTS)
    @pytest.mark.parametrize("dtypes", [(HALF, HALF, HALF), (FULL, HALF, BRAIN)])
    def test_a_third_parent_is_folded_into_the_first_two(
        self, merged: Merged, dtypes: tuple[torch.dtype, ...], export: torch.dtype
    ) -> None:
        parents = values(4_099, dtypes)
        for ratios in ((0.3, 0.6), (0.9, 0.1), (0.0, 0.4), (0.4, 0.0)):
            result = merged("weighted_sum", parents, ratios, live=export, export=export)
            assert_one_unit(result, folded(parents, ratios), parents, export)

    @pytest.mark.parametrize("dtype", EXPORTS)
    @pytest.mark.parametrize(("ratios", "whole"), [((0.0, 0.0), 0), ((1.0, 0.0), 1), ((0.3, 1.0), 2), ((0.0, 1.0), 2)])
    def test_endpoints_are_the_parent_bit_for_bit(
        self, merged: Merged, dtype: torch.dtype, ratios: tuple[float, float], whole: int
    ) -> None:
        parents = values(1_000, [dtype] * 3)
        parents[whole][:4] = torch.tensor([-0.0, 0.0, torch.inf, torch.finfo(dtype).max])
        result = merged("weighted_sum", parents, ratios, live=dtype, export=dtype)
        assert torch.equal(bits(result), bits(parents[whole]))

    @pytest.mark.parametrize("dtype", EXPORTS)
    def test_two_parents_at_ratio_one_give_b_bit_for_bit(self, merged: Merged, dtype: torch.dtype) -> None:
        parents = values(1_000, [dtype] * 2)
        parents[1][:2] = torch.tensor([-0.0, torch.finfo(dtype).max])
        parents[0][1] = torch.finfo(dtype).min  # B - A overflows
        assert torch.equal(bits(merged("weighted_sum", parents, [1.0], live=dtype, export=dtype)), bits(parents[1]))

    @pytest.mark.parametrize(
        ("broken", "ratios"), [(1, (0.0, 0.5)), (2, (0.5, 0.0)), (0, (1.0, 0.5)), (0, (1.0, 0.0)), (1, (0.4, 1.0))]
    )
    def test_nan_of_a_parent_without_a_share_does_not_leak(
        self, merged: Merged, broken: int, ratios: tuple[float, float]
    ) -> None:
        parents = values(130, [HALF] * 3)
        parents[broken][:] = torch.nan
        assert merged("weighted_sum", parents, ratios, live=HALF, export=HALF).isfinite().all()

    @pytest.mark.parametrize("broken", [0, 1, 2])
    def test_nan_of_a_parent_with_a_share_shows(self, merged: Merged, broken: int) -> None:
        parents = values(130, [HALF] * 3)
        parents[broken][7] = torch.nan
        result = merged("weighted_sum", parents, (0.5, 0.5), live=HALF, export=HALF)
        assert result.isnan().nonzero().flatten().tolist() == [7]

    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64])
    def test_dtypes_without_a_fused_pass_are_merged_in_float32(self, merged: Merged, dtype: torch.dtype) -> None:
        parents = [torch.linspace(low, 3, 65).to(dtype) for low in (-2, 1)]
        result = merged("weighted_sum", parents, [0.25], live=dtype, export=dtype)
        exact = torch.lerp(parents[0].float(), parents[1].float(), 0.25).to(dtype)
        assert torch.equal(bits(result), bits(exact))


class TestAddDifference:
    @pytest.mark.parametrize("export", EXPORTS)
    @pytest.mark.parametrize("dtypes", [(HALF, HALF, HALF), (FULL, FULL, FULL), (BRAIN, FULL, HALF)])
    def test_matches_float64(self, merged: Merged, dtypes: tuple[torch.dtype, ...], export: torch.dtype) -> None:
        parents = values(4_099, dtypes)
        first, second, base = (parent.double() for parent in parents)
        for ratio in (*RATIOS, 1.0, 1.5, -0.5):
            result = merged("add_difference", parents, [ratio], live=export, export=export)
            assert_one_unit(result, first + ratio * (second - base), parents, export)

    @pytest.mark.parametrize("dtype", EXPORTS)
    def test_ratio_zero_is_parent_a_bit_for_bit_whatever_the_others_hold(
        self, merged: Merged, dtype: torch.dtype
    ) -> None:
        parents = values(200, [dtype] * 3)
        parents[0][0] = -0.0
        parents[1][:], parents[2][:] = torch.nan, torch.inf
        assert torch.equal(bits(merged("add_difference", parents, [0.0], live=dtype, export=dtype)), bits(parents[0]))


@st.composite
def elementwise_plans(draw: st.DrawFn) -> PlacePlan:
    """Chains of up to two steps over four parents."""
    operations: list[Operation] = []
    for number in range(draw(st.integers(1, 2))):
        info = METHODS[draw(st.sampled_from(ELEMENTWISE))]
        names = [*(["result-1"] if number else []), *draw(st.permutations("ABCD"))]
        count = draw(st.integers(info.least_inputs, min(info.most_inputs, 4)))
        operations.append(Operation(method=info.name, inputs=tuple(names[:count]), clip=draw(st.booleans())))
    share = st.sampled_from([0.0, 0.5]) | st.floats(0, 1)
    values = [[draw(share) * slot.high for slot in operation.slots] for operation in operations]
    return plan_of(operations, values, 4)


dtypes_of_four = st.lists(st.sampled_from([*EXPORTS, torch.float8_e5m2]), min_size=4, max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    plan=elementwise_plans(),
    dtypes=dtypes_of_four,
    same=st.booleans(),
    export=st.sampled_from(EXPORTS),
    cuts=st.lists(st.integers(1, 1_499), max_size=6),
    chunk=st.integers(1, 300),
)
def test_results_do_not_depend_on_how_the_tensor_is_cut(
    passed: Passed,
    plan: PlacePlan,
    dtypes: list[torch.dtype],
    same: bool,
    export: torch.dtype,
    cuts: list[int],
    chunk: int,
) -> None:
    parents = values(1_500, dtypes[:1] * 4 if same else dtypes)
    whole = passed(plan, parents, live=export, export=export)
    edges = [0, *sorted(set(cuts)), 1_500]
    pieces = [
        passed(plan, [row[start:end].clone() for row in parents], live=export, export=export, chunk=chunk)
        for start, end in itertools.pairwise(edges)
    ]
    assert torch.equal(bits(torch.cat(pieces)), bits(whole))


@settings(max_examples=60, deadline=None)
@given(
    plan=elementwise_plans(),
    dtypes=dtypes_of_four,
    same=st.booleans(),
    export=st.sampled_from(EXPORTS),
    live=st.sampled_from(EXPORTS),
    chunk=st.integers(100, 2_000),
    spare=st.integers(0, 3 * STEP),
)
def test_results_do_not_depend_on_whether_the_sources_come_through_staging(
    device: torch.device,
    passed: Passed,
    plan: PlacePlan,
    dtypes: list[torch.dtype],
    same: bool,
    export: torch.dtype,
    live: torch.dtype,
    chunk: int,
    spare: int,
) -> None:
    parents = values(1_500, dtypes[:1] * 4 if same else dtypes)
    there, staging = torch.full((1_500,), 99.0, device=device).to(live), Staging(device, 4 * 4 * STEP + spare)
    scratch = Scratch(torch.empty(chunk, device=device), torch.empty(chunk, device=device))
    _merge_chunks(plan, dict(zip("ABCD", parents, strict=True)), there, export, scratch, staging)
    assert torch.equal(bits(there.cpu()), bits(passed(plan, parents, live=live, export=export)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4, 3, 3)])
def test_a_tensor_without_elements_is_merged_by_every_method(method: str, shape: tuple[int, ...]) -> None:
    operation = Operation(method=method, inputs=tuple("ABCD"[: METHODS[method].least_inputs]))
    plan = plan_of([operation], [[slot.high / 2 for slot in operation.slots]], 4)
    sources = {name: torch.zeros(shape, dtype=HALF) for name in "ABCD"}
    merge_one(plan, "k", sources, torch.zeros(shape), HALF, Scratch.on("cpu"), [(0.5, torch.zeros(shape))])
    merge_one(plan, "k", sources, torch.zeros(shape), HALF, Scratch.on("cpu"))


def test_a_clipped_zero_has_the_same_sign_wherever_the_tensor_is_cut(passed: Passed) -> None:
    operation = Operation(method="weighted_sum", inputs=("A", "B"), clip=True)
    plan = plan_of([operation], [[0.5]], 2)
    parents = [torch.tensor([0.0, -0.0] * 20), torch.tensor([-0.0, 0.0] * 20)]
    whole = passed(plan, parents, live=FULL, export=FULL)
    assert torch.equal(bits(passed(plan, parents, live=FULL, export=FULL, chunk=1)), bits(whole))


@settings(max_examples=60, deadline=None)
@given(plan=elementwise_plans(), dtypes=dtypes_of_four, export=st.sampled_from(EXPORTS), chunk=st.integers(50, 2_000))
def test_a_wider_live_tensor_holds_what_is_saved_and_tensor_by_tensor_it_is_the_same_merge(
    passed: Passed, device: torch.device, plan: PlacePlan, dtypes: list[torch.dtype], export: torch.dtype, chunk: int
) -> None:
    parents = values(700, dtypes)
    saved = passed(plan, parents, live=export, export=export)
    wide = passed(plan, parents, live=FULL, export=export, chunk=chunk)
    assert torch.equal(bits(wide), bits(saved.float()))

    shaped = {name: row.view(7, 100) for name, row in zip("ABCD", parents, strict=True)}
    out = tensor_merged(plan, "k", shaped, torch.full((7, 100), 99.0, device=device), export)
    if len(plan.steps) == 1 and plan.steps[0].operation.method in IN_PLACE:  # those have a pass of their own
        assert_one_unit(out.view(-1), saved.double(), [*parents, 2 * saved], export)
    else:
        assert torch.equal(bits(out.view(-1)), bits(wide))


def test_an_input_that_comes_twice_under_two_names_is_folded_twice(passed: Passed) -> None:
    """Two sources and three inputs: longer than a chunk, where only two inputs need no work space."""
    chain = [
        Operation(method="weighted_sum", inputs=("A", "C")),
        Operation(method="weighted_sum", inputs=("A", "B", "result-1")),
    ]
    plan = plan_of(chain, [(0.0,), (0.5, 0.25)], 3)
    parents = values(500, [HALF] * 3)
    assert plan.sources == ("A", "B")
    result = passed(plan, parents, live=HALF, export=HALF, chunk=64)
    assert_one_unit(result, folded([parents[0], parents[1], parents[0]], (0.5, 0.25)), parents, HALF)


@pytest.mark.parametrize("method", [name for name, info in METHODS.items() if info.random])
def test_what_is_dropped_follows_from_seed_and_key_alone(device: torch.device, method: str) -> None:
    def made(seed: int, key: str) -> Tensor:
        operation = Operation(method=method, inputs=("A", "B"), seed=seed)
        plan = plan_of([operation], [[slot.high / 2 for slot in operation.slots]], 2)
        sources = dict(zip("AB", (row.view(20, 25) for row in values(500, [HALF] * 2)), strict=True))
        return tensor_merged(plan, key, sources, torch.empty(20, 25, device=device), FULL)

    assert torch.equal(made(1, "k"), made(1, "k"))
    assert not torch.equal(made(1, "k"), made(2, "k"))
    assert not torch.equal(made(1, "k"), made(1, "l"))


def test_differences_are_added_before_the_one_rounding(device: torch.device) -> None:
    parents = [row.view(5, 20) for row in values(100, [BRAIN] * 2)]
    delta = torch.randn(5, 20, generator=torch.Generator().manual_seed(1))
    plan = plan_of([Operation(method="weighted_sum", inputs=("A", "B"))], [(0.3,)], 2)
    sources, deltas = dict(zip("AB", parents, strict=True)), ((0.5, delta), (-2.0, delta))
    out = tensor_merged(plan, "k", sources, torch.empty(5, 20, dtype=BRAIN, device=device), BRAIN, *deltas)
    assert_one_unit(out, folded(parents, (0.3,)) - 1.5 * delta.double(), [*parents, 4 * delta], BRAIN)


@pytest.mark.parametrize("method", ["weighted_sum", "add_difference"])
@pytest.mark.parametrize("export", [HALF, BRAIN])
@pytest.mark.parametrize("ratio", [0.0, 0.35, 1.0])
def test_a_float32_live_tensor_holds_the_values_rounded_to_the_export_dtype(
    merged: Merged, method: str, export: torch.dtype, ratio: float
) -> None:
    parents = values(1_000, [FULL] * (3 if method == "add_difference" else 2))
    live = merged(method, parents, [ratio], live=FULL, export=export, chunk=96)
    assert live.dtype == FULL
    assert torch.equal(live, live.to(export).float())
    assert torch.equal(live, merged(method, parents, [ratio], live=export, export=export).float())
    assert not torch.equal(live, merged(method, parents, [ratio], live=FULL, export=FULL))  # something was rounded


def test_parents_are_left_as_they_were(passed: Passed) -> None:
    parents = values(500, [HALF, HALF, HALF])
    before = [parent.clone() for parent in parents]
    for method in METHODS:
        operation = Operation(method=method, inputs=tuple("ABC"[: METHODS[method].most_inputs]))
        plan = plan_of([operation], [[slot.high / 2 for slot in operation.slots]], 3)
        sources = {name: row.view(20, 25) for name, row in zip("ABC", parents, strict=True)}
        merge_tensor(plan, "k", sources, torch.empty(20, 25, dtype=HALF), HALF)
        if plan.elementwise:
            passed(plan, parents, live=HALF, export=HALF)
    assert all(torch.equal(bits(one), bits(other)) for one, other in zip(parents, before, strict=True))
