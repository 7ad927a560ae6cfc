"""Plans carried out on tensors: in pieces of flat buffers where elements are independent, else tensor by tensor.

Arithmetic is float32 with a single rounding to the export dtype at the end, whatever the parents are stored in, and
everything here is shared by the merge in memory and the one to a file: that is what lets them agree to the bit. Where
the live model computes in a wider dtype (a float32 pipeline on a CPU), it holds the rounded values all the same: what
is rendered is exactly what an export would save.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from optimizer.merging.fused import WORTH_COMPILING, FusedAddDifference
from optimizer.merging.methods.elementwise import weights_clip
from optimizer.merging.methods.registry import FUNCTIONS, RANDOM_FUNCTIONS
from optimizer.merging.plan import PlacePlan, PlannedStep
from optimizer.merging.staging import Staging
from studies.recipe import Operation

# Elements merged at a time when a detour is needed (float32 arithmetic, or rounding on the way to a wider live
# dtype). On a CPU the detour should stay in the cache and still be long enough that calls cost nothing; on a GPU it
# only has to be long enough to fill the card.
CPU_CHUNK = 1 << 20
GPU_CHUNK = 1 << 24

# Where torch.lerp computes in float32 and rounds once; float8 has no arithmetic, float64 would not round alike.
FUSED = frozenset({torch.float16, torch.bfloat16, torch.float32})


@dataclass(slots=True)
class Scratch:
    """Work space, allocated once and used by every merge."""

    first: Tensor  # float32 [chunk]
    second: Tensor  # float32 [chunk]
    fused: FusedAddDifference | None = None
    staging: Staging | None = None  # made when sources first come from elsewhere

    @classmethod
    def on(cls, device: torch.device | str, elements: int = 0) -> Scratch:
        """Work space for a model of so many elements."""
        chunk = CPU_CHUNK if torch.device(device).type == "cpu" else GPU_CHUNK
        scratch = cls(torch.empty(chunk, device=device), torch.empty(chunk, device=device))
        if elements >= WORTH_COMPILING:
            scratch.fused = FusedAddDifference(_reference)
        return scratch

    @property
    def chunk(self) -> int:
        return self.first.numel()

    def staged(self) -> Staging:
        """What sources from elsewhere go through."""
        if self.staging is None:
            self.staging = Staging(self.first.device)
        return self.staging


# ------------------------------------------------------------------------------------- flat buffers


def merge_flat(
    plan: PlacePlan, sources: Mapping[str, Tensor], live: Tensor, export_dtype: torch.dtype, scratch: Scratch
) -> None:
    """Carry out an elementwise plan on 1-D tensors, in place.

    Args:
        sources: [n] each, any floating dtype; at least those the plan reads. On live's device, or in host memory.
        live: [n]; overwritten with values rounded to `export_dtype`.
        scratch: on live's device.
    """
    if not live.numel():  # markers have none
        return
    here = all(sources[name].device == live.device for name in plan.sources)
    if here and live.dtype == export_dtype and _is_fused(plan, sources, live):  # no float32 detour: nothing to cut
        _run(plan, sources, live, scratch)
        return
    if here and scratch.fused is not None and _in_place(plan) is _add_difference:
        step = plan.steps[0]
        if scratch.fused([sources[name] for name in step.operation.inputs], step.values, live, export_dtype):
            return
    _in_pieces(plan, sources, live, export_dtype, scratch, None if here else scratch.staged())


def _in_pieces(
    plan: PlacePlan,
    sources: Mapping[str, Tensor],
    live: Tensor,
    export_dtype: torch.dtype,
    scratch: Scratch,
    staging: Staging | None,
) -> None:
    """As `merge_flat`, a piece at a time; through `staging` where it is given."""
    direct = live.dtype == export_dtype
    chunk = min(scratch.chunk, live.numel())
    if staging is not None:
        chunk = min(chunk, staging.chunk([sources[name].dtype for name in plan.sources]))
    rounded = live if direct else torch.empty(chunk, dtype=export_dtype, device=live.device)
    for start in range(0, live.numel(), chunk):
        part = slice(start, min(start + chunk, live.numel()))
        out = live[part] if direct else rounded[: part.stop - start]
        views = {name: sources[name][part] for name in plan.sources}
        with nullcontext(views) if staging is None else staging.filled(views) as piece:
            _run(plan, piece, out, scratch)
        if not direct:
            live[part].copy_(out)


def _run(plan: PlacePlan, sources: Mapping[str, Tensor], out: Tensor, scratch: Scratch) -> None:
    """One piece. The two methods in daily use need no temporaries; `out` takes any dtype."""
    if not plan.steps:
        out.copy_(sources[plan.final])
    elif in_place := _in_place(plan):
        step = plan.steps[0]
        in_place([sources[name] for name in step.operation.inputs], step.values, out, scratch)
    else:
        out.copy_(_chain(plan, {name: sources[name].float() for name in plan.sources}, key=""))


def _is_fused(plan: PlacePlan, sources: Mapping[str, Tensor], live: Tensor) -> bool:
    """Whether one library call reads the sources and writes the live values."""
    alike = live.dtype in FUSED and all(sources[name].dtype == live.dtype for name in plan.sources)
    short = len(plan.steps) == 1 and len(plan.steps[0].operation.inputs) == 2
    return not plan.steps or (alike and short and _in_place(plan) is not None)


InPlace = Callable[[Sequence[Tensor], Sequence[float], Tensor, Scratch], None]


def _in_place(plan: PlacePlan) -> InPlace | None:
    if len(plan.steps) != 1 or plan.steps[0].operation.clip:
        return None
    return IN_PLACE.get(plan.steps[0].operation.method)


def _weighted_sum(inputs: Sequence[Tensor], ratios: Sequence[float], out: Tensor, scratch: Scratch) -> None:
    """As `elementwise.weighted_sum` but for the last bit. `torch.lerp` computes in float32 and rounds once."""
    if len(inputs) == 2 and out.dtype in FUSED and out.dtype == inputs[0].dtype == inputs[1].dtype:
        torch.lerp(inputs[0], inputs[1], ratios[0], out=out)
        return
    total, other = scratch.first[: out.numel()], scratch.second[: out.numel()]
    total.copy_(inputs[0])
    for parent, ratio in zip(inputs[1:], ratios, strict=True):
        total.lerp_(other.copy_(parent), ratio)
    out.copy_(total)


def _add_difference(inputs: Sequence[Tensor], ratios: Sequence[float], out: Tensor, scratch: Scratch) -> None:
    """As `elementwise.add_difference`."""
    total, other = scratch.first[: out.numel()], scratch.second[: out.numel()]
    # Multiply and add are separate on purpose: a fused one may round otherwise in a vector's tail.
    total.copy_(inputs[1]).sub_(other.copy_(inputs[2])).mul_(ratios[0]).add_(other.copy_(inputs[0]))
    out.copy_(total)


def _reference(inputs: Sequence[Tensor], ratios: Sequence[float], live: Tensor, export_dtype: torch.dtype) -> None:
    """What the compiled loop must agree with."""
    rounded = torch.empty_like(live, dtype=export_dtype)
    _add_difference(inputs, ratios, rounded, Scratch.on(live.device))
    live.copy_(rounded)


IN_PLACE: Mapping[str, InPlace] = {"weighted_sum": _weighted_sum, "add_difference": _add_difference}


# ---------------------------------------------------------------------------------- single tensors


def merge_one(
    plan: PlacePlan,
    key: str,
    sources: Mapping[str, Tensor],
    live: Tensor,
    export_dtype: torch.dtype,
    scratch: Scratch,
    deltas: Sequence[tuple[float, Tensor]] = (),
) -> None:
    """Carry out any plan on one tensor, in place, by the way through the arithmetic that suits it.

    Args: as `merge_tensor` has them, but that sources may be in host memory.
    """
    if not live.numel():
        return
    if plan.elementwise and not deltas:
        flat = {name: tensor.flatten() for name, tensor in sources.items()}
        merge_flat(plan, flat, live.view(-1), export_dtype, scratch)
    else:
        here = {name: sources[name].to(live.device, non_blocking=True) for name in plan.sources}
        merge_tensor(plan, key, here, live, export_dtype, deltas)


def merge_tensor(
    plan: PlacePlan,
    key: str,
    sources: Mapping[str, Tensor],
    live: Tensor,
    export_dtype: torch.dtype,
    deltas: Sequence[tuple[float, Tensor]] = (),
) -> None:
    """Carry out any plan on one tensor in its file's shape, in place.

    Args:
        key: its name, which with a step's seed decides what random methods drop.
        sources: of live's shape and device, any floating dtype; at least those the plan reads.
        live: overwritten with values rounded to `export_dtype`.
        deltas: (weight, float32 difference) of each LoRA that touches it.
    """
    # Fresh copies, aligned alike in both executors: kernels that reduce may add in another order otherwise.
    made = _chain(plan, {name: _fresh(sources[name]) for name in plan.sources}, key)
    for weight, delta in deltas:
        made = made + weight * delta
    live.copy_(made if live.dtype == export_dtype else made.to(export_dtype))


def _fresh(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=torch.float32, device=tensor.device).copy_(tensor)


def _chain(plan: PlacePlan, known: dict[str, Tensor], key: str) -> Tensor:
    """The result of a plan's steps; float32 throughout."""
    for step in plan.steps:
        inputs = [known[name] for name in step.operation.inputs]
        result = _step(step, inputs, f"{key}#{step.result}")
        known[step.result] = weights_clip(result, inputs[0], inputs[1]) if step.operation.clip else result
    return known[plan.final]


def _step(step: PlannedStep, inputs: Sequence[Tensor], key: str) -> Tensor:
    operation = step.operation
    if operation.info.random:
        return RANDOM_FUNCTIONS[operation.method](inputs, step.values, _draws(operation, inputs, key))
    return FUNCTIONS[operation.method](inputs, step.values)


def _draws(operation: Operation, inputs: Sequence[Tensor], key: str) -> list[Tensor]:
    """Uniform numbers in [0, 1) for each input but the first, always the same for one seed, step and tensor.

    They are drawn on the CPU, so that a device does not decide what is dropped.
    """
    drawn = []
    for index in range(1, len(inputs)):
        digest = hashlib.sha256(f"{operation.seed}/{key}/{index}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        drawn.append(torch.rand(inputs[0].shape, generator=generator).to(inputs[0].device))
    return drawn
