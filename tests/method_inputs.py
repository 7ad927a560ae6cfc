"""Tensors to merge and a comparison with exact results, shared by the tests of the merge methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.recipe.methods import METHODS

Array = NDArray[np.float64]
Method = Callable[..., Tensor]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SHAPES = ((), (1,), (7,), (1, 1), (5, 3), (1, 6), (4, 3, 2), (4, 3, 3, 3))
TINY, LARGE = 1e-40, 1e18  # a subnormal number; squares of the large one leave float32


def tensors(count: int, shape: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Draw numbers over four orders of magnitude; some are 0, some are equal in two inputs."""
    generator = torch.Generator().manual_seed(seed)
    size = (count, *shape)
    values = torch.randn(size, generator=generator) * 10 ** (torch.rand(size, generator=generator) * 4 - 3)
    values[torch.rand(size, generator=generator) < 0.1] = 0.0
    same = torch.rand(size, generator=generator) < 0.1
    values = torch.where(same, values.roll(1, dims=0), values)
    return [tensor.clone() for tensor in values]


def smooth_tensors(count: int, shape: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Draw numbers of a magnitude around 1, all different, as weights are."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn((count, *shape), generator=generator))


def computed_on(device: torch.device, method: Method) -> Method:
    """Wrap a method so that it computes on a device, with inputs and result on the CPU."""

    def call(inputs: Sequence[Tensor], values: Sequence[float], *draws: Sequence[Tensor]) -> Tensor:
        on_device = [[tensor.to(device) for tensor in tensors] for tensors in (inputs, *draws)]
        return method(on_device[0], values, *on_device[1:]).cpu()

    return call


def some_values(name: str, count: int) -> list[float]:
    """Return a valid number for each slot of a method, all different."""
    slots = METHODS[name].slots(LETTERS[:count])
    return [0.3 + 0.4 * k / max(1, len(slots)) for k in range(len(slots))]


def wide(inputs: Iterable[Tensor]) -> list[Array]:
    return [tensor.double().numpy() for tensor in inputs]


def bits(tensor: Tensor) -> list[int]:
    flat: list[int] = tensor.reshape(-1).contiguous().view(torch.int32).tolist()
    return flat


def assert_close(result: Tensor, exact: Array, inputs: Sequence[Tensor], *, units: float = 8, gain: float = 1) -> None:
    """Check a result: float32, of the inputs' shape, within some units in the last place of the largest input.

    Args:
        exact: float64, computed independently.
        gain: the factor by which the method multiplies differences of its inputs.
    """
    assert result.dtype == torch.float32
    assert result.shape == inputs[0].shape
    largest = np.max([np.abs(tensor.double().numpy()) for tensor in inputs], axis=0)
    allowed = units * np.finfo(np.float32).eps * (gain * largest + np.abs(exact))
    error = np.abs(result.double().numpy() - exact)
    assert np.all(error <= allowed), f"off by {np.max(error / (allowed + 1e-300)):.3g} of what is allowed"


def degenerate_inputs(count: int, shape: Sequence[int]) -> dict[str, list[Tensor]]:
    """Return inputs for which a formula may divide by zero or leave float32's range."""
    first, second, third = smooth_tensors(3, shape)
    zero = torch.zeros(shape)

    def repeated(*some: Tensor) -> list[Tensor]:
        return [some[k % len(some)].clone() for k in range(count)]

    return {
        "all zero": repeated(zero),
        "all equal": repeated(first),
        "first zero": repeated(zero, first, second),
        "second zero": repeated(first, zero, second),
        "first two equal": repeated(first, first, second),
        "last two equal": repeated(first, second, second),
        "ends equal": repeated(first, second, first),
        "opposite": repeated(first, -first, second),
        "opposite around the third": repeated(first, -first, zero),
        "parallel": repeated(first, 2 * first, 3 * first),
        "all subnormal": repeated(first * TINY, second * TINY, third * TINY),
        "first subnormal": repeated(first * TINY, second, third),
        "second subnormal": repeated(first, second * TINY, zero),
        "all large": repeated(first * LARGE, second * LARGE, third * LARGE),
        "large and small": repeated(first * LARGE, second * 1e-18, third),
        "small and large": repeated(first * TINY, second * LARGE, zero),
        "nearly opposite": repeated(first, -first * (1 + 1e-6), second),
        "nearly equal": repeated(first, first * (1 + 1e-6), second),
    }
