"""Carry out plans on tensors: on chunks of flat buffers where elements are independent, else tensor by tensor.

Arithmetic is in float32 with one rounding to the export dtype at the end, whatever dtype the parents are stored in.
The resident merge and the export share everything here, so they agree bit for bit. Where the live model computes in a
wider dtype (a float32 pipeline on a CPU), it holds the rounded values all the same: what is rendered is exactly what
an export would save.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from optimizer.merging.engine.fused import WORTH_COMPILING, FusedAddDifference
from optimizer.merging.engine.philox import uniform
from optimizer.merging.engine.plan import PlacePlan, PlannedStep
from optimizer.merging.engine.staging import Staging
from optimizer.merging.methods.elementwise import weights_clip
from optimizer.merging.methods.registry import FUNCTIONS, RANDOM_FUNCTIONS
from studies.recipe.recipe import Operation

# Elements merged at a time when a temporary buffer is needed (for float32 arithmetic, or for rounding on the way to a
# wider live dtype). On a CPU the chunk should fit the cache, and be large enough that the cost of a call is negligible.
# On a GPU it only has to be large enough to occupy the whole GPU.
CPU_CHUNK = 1 << 20
GPU_CHUNK = 1 << 24

# Dtypes for which torch.lerp computes in float32 and rounds once. float8 has no arithmetic; float64 would round
# differently.
FUSED = frozenset({torch.float16, torch.bfloat16, torch.float32})


@dataclass(slots=True)
class Scratch:
    """Temporary buffers, allocated once and used by every merge."""

    first: Tensor  # float32 [chunk]
    second: Tensor  # float32 [chunk]
    fused: FusedAddDifference | None = None
    staging: Staging | None = None  # allocated when sources first come from another device

    @classmethod
    def on(cls, device: torch.device | str, elements: int = 0) -> Scratch:
        """Allocate buffers for merges on a device.

        Args:
            elements: of the model; large models get the compiled loop (see fused.py).
        """
        chunk = CPU_CHUNK if torch.device(device).type == "cpu" else GPU_CHUNK
        scratch = cls(torch.empty(chunk, device=device), torch.empty(chunk, device=device))
        if elements >= WORTH_COMPILING:
            scratch.fused = FusedAddDifference(_reference)
        return scratch

    @property
    def chunk(self) -> int:
        return self.first.numel()

    def ensure_staging(self) -> Staging:
        """Return the buffers through which sources reach the device, allocated on the first call."""
        if self.staging is None:
            self.staging = Staging(self.first.device)
        return self.staging


# ------------------------------------------------------------------------------------- flat buffers


def merge_flat(
    plan: PlacePlan, sources: Mapping[str, Tensor], live: Tensor, export_dtype: torch.dtype, scratch: Scratch
) -> None:
    """Carry out an elementwise plan on 1-D tensors, in place.

    Args:
        sources: [n] each, any floating dtype; at least those the plan reads. On the device of `live`, or in host
            memory.
        live: [n]; overwritten with values rounded to `export_dtype`.
        scratch: on the device of `live`.
    """
    if not live.numel():  # markers are empty
        return
    on_device = all(sources[name].device == live.device for name in plan.sources)
    if on_device and live.dtype == export_dtype and _is_fused(plan, sources, live):  # needs no temporary buffer
        _run(plan, sources, live, scratch)
        return
    if on_device and scratch.fused is not None and _in_place(plan) is _add_difference:
        step = plan.steps[0]
        if scratch.fused([sources[name] for name in step.operation.inputs], step.values, live, export_dtype):
            return
    _merge_chunks(plan, sources, live, export_dtype, scratch, None if on_device else scratch.ensure_staging())


def _merge_chunks(
    plan: PlacePlan,
    sources: Mapping[str, Tensor],
    live: Tensor,
    export_dtype: torch.dtype,
    scratch: Scratch,
    staging: Staging | None,
) -> None:
    """Do what `merge_flat` does, chunk by chunk; sources go through `staging` where it is given."""
    direct = live.dtype == export_dtype
    chunk = min(scratch.chunk, live.numel())
    if staging is not None:
        chunk = min(chunk, staging.chunk([sources[name].dtype for name in plan.sources]))
    rounded = live if direct else torch.empty(chunk, dtype=export_dtype, device=live.device)
    for start in range(0, live.numel(), chunk):
        part = slice(start, min(start + chunk, live.numel()))
        out = live[part] if direct else rounded[: part.stop - start]
        views = {name: sources[name][part] for name in plan.sources}
        with nullcontext(views) if staging is None else staging.filled(views) as on_device:
            _run(plan, on_device, out, scratch)
        if not direct:
            live[part].copy_(out)


def _run(plan: PlacePlan, sources: Mapping[str, Tensor], out: Tensor, scratch: Scratch) -> None:
    """Merge one chunk into `out` [n], any dtype. The two most common methods allocate no temporary tensors."""
    if not plan.steps:
        out.copy_(sources[plan.final])
    elif in_place := _in_place(plan):
        step = plan.steps[0]
        in_place([sources[name] for name in step.operation.inputs], step.values, out, scratch)
    else:
        out.copy_(_run_steps(plan, {name: sources[name].float() for name in plan.sources}, key=""))


def _is_fused(plan: PlacePlan, sources: Mapping[str, Tensor], live: Tensor) -> bool:
    """Return whether one library call reads the sources and writes the live values."""
    same_dtype = live.dtype in FUSED and all(sources[name].dtype == live.dtype for name in plan.sources)
    two_inputs = len(plan.steps) == 1 and len(plan.steps[0].operation.inputs) == 2
    return not plan.steps or (same_dtype and two_inputs and _in_place(plan) is not None)


InPlace = Callable[[Sequence[Tensor], Sequence[float], Tensor, Scratch], None]


def _in_place(plan: PlacePlan) -> InPlace | None:
    """Return the function that carries out the whole plan without temporary tensors, if there is one."""
    if len(plan.steps) != 1 or plan.steps[0].operation.clip:
        return None
    return IN_PLACE.get(plan.steps[0].operation.method)


def _weighted_sum(inputs: Sequence[Tensor], ratios: Sequence[float], out: Tensor, scratch: Scratch) -> None:
    """Compute `elementwise.weighted_sum`; the last bit may differ. `torch.lerp` computes in float32, rounds once."""
    if len(inputs) == 2 and out.dtype in FUSED and out.dtype == inputs[0].dtype == inputs[1].dtype:
        torch.lerp(inputs[0], inputs[1], ratios[0], out=out)
        return
    total, other = scratch.first[: out.numel()], scratch.second[: out.numel()]
    total.copy_(inputs[0])
    for parent, ratio in zip(inputs[1:], ratios, strict=True):
        total.lerp_(other.copy_(parent), ratio)
    out.copy_(total)


def _add_difference(inputs: Sequence[Tensor], ratios: Sequence[float], out: Tensor, scratch: Scratch) -> None:
    """Compute `elementwise.add_difference`."""
    total, other = scratch.first[: out.numel()], scratch.second[: out.numel()]
    # Multiply and add are separate on purpose: a fused multiply-add may round differently in a vector's tail.
    total.copy_(inputs[1]).sub_(other.copy_(inputs[2])).mul_(ratios[0]).add_(other.copy_(inputs[0]))
    out.copy_(total)


def _reference(inputs: Sequence[Tensor], ratios: Sequence[float], live: Tensor, export_dtype: torch.dtype) -> None:
    """Compute add difference with library calls; the compiled loop must give the same bits."""
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
    """Carry out any plan on one tensor, in place: with `merge_flat` where that suffices, else with `merge_tensor`.

    The arguments are those of `merge_tensor`, except that sources may be in host memory.
    """
    if not live.numel():
        return
    if plan.elementwise and not deltas:
        flat = {name: tensor.flatten() for name, tensor in sources.items()}
        merge_flat(plan, flat, live.view(-1), export_dtype, scratch)
    else:
        on_device = {name: sources[name].to(live.device, non_blocking=True) for name in plan.sources}
        merge_tensor(plan, key, on_device, live, export_dtype, deltas)


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
        key: the tensor's key; with a step's seed it decides what random methods drop.
        sources: of the shape and device of `live`, any floating dtype; at least those the plan reads.
        live: overwritten with values rounded to `export_dtype`.
        deltas: (weight, float32 difference of the same shape) of each LoRA that changes the tensor.
    """
    # Fresh copies have the same alignment in both executors. Otherwise reduction kernels may add in another order.
    result = _run_steps(plan, {name: _float32_copy(sources[name]) for name in plan.sources}, key)
    for weight, delta in deltas:
        result = result + weight * delta
    live.copy_(result if live.dtype == export_dtype else result.to(export_dtype))


def _float32_copy(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=torch.float32, device=tensor.device).copy_(tensor)


def _run_steps(plan: PlacePlan, tensors: dict[str, Tensor], key: str) -> Tensor:
    """Carry out all steps in float32, and return the plan's result.

    Args:
        tensors: the sources by name; every step's result is added.
    """
    for step in plan.steps:
        inputs = [tensors[name] for name in step.operation.inputs]
        result = _run_step(step, inputs, f"{key}#{step.result}")
        tensors[step.result] = weights_clip(result, inputs[0], inputs[1]) if step.operation.clip else result
    return tensors[plan.final]


def _run_step(step: PlannedStep, inputs: Sequence[Tensor], key: str) -> Tensor:
    operation = step.operation
    if operation.info.random:
        return RANDOM_FUNCTIONS[operation.method](inputs, step.values, _draws(operation, inputs, key))
    return FUNCTIONS[operation.method](inputs, step.values)


def _draws(operation: Operation, inputs: Sequence[Tensor], key: str) -> list[Tensor]:
    """Draw uniform numbers in [0, 1), float32 of the inputs' shape and on their device, for each input but the first.

    They follow from seed, step, tensor and input alone, so every device drops the same elements.
    """
    shape, device = inputs[0].shape, inputs[0].device
    draws = []
    for index in range(1, len(inputs)):
        digest = hashlib.sha256(f"{operation.seed}/{key}/{index}".encode()).digest()
        words = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
        draws.append(uniform(words, shape.numel(), device).view(shape))
    return draws
