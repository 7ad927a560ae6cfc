"""Merge methods over whole tensors: against float64, against their geometry, and where that is degenerate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from method_inputs import (
    SHAPES,
    Array,
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

from optimizer.merging.methods import reductions
from studies.recipe.methods import METHODS

NAMES = [name for name, info in METHODS.items() if info.scope == "reduction"]
WITH_RATIOS = [name for name in NAMES if METHODS[name].slots("ABC")]
OF_DIFFERENCES = ["perpendicular", "euclidean_add_difference", "model_stock", "geometric_median"]

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from(SHAPES)
large_shapes = st.sampled_from([shape for shape in SHAPES if math.prod(shape) > 6])
shares = st.sampled_from((0.0, 0.25, 0.5, 1.0)) | st.floats(0, 1)


class Merge(Protocol):
    """A method by its name, on CPU tensors."""

    def __call__(self, name: str, inputs: Sequence[Tensor], values: Sequence[float] = ()) -> Tensor: ...


@pytest.fixture(scope="module")
def merge(device: torch.device) -> Merge:
    def call(name: str, inputs: Sequence[Tensor], values: Sequence[float] = ()) -> Tensor:
        return computed_on(device, getattr(reductions, name))(inputs, values)

    return call


def counts(name: str) -> tuple[int, ...]:
    info = METHODS[name]
    return tuple(count for count in (2, 3, 5) if info.accepts(count))


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x.reshape(-1))


def cosine(x: Array, y: Array) -> float:
    """0 where one of them is 0."""
    lengths = float(np.linalg.norm(x.reshape(-1)) * np.linalg.norm(y.reshape(-1)))
    return float(np.sum(x * y)) / lengths if lengths else 0.0


def column_cosines(a: Array, b: Array) -> Array:
    """Column by column, of the tensor's shape."""
    result = np.empty_like(a)
    for index in np.ndindex(a.shape[1:]):
        column = (slice(None), *index)
        result[column] = cosine(a[column], b[column])
    return result


class TestSlerp:
    @given(seeds, large_shapes, shares)
    def test_matches_the_great_circle(self, merge: Merge, seed: int, shape: tuple[int, ...], r: float) -> None:
        inputs = tensors(2, shape, seed)
        a, b = wide(inputs)
        assume(np.any(a) and np.any(b) and abs(cosine(a, b)) < 0.999)
        angle = math.acos(cosine(a, b))
        direction = (math.sin((1 - r) * angle) * unit(a) + math.sin(r * angle) * unit(b)) / math.sin(angle)
        length = (1 - r) * np.linalg.norm(a.reshape(-1)) + r * np.linalg.norm(b.reshape(-1))
        shorter = float(min(np.linalg.norm(a.reshape(-1)), np.linalg.norm(b.reshape(-1))))
        gain = max(1.0, float(length) / shorter / math.sin(angle))
        assert_close(merge("slerp", inputs, [r]), length * direction, inputs, gain=gain)

    @given(seeds, st.floats(-9, -3), shares)
    def test_small_angles_lose_no_digits(self, merge: Merge, seed: int, exponent: float, r: float) -> None:
        a, noise = smooth_tensors(2, (20, 30), seed)
        b = 2 * (a + 10**exponent * noise)
        x, y = wide([a, b])
        # For small angles the chord tells the angle where the cosine does not.
        angle = 2 * math.atan2(float(np.linalg.norm(unit(x) - unit(y))), float(np.linalg.norm(unit(x) + unit(y))))
        weights = (math.sin((1 - r) * angle) / math.sin(angle), math.sin(r * angle) / math.sin(angle)) if angle else ()
        direction = weights[0] * unit(x) + weights[1] * unit(y) if weights else unit(x)
        length = (1 - r) * np.linalg.norm(x) + r * np.linalg.norm(y)
        # A direction is as exact as the whole tensor is long, so a small element may be off by more than its own size.
        whole = torch.full_like(a, float(np.max(np.abs(y))))
        assert_close(merge("slerp", [a, b], [r]), length * direction, [whole], units=2)

    @given(seeds, shares)
    def test_length_is_interpolated_and_the_angle_is_shared_out(self, merge: Merge, seed: int, r: float) -> None:
        inputs = smooth_tensors(2, (6, 7), seed)
        a, b = wide(inputs)
        result = merge("slerp", inputs, [r]).double().numpy()
        assert np.linalg.norm(result) == pytest.approx((1 - r) * np.linalg.norm(a) + r * np.linalg.norm(b), rel=1e-5)
        assert math.acos(min(1, cosine(a, result))) == pytest.approx(r * math.acos(cosine(a, b)), abs=1e-3)

    @pytest.mark.parametrize("r", [0.2, 0.5, 0.9])
    @pytest.mark.parametrize("case", ["all zero", "first zero", "second zero", "opposite", "parallel", "all equal"])
    def test_without_a_circle_it_is_the_linear_blend(self, merge: Merge, case: str, r: float) -> None:
        inputs = degenerate_inputs(2, (4, 3))[case]
        a, b = wide(inputs)
        assert_close(merge("slerp", inputs, [r]), (1 - r) * a + r * b, inputs)

    @pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
    @pytest.mark.parametrize("sign", [-1, 1])
    def test_a_single_number_is_blended_linearly(self, merge: Merge, shape: tuple[int, ...], sign: int) -> None:
        a, b = torch.full(shape, 2.0), torch.full(shape, 5.0 * sign)
        assert merge("slerp", [a, b], [0.25]).item() == pytest.approx(0.75 * 2 + 0.25 * 5 * sign)

    def test_a_ratio_of_1_gives_b_bit_for_bit(self, merge: Merge) -> None:
        a, b = tensors(2, (5, 3))
        a[0] = float("nan")  # has no share
        assert bits(merge("slerp", [a, b], [1.0])) == bits(b)


class TestCosine:
    @given(seeds, shapes, shares)
    def test_a_takes_more_of_b_where_columns_are_alike(
        self, merge: Merge, seed: int, shape: tuple[int, ...], r: float
    ) -> None:
        inputs = tensors(2, shape, seed)
        a, b = wide(inputs)
        similarity = column_cosines(np.atleast_1d(a), np.atleast_1d(b)).reshape(shape)
        share = np.clip(similarity - (1 - r), 0, 1)
        assert_close(merge("cosine_a", inputs, [r]), (1 - share) * a + share * b, inputs, units=16)

    @given(seeds, shapes, shares)
    def test_b_looks_at_the_whole_tensor_as_well(
        self, merge: Merge, seed: int, shape: tuple[int, ...], r: float
    ) -> None:
        inputs = tensors(2, shape, seed)
        a, b = wide(inputs)
        similarity = (column_cosines(np.atleast_1d(a), np.atleast_1d(b)).reshape(shape) + cosine(a, b)) / 2
        share = np.clip(similarity - (1 - r), 0, 1)
        assert_close(merge("cosine_b", inputs, [r]), (1 - share) * a + share * b, inputs, units=16)

    @pytest.mark.parametrize("name", ["cosine_a", "cosine_b"])
    def test_similar_models_are_blended_and_opposite_ones_left_alone(self, merge: Merge, name: str) -> None:
        a = smooth_tensors(1, (6, 4))[0]
        assert_close(merge(name, [a, 3 * a], [0.25]), 1.5 * a.double().numpy(), [a, 3 * a])
        assert bits(merge(name, [a, -a], [1.0])) == bits(a)

    def test_columns_are_cut_like_whole_tensors(self, merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
        inputs = smooth_tensors(2, (50, 7))
        inputs[1] += inputs[0]
        a, b = wide(inputs)
        share = np.clip((column_cosines(a, b) + cosine(a, b)) / 2 - 0.1, 0, 1)
        for piece in (1, 21, 350, 1000):
            monkeypatch.setattr(reductions, "CHUNK_ELEMENTS", piece)
            assert_close(merge("cosine_b", inputs, [0.9]), (1 - share) * a + share * b, inputs)


class TestPerpendicular:
    @given(seeds, large_shapes, shares)
    def test_adds_what_a_regression_on_a_leaves_of_b(
        self, merge: Merge, seed: int, shape: tuple[int, ...], r: float
    ) -> None:
        inputs = smooth_tensors(3, shape, seed)
        a, b, c = wide(inputs)
        of_a, of_b = (a - c).reshape(-1, 1), (b - c).reshape(-1)
        coefficient = np.linalg.lstsq(of_a, of_b)[0]
        exact = a + r * (of_b - of_a @ coefficient).reshape(shape)
        assert_close(merge("perpendicular", inputs, [r]), exact, inputs, gain=2 + abs(float(coefficient[0])))

    def test_adds_nothing_that_a_has_learned_already(self, merge: Merge) -> None:
        a, c = smooth_tensors(2, (6, 4))
        assert_close(merge("perpendicular", [a, c + 2 * (a - c), c], [1.0]), a.double().numpy(), [a, c], gain=4)

    def test_adds_all_where_a_has_learned_nothing(self, merge: Merge) -> None:
        b, c = smooth_tensors(2, (6, 4))
        exact = 0.5 * (b + c).double().numpy()
        assert_close(merge("perpendicular", [c.clone(), b, c], [0.5]), exact, [b, c])


class TestEuclideanAddDifference:
    @given(seeds, large_shapes, shares)
    def test_matches_float64(self, merge: Merge, seed: int, shape: tuple[int, ...], alpha: float) -> None:
        inputs = smooth_tensors(3, shape, seed)
        a, b, c = wide(inputs)
        blend = (1 - alpha) * (a - c) + alpha * (b - c)
        assume(np.min(np.abs(blend)) > 1e-5)  # else rounding decides about the sign
        distance = np.copysign(np.sqrt((1 - alpha) * unit(a - c) ** 2 + alpha * unit(b - c) ** 2), blend)
        exact = c + unit(distance) * np.linalg.norm(blend.reshape(-1))
        assert_close(merge("euclidean_add_difference", inputs, [alpha]), exact, inputs, gain=8)

    @pytest.mark.parametrize(("alpha", "end"), [(0.0, 0), (1.0, 1)])
    def test_ends_in_a_and_b(self, merge: Merge, alpha: float, end: int) -> None:
        inputs = smooth_tensors(3, (4, 3, 3, 3))
        result = merge("euclidean_add_difference", inputs, [alpha])
        assert_close(result, inputs[end].double().numpy(), inputs)

    @pytest.mark.parametrize(("same", "share"), [(0, 0.3), (1, 0.7)])
    def test_without_one_difference_the_other_is_added_by_its_share(
        self, merge: Merge, same: int, share: float
    ) -> None:
        inputs = smooth_tensors(3, (6, 4))
        inputs[same] = inputs[2].clone()
        other, c = wide([inputs[1 - same], inputs[2]])
        assert_close(merge("euclidean_add_difference", inputs, [0.3]), c + share * (other - c), inputs)

    def test_differences_that_cancel_leave_c(self, merge: Merge) -> None:
        c = torch.zeros(4)
        assert bits(merge("euclidean_add_difference", [c + 1, c - 1, c], [0.5])) == bits(c)


class TestModelStock:
    @given(seeds, shapes, st.integers(2, 5))
    def test_matches_float64(self, merge: Merge, seed: int, shape: tuple[int, ...], count: int) -> None:
        inputs = tensors(count + 1, shape, seed)
        base, *others = wide(inputs)
        differences = [other - base for other in others]
        pairs = [cosine(x, y) for x, y in itertools.combinations(differences, 2)]
        cos = max(0.0, sum(pairs) / len(pairs))
        t = count * cos / (1 + (count - 1) * cos)
        exact = t * np.mean(others, axis=0) + (1 - t) * base
        # A mean cosine near 0 is as uncertain as its largest terms.
        assert_close(merge("model_stock", inputs), exact, inputs, gain=4 * count)

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_models_that_agree_are_taken_whole_and_unrelated_ones_not_at_all(self, merge: Merge, count: int) -> None:
        base, model = smooth_tensors(2, (8, 8))
        assert_close(merge("model_stock", [base, *[model] * count]), model.double().numpy(), [base, model])
        whole = base.round()  # so that the differences are exactly at right angles
        unrelated = [whole + 4.0 * row.reshape(8, 8) for row in torch.eye(64)[:count]]
        assert torch.equal(merge("model_stock", [whole, *unrelated]), whole)

    def test_two_models_meet_at_the_foot_of_the_perpendicular_from_the_centre(self, merge: Merge) -> None:
        # Finetunes lie on a sphere around their centre, which is at right angles to their differences from it:
        # the merge is the point of the base's median line that is closest to the centre.
        generator = np.random.default_rng(5)
        axes = np.linalg.qr(generator.normal(size=(30, 3)))[0].T
        centre, first, second = 2 * axes[0], 2 * axes[0] + axes[1], 2 * axes[0] + axes[2]
        mean = (first + second) / 2
        exact = mean * (centre @ mean) / (mean @ mean)  # the base is 0
        inputs = [torch.zeros(30), *(torch.tensor(x, dtype=torch.float32) for x in (first, second))]
        assert_close(merge("model_stock", inputs), exact, inputs, gain=4)

    @pytest.mark.parametrize("case", ["opposite around the third", "all equal"])
    def test_contradicting_or_missing_differences_leave_the_base(self, merge: Merge, case: str) -> None:
        *models, base = degenerate_inputs(3, (4, 3))[case]
        assert bits(merge("model_stock", [base, *models])) == bits(base)


class TestGeometricMedian:
    @given(seeds, large_shapes, st.integers(3, 6), st.floats(0, 10))
    @example(5675710, (7,), 3, 5.5)  # a median close to an input
    def test_the_pulls_of_the_inputs_balance(
        self, merge: Merge, seed: int, shape: tuple[int, ...], count: int, outlier: float
    ) -> None:
        inputs = smooth_tensors(count, shape, seed)
        inputs[0] = inputs[0] * (1 + outlier)
        result = merge("geometric_median", inputs).double().numpy().reshape(-1)
        points = [point.reshape(-1) for point in wide(inputs)]
        lengths = [float(np.linalg.norm(point - result)) for point in points]
        pulls = [(p - result) / length for p, length in zip(points, lengths, strict=True) if length > 1e-6]
        # Close to an input, the rounding of the result turns the direction to it.
        turned = 4 * np.finfo(np.float32).eps * float(np.linalg.norm(result)) / max(1e-6, min(lengths))
        # At an input its own pull, of any direction and length up to 1, balances the others.
        assert np.linalg.norm(np.sum(pulls, axis=0)) <= (count - len(pulls)) + 1e-4 + turned

    @given(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=9).filter(lambda x: len(x) % 2 == 1))
    def test_of_single_numbers_it_is_the_median(self, merge: Merge, numbers: list[float]) -> None:
        inputs = [torch.tensor(number) for number in numbers]
        spread = max(numbers) - min(numbers)
        result = merge("geometric_median", inputs).item()
        assert result == pytest.approx(float(np.median(numbers)), abs=1e-6 * spread)

    def test_of_an_even_triangle_it_is_the_centre(self, merge: Merge) -> None:
        corners = [torch.tensor([math.cos(k * math.tau / 3), math.sin(k * math.tau / 3)]) for k in range(3)]
        assert torch.allclose(merge("geometric_median", corners), torch.zeros(2), atol=1e-6)

    def test_of_a_right_triangle_it_sees_the_sides_at_120_degrees(self, merge: Merge) -> None:
        corners = [torch.tensor([0.0, 0.0]), torch.tensor([4.0, 0.0]), torch.tensor([0.0, 3.0])]
        median = merge("geometric_median", corners).double().numpy()
        for x, y in itertools.combinations(wide(corners), 2):
            assert cosine(x - median, y - median) == pytest.approx(-0.5, abs=1e-5)

    def test_of_a_blunt_triangle_it_is_the_blunt_corner_itself(self, merge: Merge) -> None:
        corners = [torch.tensor([-5.0, 0.0]), torch.tensor([0.1, 0.3]), torch.tensor([5.0, 0.0])]
        assert bits(merge("geometric_median", corners)) == bits(corners[1])

    def test_most_inputs_outvote_the_others(self, merge: Merge) -> None:
        model, other, third = smooth_tensors(3, (6, 4))
        inputs = [1000 * other, model.clone(), third, model.clone(), model.clone()]
        assert bits(merge("geometric_median", inputs)) == bits(model)

    def test_starts_well_where_the_mean_is_an_input_that_is_not_the_median(self, merge: Merge) -> None:
        # The mean of all five is the last, but the first two and the last pull less than the pair is worth.
        points = [[3.0, 0.0], [3.0, 0.0], [-2.0, 2.0], [-4.0, -2.0], [0.0, 0.0]]
        inputs = [torch.tensor(point) for point in points]
        result = merge("geometric_median", inputs).double().numpy()

        def total(point: Array) -> float:
            return float(sum(np.linalg.norm(point - x) for x in wide(inputs)))

        steps = [np.array([math.cos(k), math.sin(k)]) * size for k in range(12) for size in (1e-2, 1e-3)]
        assert all(total(result) <= total(result + step) for step in steps)

    def test_the_mean_stands_in_for_distances_that_are_not_finite(self, merge: Merge) -> None:
        inputs = smooth_tensors(3, (8,))
        inputs[1][3] = float("inf")
        result = merge("geometric_median", inputs)
        assert result[3] == float("inf")
        assert torch.equal(result[:3], ((inputs[0] + inputs[1] + inputs[2]) / 3)[:3])


class TestAll:
    @pytest.mark.parametrize("name", WITH_RATIOS)
    def test_ratios_of_0_give_the_first_input(self, merge: Merge, name: str) -> None:
        for count in counts(name):
            inputs = tensors(count, (4, 3, 3, 3))
            result = merge(name, inputs, [0.0] * len(METHODS[name].slots("ABCDE"[:count])))
            assert_close(result, inputs[0].double().numpy(), inputs, units=2)

    @pytest.mark.parametrize("name", [name for name in WITH_RATIOS if name != "euclidean_add_difference"])
    def test_at_a_ratio_of_0_other_inputs_may_hold_anything(self, merge: Merge, name: str) -> None:
        inputs = smooth_tensors(counts(name)[0], (5, 3))
        inputs[1][:] = float("nan")
        assert bits(merge(name, inputs, [0.0])) == bits(inputs[0])

    @pytest.mark.parametrize("name", NAMES)
    def test_nan_is_never_hidden(self, merge: Merge, name: str) -> None:
        inputs = smooth_tensors(counts(name)[0], (5, 3))
        inputs[1][2, 1] = float("nan")
        assert merge(name, inputs, some_values(name, len(inputs))).isnan().any()

    @pytest.mark.parametrize("name", ["model_stock", "geometric_median"])
    def test_the_order_of_models_does_not_matter(self, merge: Merge, name: str) -> None:
        base, *models = smooth_tensors(5, (5, 3))
        exact = merge(name, [base, *models]).double().numpy()
        for order in itertools.permutations(models):
            assert_close(merge(name, [base, *order]), exact, [base, *models], units=4)

    def test_nor_does_it_for_all_inputs_of_a_median(self, merge: Merge) -> None:
        inputs = smooth_tensors(4, (5, 3))
        exact = merge("geometric_median", inputs).double().numpy()
        for order in itertools.permutations(inputs):
            assert_close(merge("geometric_median", order), exact, inputs, units=4)

    @pytest.mark.parametrize("name", OF_DIFFERENCES)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_an_offset_of_all_inputs_shifts_the_result_by_it(
        self, merge: Merge, name: str, shape: tuple[int, ...]
    ) -> None:
        for count in counts(name):
            *inputs, offset = smooth_tensors(count + 1, shape)
            values = some_values(name, count)
            exact = merge(name, inputs, values).double().numpy() + offset.double().numpy()
            result = merge(name, [tensor + offset for tensor in inputs], values)
            assert_close(result, exact, [*inputs, offset], units=32)

    @pytest.mark.parametrize("name", NAMES)
    def test_equal_inputs_are_left_as_they_are(self, merge: Merge, name: str) -> None:
        for count in counts(name):
            tensor = smooth_tensors(1, (6, 5))[0]
            result = merge(name, [tensor.clone() for _ in range(count)], some_values(name, count))
            assert_close(result, tensor.double().numpy(), [tensor], units=2)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_finite_inputs_give_finite_results(self, merge: Merge, name: str, shape: tuple[int, ...]) -> None:
        for count in counts(name):
            slots = METHODS[name].slots("ABCDE"[:count])
            for values in (some_values(name, count), [0.5] * len(slots), [1.0] * len(slots), [1e-6] * len(slots)):
                for case, inputs in degenerate_inputs(count, shape).items():
                    result = merge(name, inputs, values)
                    assert result.shape == torch.Size(shape)
                    assert result.dtype == torch.float32
                    assert result.isfinite().all(), (case, values)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
    def test_empty_tensors_stay_empty(self, merge: Merge, name: str, shape: tuple[int, ...]) -> None:
        count = counts(name)[0]
        assert merge(name, [torch.zeros(shape)] * count, some_values(name, count)).shape == shape

    @pytest.mark.parametrize("name", NAMES)
    def test_inputs_are_not_changed(self, merge: Merge, name: str) -> None:
        for count in counts(name):
            for inputs in (tensors(count, (4, 3, 3, 3)), *degenerate_inputs(count, (4, 3)).values()):
                before = [bits(tensor) for tensor in inputs]
                merge(name, inputs, some_values(name, count))
                assert [bits(tensor) for tensor in inputs] == before

    @pytest.mark.parametrize("name", NAMES)
    def test_a_second_time_gives_the_same_bits(self, merge: Merge, name: str) -> None:
        inputs = smooth_tensors(3 if METHODS[name].accepts(3) else 2, (300, 70))
        values = some_values(name, len(inputs))
        assert bits(merge(name, inputs, values)) == bits(merge(name, inputs, values))

    def test_pieces_of_the_sums_do_not_show(self, merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
        inputs = smooth_tensors(2, (50, 7))
        exact = merge("slerp", inputs, [0.4]).double().numpy()
        monkeypatch.setattr(reductions, "CHUNK_ELEMENTS", 33)
        assert_close(merge("slerp", inputs, [0.4]), exact, inputs, units=2)
