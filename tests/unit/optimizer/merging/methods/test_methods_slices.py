"""Methods that take whole elements from one input or the other: which ones, and that nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_inputs import Method, computed_on
from torch import Tensor

from optimizer.merging.methods import slices

SHAPES = ((), (1,), (16,), (5, 6), (7, 3, 3, 3), (1, 4))
EIGHTHS = st.integers(0, 8).map(lambda eighths: eighths / 8)


def numbers(shape: Sequence[int], count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tuple(shape), generator=generator) for _ in range(count)]


@pytest.fixture(scope="module")
def tensor_sum(device: torch.device) -> Method:
    return computed_on(device, slices.tensor_sum)


@pytest.fixture(scope="module")
def top_k_tensor_sum(device: torch.device) -> Method:
    return computed_on(device, slices.top_k_tensor_sum)


@pytest.fixture(scope="module", params=["tensor_sum", "top_k_tensor_sum"])
def method(device: torch.device, request: pytest.FixtureRequest) -> Method:
    return computed_on(device, getattr(slices, request.param))


def rows_of_second(tensor_sum: Method, rows: int, ratio: float, offset: float) -> list[bool]:
    return [bool(value) for value in tensor_sum([torch.zeros(rows), torch.ones(rows)], [ratio, offset])]


class TestTensorSum:
    @given(rows=st.integers(1, 40), ratio=st.floats(0, 1), offset=st.floats(0, 1))
    @settings(max_examples=300, deadline=None)
    def test_rows_whose_middle_is_in_the_window_are_of_the_second(
        self, tensor_sum: Method, rows: int, ratio: float, offset: float
    ) -> None:
        for row, second in enumerate(rows_of_second(tensor_sum, rows, ratio, offset)):
            middle = (row + 0.5) / rows
            edges = (offset, offset + ratio, offset + ratio - 1)
            if all(abs(middle - edge) > 1e-9 for edge in edges):
                assert second == (offset < middle < offset + ratio or middle < offset + ratio - 1)

    @given(rows=st.integers(1, 40), ratio=EIGHTHS, offset=EIGHTHS)
    @settings(max_examples=200, deadline=None)
    def test_windows_that_follow_each_other_make_up_the_whole(
        self, tensor_sum: Method, rows: int, ratio: float, offset: float
    ) -> None:
        rest = rows_of_second(tensor_sum, rows, 1 - ratio, math.fmod(offset + ratio, 1.0))
        assert rows_of_second(tensor_sum, rows, ratio, offset) == [not second for second in rest]

    @pytest.mark.parametrize("shape", SHAPES)
    def test_no_width_is_the_first_and_full_width_the_second(self, tensor_sum: Method, shape: tuple[int, ...]) -> None:
        first, second = numbers(shape, 2)
        for offset in (0.0, 0.3, 0.5, 1.0):
            assert torch.equal(tensor_sum([first, second], [0.0, offset]), first)
            assert torch.equal(tensor_sum([first, second], [1.0, offset]), second)

    def test_rows_are_whole_and_windows_go_round(self, tensor_sum: Method) -> None:
        first, second = numbers((8, 3, 2, 2), 2)
        result = tensor_sum([first, second], [0.5, 0.75])
        assert torch.equal(result[[6, 7, 0, 1]], second[[6, 7, 0, 1]])
        assert torch.equal(result[2:6], first[2:6])

    def test_a_scalar_is_one_row(self, tensor_sum: Method) -> None:
        inputs = [torch.tensor(1.0), torch.tensor(2.0)]
        assert [tensor_sum(inputs, [ratio, 0.0]).item() for ratio in (0.4, 0.6)] == [1.0, 2.0]
        assert tensor_sum(inputs, [0.4, 0.6]).item() == 1.0


def redistributed(first: Tensor, second: Tensor, width: float, offset: float) -> Tensor:
    """One place after the other, from the formula."""
    total = first.numel()
    ascending = sorted(first.flatten().tolist())
    ranks = {i: rank for rank, i in enumerate(sorted(range(total), key=lambda i: (abs(ascending[i]), -i)))}
    places = np.argsort(second.flatten().numpy(), kind="stable")
    result = first.flatten().tolist()
    for index, place in enumerate(places):
        middle = (ranks[index] + 0.5) / total
        if offset < middle < offset + width or middle < offset + width - 1:
            result[place] = ascending[index]
    return torch.tensor(result).reshape(first.shape)


class TestTopKTensorSum:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_equals_its_formula(self, top_k_tensor_sum: Method, shape: tuple[int, ...]) -> None:
        first, second = numbers(shape, 2)
        for width in (0.0, 0.21, 0.5, 0.83, 1.0):
            for offset in (0.0, 0.31, 0.77, 1.0):
                result = top_k_tensor_sum([first, second], [width, offset])
                assert torch.equal(result, redistributed(first, second, width, offset)), (width, offset)

    def test_equal_values_and_equal_magnitudes(self, top_k_tensor_sum: Method) -> None:
        generator = torch.Generator().manual_seed(3)
        for _ in range(30):
            first, second = (torch.randint(-2, 3, (4, 6), generator=generator).float() for _ in range(2))
            width, offset = torch.rand(2, generator=generator).tolist()
            result = top_k_tensor_sum([first, second], [width, offset])
            assert torch.equal(result, redistributed(first, second, width, offset))

    def test_full_width_is_a_permutation_in_the_order_of_the_second(self, top_k_tensor_sum: Method) -> None:
        first, second = numbers((9, 4), 2)
        result = top_k_tensor_sum([first, second], [1.0, 0.4])
        assert torch.equal(result.flatten().sort().values, first.flatten().sort().values)
        assert torch.equal(result.flatten().argsort(), second.flatten().argsort())

    def test_no_width_or_an_equal_order_is_the_first(self, top_k_tensor_sum: Method) -> None:
        first, second = numbers((9, 4), 2)
        assert torch.equal(top_k_tensor_sum([first, second], [0.0, 0.3]), first)
        assert torch.equal(top_k_tensor_sum([first, first * 3 + 1], [0.6, 0.3]), first)


class TestBoth:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_inputs_are_left_alone(self, method: Method, shape: tuple[int, ...]) -> None:
        inputs = numbers(shape, 2)
        copies = [tensor.clone() for tensor in inputs]
        for values in ([0.0, 0.0], [0.4, 0.8], [1.0, 1.0]):
            result = method(inputs, values)
            assert result.shape == inputs[0].shape
        assert all(map(torch.equal, inputs, copies))

    def test_constant_tensors(self, method: Method) -> None:
        first, second = torch.full((5, 4), 2.0), torch.zeros(5, 4)
        for values in ([0.3, 0.9], [1.0, 0.5]):
            assert set(method([first, second], values).flatten().tolist()) <= {0.0, 2.0}
            assert torch.equal(method([first, first], values), first)
