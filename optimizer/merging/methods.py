"""The arithmetic of merging: pure functions on flat tensors.

Notation: parents A, B, C ...; r = a ratio, 0 keeps A. Inputs are 1-D tensors of any floating dtype, one per
parent, equally long; the result goes to `out`, 1-D, of the export dtype. Arithmetic is float32 with a single
rounding at the end, so the same elements give the same bits however they are cut into pieces: that is what
lets the in-memory merge and the exported file agree exactly.

NaN and infinity in a parent pass through wherever that parent has a share: a ratio of 0 leaves a parent out,
and a ratio of 1 leaves out whatever was folded before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from studies.recipe import METHODS

# Elements merged at a time when a detour is needed (float32 arithmetic, or rounding on the way to a wider live
# dtype). On a CPU the detour should stay in the last-level cache and still be long enough that calls cost nothing;
# on a GPU it only has to be long enough to fill the card.
CPU_CHUNK = 1 << 20
GPU_CHUNK = 1 << 24

# Where torch.lerp computes in float32 and rounds once; float8 has no arithmetic, float64 would not round alike.
FUSED = frozenset({torch.float16, torch.bfloat16, torch.float32})


@dataclass(slots=True)
class Scratch:
    """Float32 and export-dtype work space, allocated once and used by every merge."""

    first: Tensor  # float32 [chunk]
    second: Tensor  # float32 [chunk]

    @classmethod
    def on(cls, device: torch.device | str) -> Scratch:
        chunk = CPU_CHUNK if torch.device(device).type == "cpu" else GPU_CHUNK
        return cls(torch.empty(chunk, device=device), torch.empty(chunk, device=device))

    @property
    def chunk(self) -> int:
        return self.first.numel()


def weighted_sum(parents: Sequence[Tensor], ratios: Sequence[float], out: Tensor, scratch: Scratch) -> None:
    """(1-r)A + rB for two parents; each further parent is folded into the result so far with its own ratio.

    Source: A1111 "weighted sum", supermerger "sum twice" for three parents. `torch.lerp` computes half
    precision in float32 and rounds once.
    """
    first, active = _shares(parents, ratios)
    if not active:
        out.copy_(first)
    elif len(active) == 1 and out.dtype in FUSED and out.dtype == first.dtype == active[0][0].dtype:
        torch.lerp(first, active[0][0], active[0][1], out=out)
    else:
        total, other = scratch.first[: out.numel()], scratch.second[: out.numel()]
        total.copy_(first)
        for parent, ratio in active:
            total.lerp_(other.copy_(parent), ratio)
        out.copy_(total)


def _shares(parents: Sequence[Tensor], ratios: Sequence[float]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
    """What a weighted sum begins with, and what is folded into it.

    A ratio of 1 is a copy, not arithmetic: lerp would turn -0 into 0, and let a NaN before it through.
    """
    first, active = parents[0], list[tuple[Tensor, float]]()
    for parent, ratio in zip(parents[1:], ratios, strict=True):
        if ratio == 1:
            first, active = parent, []
        elif ratio != 0:
            active.append((parent, ratio))
    return first, active


def add_difference(parents: Sequence[Tensor], ratios: Sequence[float], out: Tensor, scratch: Scratch) -> None:
    """A + r(B - C): what B learned over its base C, added to A. Source: A1111 "add difference"."""
    (ratio,) = ratios
    if ratio == 0:
        out.copy_(parents[0])
        return
    total, other = scratch.first[: out.numel()], scratch.second[: out.numel()]
    # Multiply and add are separate on purpose: a fused one may round otherwise in a vector's tail.
    total.copy_(parents[1]).sub_(other.copy_(parents[2])).mul_(ratio).add_(other.copy_(parents[0]))
    out.copy_(total)


Method = Callable[[Sequence[Tensor], Sequence[float], Tensor, Scratch], None]

FUNCTIONS: Mapping[str, Method] = {"weighted_sum": weighted_sum, "add_difference": add_difference}


def merge_flat(
    method: str,
    parents: Sequence[Tensor],
    ratios: Sequence[float],
    live: Tensor,
    export_dtype: torch.dtype,
    scratch: Scratch,
) -> None:
    """Merge 1-D tensors into `live`, in place, rounding each value to `export_dtype` on the way.

    Where `live` has another dtype (a float32 pipeline on a CPU), it holds the rounded values all the same:
    what is rendered is exactly what an export would save.

    Args:
        parents: [n] each, any floating dtype, on live's device.
        ratios: one per slot of the method.
        live: [n]; overwritten.
    """
    function = FUNCTIONS[method]
    direct = live.dtype == export_dtype
    fused = direct and live.dtype in FUSED and all(parent.dtype == live.dtype for parent in parents)
    if fused and len(parents) == 2:  # no float32 detour, so nothing to cut
        function(parents, ratios, live, scratch)
        return
    rounded = live if direct else torch.empty(min(scratch.chunk, live.numel()), dtype=export_dtype, device=live.device)
    for start in range(0, live.numel(), scratch.chunk):
        part = slice(start, min(start + scratch.chunk, live.numel()))
        out = live[part] if direct else rounded[: part.stop - part.start]
        function([parent[part] for parent in parents], ratios, out, scratch)
        if not direct:
            live[part].copy_(out)


assert FUNCTIONS.keys() == METHODS.keys()  # noqa: S101 - a method is described and computed, or it is neither
