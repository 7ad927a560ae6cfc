"""The two set distances against other libraries, closed forms and brute force, in float64."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.fid import FrechetInceptionDistance

from scorers.distances.distance import (
    frechet_distance,
    frechet_reference,
    kernel_distance,
    kernel_reference,
)

SIZES = [(8, 8, 4), (8, 40, 16), (40, 8, 16), (12, 30, 64), (64, 64, 8)]  # n, m, d


def two_sets(n: int, m: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = torch.randn(m, d, generator=generator, dtype=torch.float64) @ mixing / d**0.5 + 0.3
    return x, y


def distances(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    return frechet_distance(x, frechet_reference(y)), kernel_distance(x, kernel_reference(y))


@pytest.mark.parametrize(("n", "m", "d"), [(8, 40, 4), (40, 30, 16), (64, 64, 8)])
def test_frechet_agrees_with_the_matrix_square_root_of_scipy(n: int, m: int, d: int) -> None:
    x, y = (features.numpy() for features in two_sets(n, m, d))
    covariances = np.cov(x.T), np.cov(y.T)
    cross = np.trace(scipy.linalg.sqrtm(covariances[0] @ covariances[1])).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
    found = frechet_distance(torch.from_numpy(x), frechet_reference(torch.from_numpy(y)))
    assert found == pytest.approx(expected, rel=1e-9)


class Flat(torch.nn.Module):
    """An image's own values as its features, so that torchmetrics computes the distance of chosen vectors."""

    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).double()


@pytest.mark.parametrize(("n", "m"), [(8, 9), (8, 60), (50, 40)])
def test_frechet_agrees_with_torchmetrics_also_below_full_rank(n: int, m: int) -> None:
    generator = torch.Generator().manual_seed(n)
    images, references = (torch.randint(0, 256, (k, 3, 2, 2), generator=generator).byte() for k in (n, m))
    metric = FrechetInceptionDistance(feature=Flat(), normalize=False).set_dtype(torch.float64)
    metric.update(references, real=True)
    metric.update(images, real=False)
    found = frechet_distance(images.flatten(1).float(), frechet_reference(references.flatten(1).float()))
    # torchmetrics takes square roots of eigenvalues that should be 0 and are 1e-10, hence its tolerance
    assert found == pytest.approx(float(metric.compute()), rel=1e-4)


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_kernel_agrees_with_its_definition(n: int, m: int, d: int) -> None:
    x, y = two_sets(n, m, d)

    def mean_kernel(a: torch.Tensor, b: torch.Tensor, skip: bool) -> float:
        values = [
            (float(a[i] @ b[j]) / d + 1) ** 3 for i in range(len(a)) for j in range(len(b)) if not (skip and i == j)
        ]
        return sum(values) / len(values)

    expected = mean_kernel(x, x, skip=True) + mean_kernel(y, y, skip=True) - 2 * mean_kernel(x, y, skip=False)
    assert kernel_distance(x, kernel_reference(y)) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_shifted_copies_is_the_squared_shift() -> None:
    x, _ = two_sets(20, 20, 6)
    assert frechet_distance(x + 2, frechet_reference(x)) == pytest.approx(6 * 2**2)


def test_frechet_of_scaled_copies_is_that_of_scaled_deviations() -> None:
    x, _ = two_sets(20, 20, 6)
    x = x - x.mean(0)
    variance = float(x.var(0).sum())
    assert frechet_distance(3 * x, frechet_reference(x)) == pytest.approx((3 - 1) ** 2 * variance)


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_frechet_of_a_set_with_itself_is_zero(n: int, m: int, d: int) -> None:
    x, _ = two_sets(n, m, d)
    assert frechet_distance(x, frechet_reference(x)) == pytest.approx(0, abs=1e-9)


def test_kernel_of_one_distribution_is_zero_on_average() -> None:
    pairs = [two_sets(16, 16, 8, seed) for seed in range(60)]
    values = [
        kernel_distance(x, kernel_reference(torch.roll(z, 1, 1)))
        for (x, _), (z, _) in zip(pairs, reversed(pairs), strict=True)
        if x is not z
    ]
    spread = float(np.std(values)) / len(values) ** 0.5
    assert abs(float(np.mean(values))) < 4 * spread
    assert min(values) < 0 < max(values)


@given(seed=st.integers(0, 10_000), n=st.integers(2, 20), m=st.integers(2, 20), d=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_distances_do_not_depend_on_order_and_frechet_is_symmetric(seed: int, n: int, m: int, d: int) -> None:
    x, y = two_sets(n, m, d, seed)
    shuffled = x[torch.randperm(n, generator=torch.Generator().manual_seed(seed))], y.flip(0)
    assert distances(*shuffled) == pytest.approx(distances(x, y), rel=1e-8, abs=1e-8)
    assert distances(y, x) == pytest.approx(distances(x, y), rel=1e-8, abs=1e-8)
    assert distances(x, y)[0] >= 0


def test_spread_is_the_distance_to_copies_of_the_mean() -> None:
    x, _ = two_sets(30, 30, 8)
    reference = frechet_reference(x)
    copies = x.mean(0, keepdim=True).expand(10, -1)
    assert frechet_distance(copies, reference) == pytest.approx(reference.spread)


def test_a_bootstrap_may_repeat_rows() -> None:
    x, y = two_sets(16, 32, 8)
    index = torch.randint(0, 16, (16,), generator=torch.Generator().manual_seed(1))
    assert all(np.isfinite(value) for value in distances(x[index], y))


def test_a_call_is_cheap_at_the_size_of_fid() -> None:
    x, y = (features.float() for features in two_sets(32, 200, 2048))
    prepared = frechet_reference(y), kernel_reference(y)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        frechet_distance(x, prepared[0])
        kernel_distance(x, prepared[1])
        times.append(time.perf_counter() - began)
    assert min(times) < 0.1  # about 2 ms on an idle core
