"""How much of a merge's change outlives the rounding to the file's dtype.

A weight changes only if the change exceeds half a step of its dtype: about 4 % of its value in float8_e4m3fn, 0.3 % in
bfloat16, 0.03 % in float16. A weaker LoRA, or a ratio near 0, leaves most weights as they were.

Notation: w, the nearest parent's value; d, the change that the merge computes in float32; q, rounding to the dtype;
a = q(w + d) - q(w), what arrives of the change. Over all elements,

    share     sum(d a) / sum(d^2)           how much of the change arrives: 1 if all of it
    fidelity  1 - sum((a - d)^2) / sum(d^2) below 1 also where it arrives on average only, in single large steps
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from optimizer.merging.engine.flat import Scratch, merge_one
from optimizer.merging.engine.ingredients import EXPORT_DTYPES, Ingredients
from optimizer.merging.engine.plan import PlacePlan, plan_places
from studies.recipe.recipe import DtypeName, Recipe

SAMPLED_TENSORS = 24  # evenly spread over those that the merge changes
SAMPLED_ELEMENTS = 1 << 18  # of each tensor, evenly spread
GOOD_FIDELITY = 0.9  # not worth a word


@dataclass(slots=True)
class Arrival:
    """What arrives of a change in one dtype, as sums over elements."""

    cross: float = 0.0  # of d a
    squared: float = 0.0  # of a^2

    def add(self, base: Tensor, change: Tensor, dtype: torch.dtype) -> None:
        """Add the elements of one tensor, without those that the dtype cannot hold.

        Args:
            base: float64 [n].
            change: float64 [n].
        """
        arrived = _rounded(base + change, dtype) - _rounded(base, dtype)
        arrived = arrived.nan_to_num(nan=0, posinf=0, neginf=0)
        self.cross += float((change * arrived).sum())
        self.squared += float(arrived.square().sum())

    def share(self, total: float) -> float:
        """Return the share of the change, whose sum of squares is `total`, that arrives."""
        return self.cross / total

    def fidelity(self, total: float) -> float:
        """Return how faithfully it arrives: at most 1."""
        return (2 * self.cross - self.squared) / total


@dataclass(frozen=True, kw_only=True)
class KeptChange:
    """What a file keeps of the change that a merge makes, measured on a sample."""

    total: float  # sum of d^2
    arrival: Arrival  # in the file's own dtypes
    by_dtype: Mapping[DtypeName, Arrival]  # what it would be in each dtype for weights
    dtypes: tuple[str, ...]  # of the sampled tensors in the file, for people
    sampled: int  # tensors
    changed: int  # tensors that the merge changes

    @property
    def better(self) -> DtypeName | None:
        """The first dtype that keeps the change, or else the best; None if the file's own are as good."""
        fidelity = {name: arrival.fidelity(self.total) for name, arrival in self.by_dtype.items()}
        best = max(fidelity, key=fidelity.__getitem__)
        if fidelity[best] <= self.arrival.fidelity(self.total):
            return None
        return next((name for name, value in fidelity.items() if value >= GOOD_FIDELITY), best)

    def note(self, advice: str) -> str | None:
        """Return a line for the user; None where the change arrives well.

        Args:
            advice: how to choose a dtype, with `{dtype}` for its name.
        """
        if self.arrival.fidelity(self.total) >= GOOD_FIDELITY:
            return None
        share, step = self.arrival.share(self.total), f"a step of {', '.join(self.dtypes)}"
        what = f"about {max(0.0, share):.0%} of what the merge changes arrives in the file: the rest is below {step}"
        if share > GOOD_FIDELITY:
            what = f"what the merge changes is below {step}, and arrives in the file on average only"
        line = f"{what} (sampled: {self.sampled} of {self.changed} changed tensors)"
        if self.better is None:
            return line
        kept = min(1.0, self.by_dtype[self.better].share(self.total))
        return f"{line}; {advice.format(dtype=self.better)} keeps {kept:.0%}"


@torch.inference_mode()
def kept_change(recipe: Recipe, ingredients: Ingredients, device: torch.device) -> KeptChange | None:
    """Measure what a file of the recipe's dtype keeps of a merge's change of its nearest parent.

    Returns:
        None where nothing changes: the merge is one of its parents.
    """
    ingredients, plans = ingredients.on(device), plan_places(recipe)
    planned = ((key, ingredients.plan(key, plans, baked=recipe.vae is not None)) for key in ingredients.tensors)
    changed = [(key, plan) for key, plan in planned if (plan.steps or plan.loras) and ingredients.is_float(key)]
    sample = changed[:: math.ceil(len(changed) / SAMPLED_TENSORS) or 1]
    scratch, total, arrival = Scratch.on(device), 0.0, Arrival()
    by_dtype: dict[DtypeName, Arrival] = {name: Arrival() for name in EXPORT_DTYPES}
    for key, plan in sample:
        base, change = _change(key, plan, ingredients, scratch)
        total += float(change.square().sum())
        arrival.add(base, change, ingredients.saved_dtype(key, recipe.dtype))
        for name, dtype in EXPORT_DTYPES.items():
            by_dtype[name].add(base, change, dtype)
    if total == 0:
        return None
    dtypes = {str(ingredients.saved_dtype(key, recipe.dtype)).removeprefix("torch.") for key, _ in sample}
    return KeptChange(
        total=total,
        arrival=arrival,
        by_dtype=by_dtype,
        dtypes=tuple(sorted(dtypes)),
        sampled=len(sample),
        changed=len(changed),
    )


def _change(key: str, plan: PlacePlan, ingredients: Ingredients, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Return (w, d) of sampled elements of a tensor: float64 [n] on the CPU, finite.

    w is the nearest of the parents that the merge reads.
    """
    sources = {name: ingredients.tensor(key, name) for name in plan.sources}
    merged = torch.empty(ingredients.tensors[key].shape, device=scratch.first.device)
    merge_one(plan, key, sources, merged, torch.float32, scratch, ingredients.deltas(key, plan))
    result = _sampled(merged)
    bases = [_sampled(source) for source in sources.values()]
    base = min(bases, key=lambda each: _squared(result - each))
    finite = base.isfinite() & result.isfinite()
    return base[finite], (result - base)[finite]


def _sampled(tensor: Tensor) -> Tensor:
    """Return float64 elements [n] on the CPU, evenly spread."""
    step = max(1, tensor.numel() // SAMPLED_ELEMENTS)
    return tensor.flatten()[::step].float().cpu().double()


def _squared(difference: Tensor) -> float:
    return float(difference.nan_to_num(nan=0, posinf=0, neginf=0).square().sum())


def _rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.float().to(dtype).double()
