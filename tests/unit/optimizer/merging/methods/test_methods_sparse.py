"""Methods that merge a part of each difference, against their formulas in float64 and by what must hold of them."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_inputs import Method, computed_on
from numpy.typing import NDArray
from torch import Tensor

from optimizer.merging.methods import sparse
from studies.recipe.methods import METHODS

Array = NDArray[np.float64]

NAMES = (
    "ties",
    "dare_linear",
    "dare_ties",
    "della_linear",
    "della",
    "breadcrumbs",
    "breadcrumbs_ties",
    "sce",
)
LINEAR = ("dare_linear", "della_linear", "breadcrumbs")
SHAPES = ((), (1,), (37,), (1, 9), (12, 11), (6, 5, 3, 3), (8, 4, 1, 1))
DEGENERATE = (torch.zeros(6, 4), torch.full((6, 4), 2.5), torch.zeros(1), torch.tensor(1.5), torch.full((1, 3), -1e-30))


def on_a_grid(shape: Sequence[int], count: int, seed: int = 0) -> list[Tensor]:
    """Multiples of 1/16 within a few units: their differences are exact in float32, and many are equal or zero."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-64, 65, tuple(shape), generator=generator) / 16 for _ in range(count)]


def uniform(shape: Sequence[int], count: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(tuple(shape), generator=generator) for _ in range(count)]


@pytest.fixture(scope="module")
def method(device: torch.device) -> Callable[[str], Method]:
    """A method by its name, on CPU tensors."""
    return lambda name: computed_on(device, getattr(sparse, name))


class Merged(Protocol):
    """A method's result; a random one gets draws that depend on the seed only."""

    def __call__(self, name: str, inputs: Sequence[Tensor], values: Sequence[float], seed: int = 1) -> Tensor: ...


@pytest.fixture(scope="module")
def merged(method: Callable[[str], Method]) -> Merged:
    def call(name: str, inputs: Sequence[Tensor], values: Sequence[float], seed: int = 1) -> Tensor:
        draws = (uniform(inputs[0].shape, len(inputs) - 1, seed),) if METHODS[name].random else ()
        return method(name)(inputs, values, *draws)

    return call


def values_for(name: str, others: int, *, share: float = 0.5, strength: float = 1.0, **own: float) -> list[float]:
    """One value per slot: every weight or ratio `share`, the rest by name or else its default."""
    slots = METHODS[name].slots("ABCDEFGH"[: others + 1])
    known = {"strength": strength, **own}
    return [share if len(slot.name) == 1 else known.get(slot.name, slot.default) for slot in slots]


# The formulas, element by element, in float64.


def count_kept(density: float, total: int) -> int:
    return 0 if density == 0 else max(1, round(density * total))


def by_size(difference: Array) -> list[int]:
    """Positions from the largest magnitude to the smallest, the first of equals first."""
    flat = difference.ravel()
    return sorted(range(flat.size), key=lambda position: (-abs(flat[position]), position))


def trimmed(difference: Array, density: float, gamma: float = 0.0) -> Array:
    total = difference.size
    kept = count_kept(density, total)
    skipped = min(round(gamma * total), total - kept)
    result = np.zeros(total)
    for position in by_size(difference)[skipped : skipped + kept]:
        result[position] = difference.ravel()[position]
    return result.reshape(difference.shape)


def dropped(difference: Array, draw: Array, chances: Array) -> Array:
    return np.where(draw < chances, difference / np.maximum(chances, 1e-300), 0.0)


def chances_by_rank(difference: Array, density: float, epsilon: float) -> Array:
    rows = difference.reshape(1, -1) if difference.ndim < 2 else difference.reshape(difference.shape[0], -1)
    result = np.full(rows.shape, density)
    for row, chances in zip(rows, result, strict=True):
        for rank, position in enumerate(reversed(by_size(row))):
            share = rank / (row.size - 1) if row.size > 1 else 0.5
            chances[position] = min(max(density - epsilon + 2 * epsilon * share, 0.0), 1.0)
    return result.reshape(difference.shape)


def mean_of_one_sign(
    differences: Sequence[Array], weights: Sequence[float], votes: Sequence[float] | None = None
) -> Array:
    result = np.zeros(differences[0].shape)
    for place in np.ndindex(*result.shape):
        column = [float(difference[place]) for difference in differences]
        elected = np.sign(math.fsum(vote * value for vote, value in zip(votes or weights, column, strict=True)))
        agreeing = [(w, value) for w, value in zip(weights, column, strict=True) if elected * value > 0]
        if agreeing and math.fsum(w for w, _ in agreeing) > 0:
            result[place] = math.fsum(w * value for w, value in agreeing) / math.fsum(w for w, _ in agreeing)
    return result


def sce_mean(differences: Sequence[Array], density: float) -> Array:
    kept = np.ones(differences[0].shape, dtype=bool)
    if density < 1:
        variance = np.var(np.stack(differences), axis=0)
        kept = trimmed(variance, 1.0) > 1e-12
        best = by_size(variance)[: count_kept(density, int(kept.sum())) if kept.any() else 0]
        kept = np.isin(np.arange(variance.size), best).reshape(variance.shape)
    selected = [difference * kept for difference in differences]
    energies = [float((difference**2).sum()) for difference in selected]
    return mean_of_one_sign(selected, energies, [1.0] * len(energies))


def expected(name: str, inputs: Sequence[Tensor], values: Sequence[float], draws: Sequence[Tensor]) -> Array:
    base, *others = (tensor.double().numpy() for tensor in inputs)
    differences = [np.asarray(other - base) for other in others]
    slots = METHODS[name].slots("ABCDEFGH"[: len(inputs)])
    own = {slot.name: value for slot, value in zip(slots, values, strict=True)}
    each = [value for slot, value in zip(slots, values, strict=True) if len(slot.name) == 1]
    density = own["density"]
    if name == "sce":
        return np.asarray(base + own["strength"] * sce_mean(differences, density))
    if METHODS[name].random:
        chances = [chances_by_rank(d, density, own.get("epsilon", 0.0)) for d in differences]
        parts = [dropped(d, u.double().numpy(), p) for d, u, p in zip(differences, draws, chances, strict=True)]
    else:
        parts = [trimmed(d, density, own.get("gamma", 0.0)) for d in differences]
    if name in LINEAR:
        return np.asarray(base + sum(ratio * part for ratio, part in zip(each, parts, strict=True)))
    return np.asarray(base + own["strength"] * mean_of_one_sign(parts, each))


# Weights that are powers of two keep votes exact, so that float32 and float64 elect alike.
EACH = ((1.0, 0.5, 0.25), (0.0, 1.0, 1.0), (0.5, 0.5, 0.0))


class TestFormulas:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("name", NAMES)
    def test_equal_their_formula_in_float64(self, merged: Merged, name: str, shape: tuple[int, ...]) -> None:
        # Divided by chances, votes that should cancel out do so only nearly: no such votes among arbitrary numbers.
        inputs = uniform(shape, 4, seed=7) if METHODS[name].random else on_a_grid(shape, 4)
        draws = uniform(shape, 3)
        own = [slot for slot in METHODS[name].slots("ABCD") if len(slot.name) > 1]
        ends = {"strength": (0.75, -1.5), "density": (0.25, 0.6), "gamma": (0.1, 0.7), "epsilon": (0.125, 0.5)}
        for each, rest in itertools.product(EACH, itertools.product(*(ends[slot.name] for slot in own))):
            values = [*(each if METHODS[name].per_input else ()), *rest]
            result = merged(name, inputs, values)
            reference = expected(name, inputs, values, draws)
            assert result.dtype == torch.float32
            assert result.shape == torch.Size(shape)
            np.testing.assert_allclose(result.numpy(), reference, rtol=2e-5, atol=2e-5)

    def test_sign_is_elected_by_size_and_not_by_count(self, method: Callable[[str], Method]) -> None:
        inputs = [torch.zeros(2), torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 3.0]), torch.tensor([-1.0, -5.0])]
        assert method("ties")(inputs, [1, 1, 1, 1, 1]).tolist() == [3.0, -5.0]

    def test_opposite_differences_cancel_out(self, merged: Merged, method: Callable[[str], Method]) -> None:
        base, other = on_a_grid((5, 5), 2)
        inputs = [base, base + other, base - other]
        for name in ("ties", "breadcrumbs_ties"):
            assert torch.equal(merged(name, inputs, values_for(name, 2)), base)
        assert torch.equal(method("sce")(inputs, [1.0, 1.0]), base)

    def test_sce_weighs_by_energy(self, method: Callable[[str], Method]) -> None:
        inputs = [torch.zeros(3), torch.tensor([1.0, 1.0, 1.0]), torch.tensor([3.0, 3.0, 0.0])]
        heavy = 18 / 21  # of the second difference's energy
        total = 1 * (1 - heavy) + 3 * heavy
        assert method("sce")(inputs, [1.0, 1.0]).tolist() == pytest.approx([total, total, 1.0])

    def test_sce_selects_only_among_elements_that_differ(self, method: Callable[[str], Method]) -> None:
        base = torch.zeros(8)
        first, second = torch.ones(8), torch.ones(8)
        first[2], second[5], second[6] = 4.0, 3.0, 2.0
        changed = method("sce")([base, first, second], [1.0, 2 / 3]).nonzero().flatten().tolist()
        assert changed == [2, 5]

    def test_della_ranks_within_each_row(self, merged: Merged) -> None:
        """With density = epsilon = 1/2 the least of a row is never kept and the largest always is."""
        inputs = [torch.zeros(3, 4), torch.tensor([[1.0, 2, 3, 4], [40, 30, 20, 10], [-5, 6, -7, 8]])]
        results = torch.stack([merged("della_linear", inputs, [1, 0.5, 0.5], seed) for seed in range(40)])
        assert (results[:, [0, 1, 2], [0, 3, 0]] == 0).all()
        assert torch.equal(results[:, [0, 1, 2], [3, 0, 3]], torch.tensor([[4.0, 40, 8]]).expand(40, 3))


class TestEnds:
    @pytest.mark.parametrize("name", NAMES)
    def test_no_ratio_is_the_first_input(self, merged: Merged, name: str) -> None:
        inputs = on_a_grid((4, 5), 3)
        assert torch.equal(merged(name, inputs, values_for(name, 2, share=0.0, strength=0.0)), inputs[0])
        if name not in LINEAR:
            assert torch.equal(merged(name, inputs, values_for(name, 2, strength=0.0)), inputs[0])

    @pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].per_input])
    def test_no_weight_is_the_first_input(self, merged: Merged, name: str) -> None:
        inputs = on_a_grid((4, 5), 3)
        assert torch.equal(merged(name, inputs, values_for(name, 2, share=0.0)), inputs[0])

    @pytest.mark.parametrize("name", NAMES)
    def test_density_of_zero_is_the_first_input(self, merged: Merged, name: str) -> None:
        inputs = on_a_grid((4, 5), 3)
        values = values_for(name, 2, density=0.0, epsilon=0.0, gamma=0.3)
        assert torch.equal(merged(name, inputs, values), inputs[0])

    @pytest.mark.parametrize("name", LINEAR)
    def test_density_of_one_is_task_arithmetic(self, merged: Merged, name: str) -> None:
        inputs = on_a_grid((4, 5), 3)
        result = merged(name, inputs, values_for(name, 2, share=0.3, density=1.0, epsilon=0.0, gamma=0.3))
        torch.testing.assert_close(result, inputs[0] + 0.3 * (inputs[1] - inputs[0]) + 0.3 * (inputs[2] - inputs[0]))

    @pytest.mark.parametrize("name", [name for name in NAMES if name not in LINEAR and name != "sce"])
    def test_one_difference_kept_whole_is_the_other_input(self, merged: Merged, name: str) -> None:
        inputs = on_a_grid((4, 5), 2)
        result = merged(name, inputs, values_for(name, 1, share=0.01, density=1.0, epsilon=0.0))
        torch.testing.assert_close(result, inputs[1])

    @pytest.mark.parametrize("name", ["ties", "breadcrumbs", "breadcrumbs_ties"])
    def test_an_only_element_is_kept_at_any_density_above_zero(self, merged: Merged, name: str) -> None:
        inputs = [torch.tensor(1.0), torch.tensor(3.0)]
        assert merged(name, inputs, values_for(name, 1, share=1.0, density=0.01)).item() == 3.0


class TestSymmetries:
    @pytest.mark.parametrize("name", NAMES)
    def test_order_of_equally_weighted_inputs_does_not_matter(self, method: Callable[[str], Method], name: str) -> None:
        inputs = on_a_grid((9, 7), 4)
        draws = uniform((9, 7), 3)
        function = method(name)
        values = values_for(name, 3)
        takes_draws = METHODS[name].random

        def result(order: Sequence[int]) -> Tensor:
            tensors = [inputs[0], *(inputs[index + 1] for index in order)]
            extra = ([draws[index] for index in order],) if takes_draws else ()
            return function(tensors, values, *extra)

        for order in itertools.permutations(range(3)):
            torch.testing.assert_close(result(order), result((0, 1, 2)), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("name", NAMES)
    def test_what_is_added_to_all_inputs_is_added_to_the_result(self, merged: Merged, name: str) -> None:
        *inputs, offset = on_a_grid((9, 7), 4)
        values = values_for(name, 2)
        moved = merged(name, [tensor + offset for tensor in inputs], values)
        torch.testing.assert_close(moved, merged(name, inputs, values) + offset, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("name", ["ties", "dare_ties", "della", "breadcrumbs_ties"])
    def test_only_proportions_of_weights_count(self, merged: Merged, name: str) -> None:
        inputs = on_a_grid((9, 7), 3)
        for scale in (1e-300, 1e300):
            small = merged(name, inputs, [0.25 * scale, 1.0 * scale, *values_for(name, 2)[2:]])
            assert torch.equal(small, merged(name, inputs, [0.25, 1.0, *values_for(name, 2)[2:]]))

    @pytest.mark.parametrize(("random", "plain"), [("della_linear", "dare_linear"), ("della", "dare_ties")])
    def test_della_without_epsilon_is_dare(self, merged: Merged, random: str, plain: str) -> None:
        inputs = on_a_grid((9, 7), 4)
        for density in (0.0, 0.3, 1.0):
            rest = values_for(plain, 3, density=density)
            torch.testing.assert_close(merged(random, inputs, [*rest, 0.0]), merged(plain, inputs, rest))

    def test_breadcrumbs_without_gamma_keeps_the_largest(self, method: Callable[[str], Method]) -> None:
        inputs = on_a_grid((9, 7), 3)
        for density in (0.0, 0.3, 1.0):
            rest = values_for("ties", 2, density=density)
            assert torch.equal(method("breadcrumbs_ties")(inputs, [*rest, 0.0]), method("ties")(inputs, rest))
            alone = method("ties")(inputs[:2], [1.0, 1.0, density])
            assert torch.equal(method("breadcrumbs")(inputs[:2], [1.0, density, 0.0]), alone)


class TestWhatIsKept:
    @given(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=60),
        density=st.floats(0, 1),
        gamma=st.floats(0, 1),
        data=st.data(),
    )
    @settings(max_examples=150, deadline=None)
    def test_exactly_the_share_of_the_largest_and_the_first_of_equals(
        self, method: Callable[[str], Method], sizes: list[int], density: float, gamma: float, data: st.DataObject
    ) -> None:
        signs = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=len(sizes), max_size=len(sizes)))
        base = torch.zeros(len(sizes))
        other = torch.tensor([float(size * sign) for size, sign in zip(sizes, signs, strict=True)])
        kept = count_kept(density, len(sizes))
        ranked = by_size(other.double().numpy())
        assert method("ties")([base, other], [1, 1, density]).nonzero().flatten().tolist() == sorted(ranked[:kept])
        without_outliers = method("breadcrumbs")([base, other], [1, density, gamma]).nonzero().flatten().tolist()
        assert len(without_outliers) == kept
        skipped = min(round(gamma * len(sizes)), len(sizes) - kept)
        assert without_outliers == sorted(ranked[skipped : skipped + kept])

    @pytest.mark.parametrize(("name", "extra"), [("dare_linear", []), ("della_linear", [0.2])])
    def test_random_drops_average_to_the_plain_sum(self, merged: Merged, name: str, extra: list[float]) -> None:
        inputs = on_a_grid((4, 6), 3)
        rounds, density = 3_000, 0.4
        total = torch.zeros(4, 6, dtype=torch.float64)
        for seed in range(rounds):
            total += merged(name, inputs, [0.5, -0.25, density, *extra], seed)
        differences = [tensor.double() - inputs[0].double() for tensor in inputs[1:]]
        plain = inputs[0] + 0.5 * differences[0] - 0.25 * differences[1]
        least = density - (extra[0] if extra else 0)
        squares = (0.5 * differences[0]) ** 2 + (0.25 * differences[1]) ** 2
        error = (squares * (1 - least) / least / rounds).sqrt()  # of the mean, at most
        assert ((total / rounds - plain).abs() <= 5 * error + 1e-6).all()

    def test_share_kept_by_chance_is_the_density(self, merged: Merged) -> None:
        base, other = torch.zeros(100, 200), torch.rand(100, 200) + 1
        for name, extra in (("dare_linear", []), ("della_linear", [0.25])):
            kept = merged(name, [base, other], [1.0, 0.3, *extra]).count_nonzero().item() / base.numel()
            assert abs(kept - 0.3) < 5 * math.sqrt(0.3 * 0.7 / base.numel())


class TestSafety:
    @pytest.mark.parametrize("name", NAMES)
    def test_inputs_are_left_alone(self, method: Callable[[str], Method], name: str) -> None:
        inputs = on_a_grid((6, 5, 3, 3), 3)
        copies = [tensor.clone() for tensor in inputs]
        draws = uniform(inputs[0].shape, 2)
        drawn = [tensor.clone() for tensor in draws]
        function = method(name)
        function(inputs, values_for(name, 2), *((draws,) if METHODS[name].random else ()))
        assert all(map(torch.equal, inputs + draws, copies + drawn))

    @pytest.mark.parametrize("name", NAMES)
    def test_finite_for_all_degenerate_inputs_and_ends_of_the_ranges(self, merged: Merged, name: str) -> None:
        slots = METHODS[name].slots("ABC")
        ends = [(max(slot.least, -2.0), slot.default, min(slot.most, 2.0)) for slot in slots]
        for tensor in DEGENERATE:
            inputs = (
                [tensor] * 3,
                [tensor, tensor + 1, tensor],
                [tensor, tensor + 1, tensor - 1],
                [-tensor, tensor, tensor],
            )
            for values in itertools.product(*ends):
                for case in inputs:
                    result = merged(name, case, values)
                    assert result.isfinite().all(), (values, case)
                    assert result.shape == tensor.shape

    @pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].random])
    def test_densities_below_the_grain_of_the_draws_stay_finite(
        self, method: Callable[[str], Method], name: str
    ) -> None:
        inputs = on_a_grid((3, 4), 3)
        function = method(name)
        for density in (5e-324, 1e-40, 2.0**-25):
            values = values_for(name, 2, density=density, epsilon=0.0)
            assert function(inputs, values, [torch.zeros(3, 4)] * 2).isfinite().all()

    @pytest.mark.parametrize("name", NAMES)
    def test_nan_is_not_hidden(self, merged: Merged, name: str) -> None:
        inputs = on_a_grid((4, 4), 3)
        inputs[1][1, 2] = torch.nan
        assert merged(name, inputs, values_for(name, 2, density=1.0, epsilon=0.0, gamma=0.0))[1, 2].isnan()

    @pytest.mark.parametrize("name", ["ties", "breadcrumbs", "breadcrumbs_ties", "sce"])
    def test_nan_is_not_trimmed_away(self, merged: Merged, name: str) -> None:
        inputs = on_a_grid((4, 4), 3)
        inputs[1][1, 2] = torch.nan
        assert merged(name, inputs, values_for(name, 2, density=0.25, gamma=0.0))[1, 2].isnan()

    @pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].per_input])
    def test_an_input_without_weight_is_left_out(self, merged: Merged, name: str) -> None:
        inputs = on_a_grid((4, 4), 3)
        inputs[2].fill_(torch.nan)
        own = values_for(name, 2)[2:]
        assert torch.equal(merged(name, inputs, [0.5, 0.0, *own]), merged(name, inputs[:2], [0.5, *own]))

    def test_random_methods_are_those_that_take_draws(self) -> None:
        for name in NAMES:
            assert ("draws" in inspect.signature(getattr(sparse, name)).parameters) == METHODS[name].random
