"""Merging by frequency and after a rotation: against numpy and scipy in float64, closed forms, and what must hold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.linalg
import torch
from method_inputs import Method, computed_on
from numpy.typing import NDArray
from torch import Tensor

from optimizer.merging.methods import spectral

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def rotate(device: torch.device) -> Method:
    return computed_on(device, spectral.rotate)


@pytest.fixture(scope="module")
def distribution_crossover(device: torch.device) -> Method:
    return computed_on(device, spectral.distribution_crossover)


def numbers(shape: Sequence[int], count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tuple(shape), generator=generator) for _ in range(count)]


def fine_tunes(shape: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Two tensors that resemble each other as two fine-tunes of one model do."""
    first, noise = numbers(shape, 2, seed)
    return [first, first + 0.3 * noise]


def plane_turn(size: int, angles: Sequence[float], seed: int = 5) -> Array:
    """A rotation by these angles in planes of a random basis: the identity elsewhere."""
    blocks = [np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]) for t in angles]
    inner = scipy.linalg.block_diag(*blocks, np.eye(size - 2 * len(angles)))
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
    return np.asarray(basis @ inner @ basis.T)


class TestDistributionCrossover:
    @pytest.mark.parametrize("shape", [(2,), (3,), (41,), (6, 7), (4, 3, 3, 3)])
    def test_equals_its_formula(self, distribution_crossover: Method, shape: tuple[int, ...]) -> None:
        inputs = numbers(shape, 3)
        first, second, third = (tensor.double().numpy().ravel() for tensor in inputs)
        order = np.argsort(third, kind="stable")
        low, high = np.fft.rfft(first[order]), np.fft.rfft(second[order])
        for alpha, width in itertools.product((0.13, 0.5, 0.9), (0.0, 0.07, 0.5, 1.0)):
            middle = (1 - alpha) * (1 + width) - width / 2
            blended = np.empty_like(low)
            for place in range(len(low)):
                frequency = place / len(low)
                share = float(frequency >= middle) if width == 0 else (frequency - middle) / width + 0.5
                share = min(max(share, 0.0), 1.0)
                blended[place] = (1 - share) * low[place] + share * high[place]
            expected = np.empty_like(first)
            expected[order] = np.fft.irfft(blended, first.size)
            result = distribution_crossover(inputs, [alpha, width])
            np.testing.assert_allclose(result.numpy().ravel(), expected, atol=2e-6)

    @pytest.mark.parametrize("shape", [(), (1,), (2,), (9,), (6, 7), (1, 1, 1, 1)])
    @pytest.mark.parametrize("width", [0.0, 1e-300, 0.3, 1.0])
    def test_ends_are_the_inputs_exactly_and_nearly_so_beside_them(
        self, distribution_crossover: Method, shape: tuple[int, ...], width: float
    ) -> None:
        inputs = numbers(shape, 3)
        assert torch.equal(distribution_crossover(inputs, [0.0, width]), inputs[0])
        assert torch.equal(distribution_crossover(inputs, [1.0, width]), inputs[1])
        torch.testing.assert_close(distribution_crossover(inputs, [1e-9, width]), inputs[0], rtol=1e-5, atol=1e-5)

    def test_the_mean_is_the_lowest_frequency(self, distribution_crossover: Method) -> None:
        first, order = numbers((8, 9), 2)
        result = distribution_crossover([first, first + 3, order], [0.95, 0.0])
        torch.testing.assert_close(result, first, rtol=1e-5, atol=1e-5)

    def test_places_do_not_matter_but_the_order_of_the_third(self, distribution_crossover: Method) -> None:
        inputs = numbers((60,), 3)
        places = torch.randperm(60, generator=torch.Generator().manual_seed(1))
        result = distribution_crossover(inputs, [0.4, 0.2])
        moved = distribution_crossover([tensor[places] for tensor in inputs], [0.4, 0.2])
        torch.testing.assert_close(moved, result[places], rtol=1e-5, atol=1e-5)

    def test_equal_inputs_stay(self, distribution_crossover: Method) -> None:
        for first in (torch.zeros(5, 4), torch.full((7,), 2.0), numbers((5, 5), 1)[0]):
            result = distribution_crossover([first, first, torch.zeros_like(first)], [0.4, 0.3])
            torch.testing.assert_close(result, first, rtol=1e-5, atol=1e-6)

    def test_one_element_is_blended(self, distribution_crossover: Method) -> None:
        inputs = [torch.tensor(1.0), torch.tensor(3.0), torch.tensor(0.0)]
        assert distribution_crossover(inputs, [0.25, 0.0]).item() == 1.5


def centred(tensor: Tensor) -> tuple[Array, Array]:
    rows = tensor.double().numpy()
    return rows - rows.mean(axis=0), rows.mean(axis=0)


def reference(first: Tensor, second: Tensor, ratio: float, alignment: float) -> Array:
    """The formula for a full-rank pair with at least as many rows as columns, by scipy."""
    (a, mean_a), (b, mean_b) = centred(first), centred(second)
    turn, _ = scipy.linalg.orthogonal_procrustes(a, b)
    if 0 < alignment < 1 and np.linalg.det(turn) < 0:
        u, _, vh = np.linalg.svd(a.T @ b)
        turn = u @ np.diag([*np.ones(len(u) - 1), -1]) @ vh
    if alignment in {0, 1}:
        power = np.linalg.matrix_power(turn, int(alignment))
    else:
        power = scipy.linalg.expm(alignment * scipy.linalg.logm(turn)).real
    means = (1 - alignment) * mean_a + alignment * mean_b
    return np.asarray(((1 - ratio) * a + ratio * b @ turn.T) @ power + means)


def turn_of(rotate: Method, first: Tensor, alignment: float, second: Tensor) -> Array:
    """The matrix that was applied, found back from the result; for first inputs of full column rank."""
    a, _ = centred(first)
    turned, _ = centred(rotate([first, second], [0.0, alignment]))
    return np.asarray(np.linalg.lstsq(a, turned, rcond=None)[0])


class TestRotate:
    @pytest.mark.parametrize("shape", [(9, 8), (40, 7), (30, 2), (12, 1)])
    def test_equals_procrustes_and_the_power_by_logarithm(self, rotate: Method, shape: tuple[int, int]) -> None:
        for seed in range(6):
            first, second = fine_tunes(shape, seed) if seed % 2 else numbers(shape, 2, seed)
            for ratio, alignment in itertools.product((0.0, 0.3, 1.0), (0.0, 0.25, 0.8, 1.0)):
                result = rotate([first, second], [ratio, alignment])
                expected = reference(first, second, ratio, alignment)
                np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(6, 40), (6, 9), (8, 8), (2, 5)])
    def test_few_rows_are_turned_as_near_as_procrustes_does(self, rotate: Method, shape: tuple[int, int]) -> None:
        """There A' lies in the part of the space in which Q is determined."""
        first, second = numbers(shape, 2)
        (a, _), (b, mean_b) = centred(first), centred(second)
        turn, _ = scipy.linalg.orthogonal_procrustes(a, b)
        result = rotate([first, second], [0.0, 1.0])
        np.testing.assert_allclose(result.numpy(), a @ turn + mean_b, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(6, 40), (6, 9), (8, 8), (2, 5)])
    def test_few_rows_are_turned_on_the_shortest_way(self, rotate: Method, shape: tuple[int, int]) -> None:
        """What the rows leave open is itself a Procrustes problem: from the identity, on what is free on both sides."""
        for first, second in (fine_tunes(shape), numbers(shape, 2, seed=3)):
            (a, mean_a), (b, mean_b) = centred(first), centred(second)
            u, sizes, vh = np.linalg.svd(a.T @ b)
            rank = int((sizes > 1e-9 * sizes[0]).sum())
            u_free, v_free = scipy.linalg.null_space(u[:, :rank].T), scipy.linalg.null_space(vh[:rank])
            x, _, yh = np.linalg.svd(u_free.T @ v_free)
            mirror = np.ones(len(x))
            fixed = u[:, :rank] @ vh[:rank]
            if np.linalg.det(fixed + u_free @ x @ yh @ v_free.T) < 0:
                mirror[-1] = -1
            turn = fixed + u_free @ (x * mirror) @ yh @ v_free.T
            for alignment in (0.2, 0.7):
                power = scipy.linalg.expm(alignment * scipy.linalg.logm(turn)).real
                expected = (0.6 * a + 0.4 * b @ turn.T) @ power + (1 - alignment) * mean_a + alignment * mean_b
                result = rotate([first, second], [0.4, alignment])
                np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(6, 40), (6, 9), (8, 8), (40, 7), (6, 5, 3, 3), (1, 2, 3, 3), (6, 5, 1, 1)])
    def test_distances_between_rows_stay(self, rotate: Method, shape: tuple[int, ...]) -> None:
        first, second = numbers(shape, 2)
        rows = shape[0] * shape[1] if shape[2:] == (3, 3) else shape[0]
        distances = torch.pdist(first.double().reshape(rows, -1))
        for alignment in (0.2, 0.5, 0.999, 1.0):
            result = rotate([first, second], [0.0, alignment]).double().reshape(rows, -1)
            torch.testing.assert_close(torch.pdist(result), distances, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("rows", [50, 7])
    def test_known_angles_are_divided(self, rotate: Method, rows: int) -> None:
        """Also for fewer rows than columns, where the planes turned must be found from the rows alone."""
        angles, size = ([0.9, -2.0, 3.0], 12) if rows == 50 else ([0.9], 12)
        turn, half = plane_turn(size, angles), plane_turn(size, [angle * 0.5 for angle in angles])
        points = numbers((rows, size), 1)[0].double().numpy()
        if rows < size:  # rows of the plane only: everything else is not to be turned
            vectors = np.linalg.svd(turn - np.eye(size))[0][:, :2]
            points = points @ vectors @ vectors.T
        first = torch.from_numpy(points).float()
        a, mean = centred(first)
        second = torch.from_numpy(a @ turn + mean).float()
        result = rotate([first, second], [0.0, 0.5])
        np.testing.assert_allclose(result.numpy(), a @ half + mean, atol=5e-6)
        whole = rotate([first, second], [0.0, 1.0])
        np.testing.assert_allclose(whole.numpy(), second.numpy(), atol=5e-6)

    @pytest.mark.parametrize("angles", [[np.pi], [np.pi, np.pi], [np.pi, np.pi - 1e-7, 1.0], [np.pi - 1e-5, 0.0]])
    def test_powers_of_half_turns_are_rotations_too(self, rotate: Method, angles: list[float]) -> None:
        first = numbers((60, 7), 1)[0]
        a, mean = centred(first)
        second = torch.from_numpy(a @ plane_turn(7, angles) + mean).float()
        for alignment in (0.1, 0.5, 0.9):
            power = turn_of(rotate, first, alignment, second)
            np.testing.assert_allclose(power @ power.T, np.eye(7), atol=1e-5)
            assert np.linalg.det(power) == pytest.approx(1, abs=1e-5)
        halves = turn_of(rotate, first, 0.5, second)
        np.testing.assert_allclose(halves @ halves, plane_turn(7, angles), atol=2e-5)

    def test_a_reflection_is_followed_at_the_end_only(self, rotate: Method) -> None:
        first = numbers((60, 6), 1)[0]
        a, mean = centred(first)
        mirror = plane_turn(6, [0.4]) @ np.diag([1.0, 1, 1, 1, 1, -1])
        second = torch.from_numpy(a @ mirror + mean).float()
        np.testing.assert_allclose(turn_of(rotate, first, 1.0, second), mirror, atol=1e-5)
        for alignment in (0.001, 0.5, 0.999):
            power = turn_of(rotate, first, alignment, second)
            np.testing.assert_allclose(power @ power.T, np.eye(6), atol=1e-5)
            assert np.linalg.det(power) == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("shape", [(), (1,), (9,), (1, 5), (6, 5), (5, 30), (4, 3, 3, 3)])
    def test_ends_are_the_inputs_exactly(self, rotate: Method, shape: tuple[int, ...]) -> None:
        first, second = numbers(shape, 2)
        assert torch.equal(rotate([first, second], [0.0, 0.0]), first)
        assert torch.equal(rotate([first, second], [1.0, 1.0]), second)

    @pytest.mark.parametrize("shape", [(6, 5), (5, 30), (4, 3, 3, 3)])
    def test_beside_the_ends_it_is_nearly_the_inputs(self, rotate: Method, shape: tuple[int, ...]) -> None:
        first, second = fine_tunes(shape)
        torch.testing.assert_close(rotate([first, second], [1e-7, 1e-7]), first, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(rotate([first, second], [1.0, 0.9999999]), second, rtol=1e-5, atol=1e-5)

    def test_turned_back_is_the_inverse_of_turned(self, rotate: Method) -> None:
        first, second = numbers((40, 7), 2)
        back = rotate([first, second], [1.0, 0.0])
        forth = rotate([second, first], [0.0, 1.0])
        torch.testing.assert_close(back, forth, rtol=1e-5, atol=1e-5)

    def test_convolutions_are_turned_within_their_kernels(self, rotate: Method) -> None:
        first, second = numbers((6, 5, 3, 3), 2)
        result = rotate([first, second], [0.3, 0.4])
        flat = rotate([first.reshape(30, 9), second.reshape(30, 9)], [0.3, 0.4])
        torch.testing.assert_close(result, flat.reshape(6, 5, 3, 3))
        pointwise = rotate([first[:, :, :1, :1].contiguous(), second[:, :, :1, :1].contiguous()], [0.3, 0.4])
        matrix = rotate([first[:, :, 0, 0].contiguous(), second[:, :, 0, 0].contiguous()], [0.3, 0.4])
        torch.testing.assert_close(pointwise[:, :, 0, 0], matrix)

    @pytest.mark.parametrize("shape", [(), (1,), (9,), (1, 5), (1, 1, 3, 3)])
    def test_what_has_no_rows_to_turn_is_blended(self, rotate: Method, shape: tuple[int, ...]) -> None:
        first, second = numbers(shape, 2)
        for alignment in (0.0, 0.5, 1.0):
            torch.testing.assert_close(rotate([first, second], [0.25, alignment]), 0.75 * first + 0.25 * second)

    def test_columns_of_zeros_are_not_turned_into(self, rotate: Method) -> None:
        first, second = fine_tunes((30, 8))
        first[:, [2, 5]] = 0
        second[:, [2, 5]] = 0
        for alignment in (0.3, 1.0):
            assert rotate([first, second], [0.5, alignment])[:, [2, 5]].abs().max() < 1e-6

    @pytest.mark.parametrize("shape", [(6, 5), (3, 11), (2, 1), (4, 3, 3, 3)])
    def test_degenerate_inputs_stay_finite(self, rotate: Method, shape: tuple[int, ...]) -> None:
        zeros, constant, (some,) = torch.zeros(shape), torch.full(shape, 2.0), numbers(shape, 1)
        tiny, huge = some * 1e-30, some * 1e15
        for first, second in itertools.permutations((zeros, constant, some, tiny, huge, -some), 2):
            for ratio, alignment in itertools.product((0.0, 0.5, 1.0), (0.0, 0.3, 1.0)):
                result = rotate([first, second], [ratio, alignment])
                assert result.isfinite().all()
                assert result.shape == some.shape

    def test_a_constant_partner_turns_nothing(self, rotate: Method) -> None:
        (first,) = numbers((9, 5), 1)
        result = rotate([first, torch.full((9, 5), 2.0)], [0.0, 0.5])
        torch.testing.assert_close(result, first - first.mean(0) + (first.mean(0) + 2) / 2)

    def test_nan_is_not_hidden(self, rotate: Method) -> None:
        first, second = numbers((9, 5), 2)
        second[3, 3] = torch.nan
        assert rotate([first, second], [0.0, 0.5]).isnan().all()


@pytest.mark.parametrize("shape", [(), (1,), (9,), (6, 5), (3, 11), (4, 3, 3, 3)])
def test_inputs_are_left_alone(rotate: Method, distribution_crossover: Method, shape: tuple[int, ...]) -> None:
    inputs = numbers(shape, 3)
    copies = [tensor.clone() for tensor in inputs]
    distribution_crossover(inputs, [0.4, 0.1])
    rotate(inputs[:2], [0.4, 0.6])
    assert all(map(torch.equal, inputs, copies))
