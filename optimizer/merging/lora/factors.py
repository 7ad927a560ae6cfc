"""The factors of one layer of a LoRA, as its tensors give them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optimizer.errors import LoraError
from optimizer.merging.lora.names import Role


@dataclass(frozen=True, slots=True)
class Factors:
    """The low-rank factors of one layer: its weight changes by scale * up @ down."""

    up: Tensor  # float32 [out, rank]
    down: Tensor  # float32 [rank, in * height * width]
    shape: tuple[int, ...]  # of the product: [out, in] or [out, in, height, width]; without a 1x1 kernel
    scale: float  # alpha / rank


def composed(tensors: Mapping[Role, Tensor], scale_of_rank: Callable[[int], float], where: str) -> Factors:
    """Check one module's tensors, and compose them into two factors.

    Args:
        scale_of_rank: gives the scale of a module without alpha.
        where: file and module, for messages.

    Raises:
        LoraError: shapes do not fit, or values are not finite.
    """
    up, down = tensors["up"].float(), tensors["down"].float()
    mid = tensors["mid"].float() if "mid" in tensors else None
    _check_shapes(up, down, mid, where)
    rank = down.shape[0]
    kernel = tuple((down if mid is None else mid).shape[2:])
    if mid is not None:  # a 1x1 convolution followed by `mid`: composed, one convolution [rank, in, h, w]
        down = torch.einsum("rshw,si->rihw", mid, down.flatten(1))
    scale = _scale(tensors, rank, scale_of_rank)
    if not (math.isfinite(scale) and bool(up.isfinite().all()) and bool(down.isfinite().all())):
        raise LoraError(f"{where} holds values that are not finite numbers: fetch the file again")
    shape = without_1x1_kernel((up.shape[0], tensors["down"].shape[1], *kernel))
    return Factors(up.flatten(1).contiguous(), down.flatten(1).contiguous(), shape, scale)


def _scale(tensors: Mapping[Role, Tensor], rank: int, scale_of_rank: Callable[[int], float]) -> float:
    """Return the factor of the product.

    A1111's `scale` stands for alpha / rank; LyCORIS's `scalar` is a further factor that was trained.
    """
    if "scale" in tensors:
        scale = _number(tensors["scale"])
    elif "alpha" in tensors:
        scale = _number(tensors["alpha"]) / rank
    else:
        scale = scale_of_rank(rank)
    return scale * _number(tensors["scalar"]) if "scalar" in tensors else scale


def _number(tensor: Tensor) -> float:
    """Return the number that a tensor of one element holds; NaN for more."""
    return float(tensor.flatten()[0]) if tensor.numel() == 1 else math.nan


def _check_shapes(up: Tensor, down: Tensor, mid: Tensor | None, where: str) -> None:
    """Require matrices, or convolutions of which only `down` has a kernel (with `mid`: only `mid`).

    Raises:
        LoraError: the shapes are others.
    """
    pointwise = [up] if mid is None else [up, down]
    ranks = {up.shape[1:2], down.shape[0:1]} | (set() if mid is None else {mid.shape[0:1], mid.shape[1:2]})
    fits = (
        all(tensor.dim() in {2, 4} for tensor in (up, down))
        and (mid is None or mid.dim() == 4)
        and all(set(tensor.shape[2:]) <= {1} for tensor in pointwise)
        and len(ranks) == 1
        and down.shape[0] > 0
    )
    if not fits:
        shapes = " and ".join(by(tensor.shape) for tensor in (up, down, mid) if tensor is not None)
        raise LoraError(f"{where}: factors of shape {shapes} do not make a layer; fetch the file again")


def without_1x1_kernel(shape: Sequence[int]) -> tuple[int, ...]:
    """Drop a 1x1 kernel: to a LoRA such a convolution is a linear layer, and programs store it as either."""
    return tuple(shape[:2]) if set(shape[2:]) <= {1} else tuple(shape)


def by(shape: Sequence[int]) -> str:
    """Return a shape for messages, such as 320x4x3x3."""
    return "x".join(map(str, shape))
