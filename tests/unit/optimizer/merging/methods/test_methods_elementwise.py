"""Element-wise merge methods against float64, at their ends, and cut into pieces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_inputs import (
    SHAPES,
    assert_close,
    bits,
    computed_on,
    degenerate_inputs,
    smooth_tensors,
    some_values,
    tensors,
    wide,
)
from torch import Tensor

from optimizer.merging.methods import elementwise
from studies.recipe.methods import METHODS

NAMES = [name for name, info in METHODS.items() if info.scope == "element"]
ENDING = [name for name in NAMES if METHODS[name].ends_in]
SYMMETRIC_UNDER_OFFSET = ["weighted_sum", "n_average", "sum_twice", "triple_sum", "task_arithmetic"]
SYMMETRIC_UNDER_OFFSET += ["add_difference", "train_difference", "weighted_subtraction", "multiply_difference"]
CUTS = (1, 7, 3, 64, 13, 1001, 31, 5, 257, 17, 33_333)

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from(SHAPES)
shares = st.sampled_from((0.0, 0.25, 0.5, 1.0)) | st.floats(0, 1)
numbers = shares | st.floats(-2, 2)


class Merge(Protocol):
    """A method by its name, on CPU tensors."""

    def __call__(self, name: str, inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor: ...


@pytest.fixture(scope="module")
def merge(device: torch.device) -> Merge:
    def call(name: str, inputs: Sequence[Tensor], values: Sequence[float]) -> Tensor:
        return computed_on(device, getattr(elementwise, name))(inputs, values)

    return call


def counts(name: str) -> tuple[int, ...]:
    info = METHODS[name]
    return tuple(count for count in (2, 3, 5) if info.accepts(count))


class TestAgainstFloat64:
    @given(seeds, shapes, st.lists(numbers, min_size=1, max_size=4))
    def test_weighted_sum_folds_input_by_input(
        self, merge: Merge, seed: int, shape: tuple[int, ...], ratios: list[float]
    ) -> None:
        inputs = tensors(len(ratios) + 1, shape, seed)
        first, *others = wide(inputs)
        exact = first
        for other, ratio in zip(others, ratios, strict=True):
            exact = (1 - ratio) * exact + ratio * other
        assert_close(merge("weighted_sum", inputs, ratios), exact, inputs, gain=5 ** len(ratios))

    @given(seeds, shapes, st.integers(2, 6))
    def test_n_average(self, merge: Merge, seed: int, shape: tuple[int, ...], count: int) -> None:
        inputs = tensors(count, shape, seed)
        assert_close(merge("n_average", inputs, []), np.mean(wide(inputs), axis=0), inputs)

    @given(seeds, shapes, shares, shares)
    def test_sum_twice(self, merge: Merge, seed: int, shape: tuple[int, ...], r: float, s: float) -> None:
        inputs = tensors(3, shape, seed)
        a, b, c = wide(inputs)
        assert_close(merge("sum_twice", inputs, [r, s]), (1 - s) * ((1 - r) * a + r * b) + s * c, inputs)

    @given(seeds, shapes, shares, shares)
    def test_triple_sum(self, merge: Merge, seed: int, shape: tuple[int, ...], r: float, s: float) -> None:
        inputs = tensors(3, shape, seed)
        a, b, c = wide(inputs)
        assert_close(merge("triple_sum", inputs, [r, s]), (1 - r - s) * a + r * b + s * c, inputs)

    @given(seeds, shapes, st.lists(numbers, min_size=1, max_size=4))
    def test_task_arithmetic(self, merge: Merge, seed: int, shape: tuple[int, ...], ratios: list[float]) -> None:
        inputs = tensors(len(ratios) + 1, shape, seed)
        base, *others = wide(inputs)
        exact = base + np.einsum("i,i...->...", np.array(ratios), np.stack(others) - base)
        assert_close(merge("task_arithmetic", inputs, ratios), exact, inputs, gain=4 * len(ratios))

    @given(seeds, shapes, numbers)
    def test_add_difference(self, merge: Merge, seed: int, shape: tuple[int, ...], r: float) -> None:
        inputs = tensors(3, shape, seed)
        a, b, c = wide(inputs)
        assert_close(merge("add_difference", inputs, [r]), a + r * (b - c), inputs, gain=4)

    @given(seeds, shapes, numbers)
    def test_train_difference(self, merge: Merge, seed: int, shape: tuple[int, ...], r: float) -> None:
        inputs = tensors(3, shape, seed)
        a, b, c = wide(inputs)
        whole = np.abs(b - c) + np.abs(b - a)
        exact = a + 1.8 * r * (b - c) * np.abs(b - a) / np.where(whole == 0, 1, whole)
        assert_close(merge("train_difference", inputs, [r]), exact, inputs, gain=8)

    @given(seeds, shapes, st.floats(0, 0.95), st.floats(0, 0.95))
    def test_weighted_subtraction(
        self, merge: Merge, seed: int, shape: tuple[int, ...], alpha: float, beta: float
    ) -> None:
        inputs = tensors(2, shape, seed)
        a, b = wide(inputs)
        exact = (a - alpha * beta * b) / (1 - alpha * beta)
        assert_close(merge("weighted_subtraction", inputs, [alpha, beta]), exact, inputs, gain=2 / (1 - alpha * beta))

    @given(seeds, shapes, shares, shares)
    def test_multiply_difference(
        self, merge: Merge, seed: int, shape: tuple[int, ...], alpha: float, beta: float
    ) -> None:
        inputs = tensors(3, shape, seed)
        c = wide(inputs)[2]
        # Differences of float32 numbers are float32: near zero a root would show what rounding does to them.
        of_a, of_b = wide([inputs[0] - inputs[2], inputs[1] - inputs[2]])
        size = np.abs(of_a) ** (1 - alpha) * np.abs(of_b) ** alpha
        leaning = (1 - beta) * of_a + beta * of_b
        undecided = np.abs(leaning) <= 1e-6 * np.maximum(np.abs(of_a), np.abs(of_b))
        result = merge("multiply_difference", inputs, [alpha, beta])
        sign = np.where(undecided, np.sign(result.double().numpy() - c), np.sign(leaning))
        assert_close(result, c + sign * size, inputs, gain=4)

    @given(seeds, shapes, numbers, shares)
    def test_similarity_add_difference(
        self, merge: Merge, seed: int, shape: tuple[int, ...], alpha: float, beta: float
    ) -> None:
        inputs = tensors(3, shape, seed)
        a, b, c = wide(inputs)
        largest = np.maximum(np.abs(a), np.abs(b))
        alike = np.where(largest == 0, 1.0, (a * b / np.where(largest == 0, 1, largest) ** 2 + 1) / 2)
        s = beta * alike
        exact = (1 - s) * (a + alpha * (b - c)) + s * ((1 - alpha / 2) * a + alpha / 2 * b)
        assert_close(merge("similarity_add_difference", inputs, [alpha, beta]), exact, inputs, gain=8)

    @given(seeds, shapes, shares)
    def test_geometric_is_the_real_part_of_complex_powers(
        self, merge: Merge, seed: int, shape: tuple[int, ...], r: float
    ) -> None:
        inputs = tensors(2, shape, seed)
        a, b = (values.astype(np.complex128) for values in wide(inputs))
        exact = np.asarray(a ** (1 - r) * b**r).real
        assert_close(merge("geometric", inputs, [r]), exact, inputs)

    @given(seeds, shapes)
    def test_clipped_weights_lie_between_a_and_b(self, seed: int, shape: tuple[int, ...]) -> None:
        result, a, b = tensors(3, shape, seed)
        exact = np.sort(np.stack(wide([result, a, b])), axis=0)[1]  # the middle one of the three
        assert np.array_equal(elementwise.weights_clip(result, a, b).double().numpy(), exact)


class TestEnds:
    @pytest.mark.parametrize("name", [name for name in NAMES if name != "n_average"])
    def test_ratios_of_0_give_the_first_input(self, merge: Merge, name: str) -> None:
        for count in counts(name):
            inputs = tensors(count, (4, 3, 3, 3))
            slots = METHODS[name].slots("ABCDE"[:count])
            result = merge(name, inputs, [0.0] * len(slots))
            assert_close(result, inputs[0].double().numpy(), inputs, units=2)

    @pytest.mark.parametrize("name", ENDING)
    def test_a_ratio_of_1_gives_that_input_bit_for_bit(self, merge: Merge, name: str) -> None:
        for count in counts(name):
            inputs = tensors(count, (4, 9))
            inputs[0][0] = float("nan")  # has no share
            for k in range(1, count):
                ratios = [float(j == k) for j in range(1, count)]
                assert bits(merge(name, inputs, ratios)) == bits(inputs[k])

    def test_a_ratio_of_1_leaves_out_all_that_was_folded_before(self, merge: Merge) -> None:
        a, b, c = smooth_tensors(3, (8,))
        assert bits(merge("weighted_sum", [a, b * float("inf"), c], [0.4, 1.0])) == bits(c)

    @given(seeds, shapes, shares)
    def test_a_weighted_sum_reads_the_same_from_either_end(
        self, merge: Merge, seed: int, shape: tuple[int, ...], r: float
    ) -> None:
        a, b = tensors(2, shape, seed)
        other = merge("weighted_sum", [b, a], [1 - r])
        assert_close(merge("weighted_sum", [a, b], [r]), other.double().numpy(), [a, b], units=2)

    def test_close_to_b_a_weighted_sum_is_as_exact_as_close_to_a(self, merge: Merge) -> None:
        large, small = torch.full((9,), 1000.0), torch.linspace(0.001, 0.002, 9)
        ratio = 2.0**-20
        near_b = merge("weighted_sum", [large, small], [1 - ratio])
        assert bits(near_b) == bits(merge("weighted_sum", [small, large], [ratio]))
        assert_close(near_b, ratio * 1000 + (1 - ratio) * small.double().numpy(), [small])

    @pytest.mark.parametrize("name", ["task_arithmetic", "add_difference", "train_difference"])
    def test_an_input_without_a_share_may_hold_anything(self, merge: Merge, name: str) -> None:
        a, b, c = smooth_tensors(3, (8,))
        b[:] = float("nan")
        values = [0.0] * len(METHODS[name].slots("ABC"))
        assert bits(merge(name, [a, b, c], values)) == bits(a)

    @pytest.mark.parametrize("name", [name for name in NAMES if name != "n_average"])
    @pytest.mark.parametrize("odd", [float("nan"), float("inf")])
    def test_nan_and_infinity_pass_through_in_their_place(self, merge: Merge, name: str, odd: float) -> None:
        count = counts(name)[0]
        inputs = smooth_tensors(count, (40,))
        values = some_values(name, count)
        clean = merge(name, inputs, values)
        inputs[1][13] = odd
        result = merge(name, inputs, values)
        assert not result[13].isfinite()
        assert bits(result[:13]) == bits(clean[:13])
        assert bits(result[14:]) == bits(clean[14:])


class TestSymmetry:
    def test_an_average_does_not_depend_on_the_order(self, merge: Merge) -> None:
        inputs = smooth_tensors(4, (5, 3))
        exact = merge("n_average", inputs, []).double().numpy()
        for order in itertools.permutations(inputs):
            assert_close(merge("n_average", order, []), exact, inputs, units=2)

    @given(seeds, numbers)
    def test_an_offset_of_b_and_c_changes_no_difference(self, merge: Merge, seed: int, r: float) -> None:
        a, b, c, offset = smooth_tensors(4, (5, 3), seed)
        plain = merge("add_difference", [a, b, c], [r]).double().numpy()
        shifted = merge("add_difference", [a, b + offset, c + offset], [r])
        assert_close(shifted, plain, [a, b, c, offset], gain=8)

    @pytest.mark.parametrize("name", SYMMETRIC_UNDER_OFFSET)
    def test_an_offset_of_all_inputs_shifts_the_result_by_it(self, merge: Merge, name: str) -> None:
        for count in counts(name):
            *inputs, offset = smooth_tensors(count + 1, (5, 3))
            values = some_values(name, count)
            exact = merge(name, inputs, values).double().numpy() + offset.double().numpy()
            result = merge(name, [tensor + offset for tensor in inputs], values)
            # The power of a small difference is as uncertain as the difference.
            assert_close(result, exact, [*inputs, offset], units=64)

    @pytest.mark.parametrize("name", [name for name in NAMES if name not in ("geometric", "n_average")])
    def test_elements_equal_in_all_inputs_stay_as_they_are(self, merge: Merge, name: str) -> None:
        for count in counts(name):
            tensor = smooth_tensors(1, (50,))[0]
            result = merge(name, [tensor.clone() for _ in range(count)], some_values(name, count))
            assert bits(result) == bits(tensor)


class TestDegenerate:
    @pytest.mark.parametrize("name", NAMES)
    def test_finite_inputs_give_finite_results(self, merge: Merge, name: str) -> None:
        for count in counts(name):
            slots = METHODS[name].slots("ABCDE"[:count])
            for values in (some_values(name, count), [0.5] * len(slots), [1.0] * len(slots), [1e-6] * len(slots)):
                for case, inputs in degenerate_inputs(count, (4, 3)).items():
                    assert merge(name, inputs, values).isfinite().all(), (case, values)

    @pytest.mark.parametrize("name", NAMES)
    def test_empty_tensors_stay_empty(self, merge: Merge, name: str) -> None:
        count = counts(name)[0]
        assert merge(name, [torch.zeros(0, 3)] * count, some_values(name, count)).shape == (0, 3)

    def test_subtracting_all_of_b_is_bounded(self, merge: Merge) -> None:
        a, b = smooth_tensors(2, (9,))
        result = merge("weighted_subtraction", [a, b], [1.0, 1.0])
        assert torch.equal(result.sign(), (a - b).sign())
        assert (result.abs() > 1e6 * (a - b).abs()).all()

    def test_a_difference_that_cancels_in_the_lerp_is_added(self, merge: Merge) -> None:
        c = torch.zeros(3)
        result = merge("multiply_difference", [c + 2, c - 2, c], [0.5, 0.5])
        assert torch.allclose(result, c + 2)

    def test_two_zeros_are_alike(self, merge: Merge) -> None:
        zero = torch.zeros(3)
        result = merge("similarity_add_difference", [zero, zero, zero + 1], [1.0, 0.75])
        assert torch.allclose(result, zero - 0.25)  # a quarter of B - C; the rest is the average of A and B


class TestPurity:
    @pytest.mark.parametrize("name", NAMES)
    def test_inputs_are_not_changed(self, merge: Merge, name: str) -> None:
        for count in counts(name):
            for share in (0.0, 0.3, 1.0):
                inputs = tensors(count, (4, 3, 3, 3))
                before = [bits(tensor) for tensor in inputs]
                merge(name, inputs, [share] * len(METHODS[name].slots("ABCDE"[:count])))
                assert [bits(tensor) for tensor in inputs] == before

    def test_clipping_changes_nothing_in_place(self) -> None:
        inputs = tensors(3, (40,))
        before = [bits(tensor) for tensor in inputs]
        elementwise.weights_clip(*inputs)
        assert [bits(tensor) for tensor in inputs] == before

    @pytest.mark.parametrize("name", NAMES)
    def test_bits_do_not_depend_on_the_cutting(self, merge: Merge, name: str) -> None:
        for count in counts(name):
            inputs = tensors(count, (120_011,))
            for values in (some_values(name, count), [0.95] * len(METHODS[name].slots("ABCDE"[:count]))):
                whole = merge(name, inputs, values)
                parts, start = [], 0
                for length in itertools.cycle(CUTS):
                    parts.append(merge(name, [tensor[start : start + length] for tensor in inputs], values))
                    start += length
                    if start >= whole.numel():
                        break
                assert torch.equal(torch.cat(parts).view(torch.int32), whole.view(torch.int32))
