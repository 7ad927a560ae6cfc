"""The merge in memory: parents packed once, the live model's parameters views into one live buffer.

Every parent's tensors are packed into flat buffers, one per place and dtype ("slab"). A merge is one pass over
each slab whose ratios changed, in place: no file, no reload, no allocation that grows with the trials, and whatever
holds the live parameters (a pipeline, a compiled graph) stays valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optimizer.merging.checkpoint import Checkpoint, is_mergeable
from optimizer.merging.layout import Component, live_views
from optimizer.merging.methods import Scratch, merge_flat
from search_spaces.blocks import EMA, place_of
from studies.errors import RecipeError
from studies.recipe import DtypeName, Recipe

EXPORT_DTYPES: Mapping[DtypeName, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}

# Tensors start on 64-element boundaries (at least 64 bytes): vector kernels see the same alignment whatever
# stands before them, so equal models compute equal images.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the tensors of one slab have in common."""

    place: str
    parent_dtypes: tuple[torch.dtype, ...]
    export_dtype: torch.dtype
    live_dtype: torch.dtype
    mergeable: bool


class _Slab:
    """The flat buffers of one kind: each parent's values and the live ones."""

    def __init__(self, kind: _Kind, parents: Sequence[Tensor], live: Tensor) -> None:
        self.kind, self.parents, self.live = kind, parents, live
        self.merged: tuple[str, tuple[float, ...]] | None = None  # what the live values are

    def merge(self, method: str, ratios: tuple[float, ...], scratch: Scratch) -> bool:
        """Make `ratios` live; False when they were already."""
        if self.merged == (method, ratios):
            return False
        self.merged = None  # an interrupted merge leaves nothing that could be taken for done
        merge_flat(method, self.parents, ratios, self.live, self.kind.export_dtype, scratch)
        self.merged = (method, ratios)
        return True


class ResidentModel:
    """Parents in memory and one live model that any recipe over them can become; it begins as parent A.

    Args:
        parents: opened checkpoints of one architecture and one set of shapes, A first.
        device: where parents and live model stay.
        live_dtypes: what each component computes in; float32 for all on a CPU.
        export_dtype: what an export would save; None keeps A's dtype of each tensor.
    """

    def __init__(
        self,
        parents: Sequence[Checkpoint],
        *,
        device: torch.device | str,
        live_dtypes: Mapping[Component, torch.dtype],
        export_dtype: DtypeName | None = None,
    ) -> None:
        self.architecture = parents[0].architecture
        self.device = torch.device(device)
        self._export_dtype = export_dtype
        self._scratch = Scratch.on(self.device)
        self._live: dict[str, Tensor] = {}  # file key -> live tensor in the file's shape
        self._slabs = [
            self._pack(kind, keys, parents) for kind, keys in self._group(parents, live_dtypes, export_dtype).items()
        ]

    def _group(
        self,
        parents: Sequence[Checkpoint],
        live_dtypes: Mapping[Component, torch.dtype],
        export: DtypeName | None,
    ) -> dict[_Kind, list[str]]:
        groups: dict[_Kind, list[str]] = {}
        for key, info in parents[0].tensors.items():
            place = place_of(key, self.architecture)
            if place == EMA:
                continue
            shared = is_mergeable(key, info, self.architecture) and all(key in parent.tensors for parent in parents)
            dtypes = tuple(parent.tensors[key].dtype for parent in parents) if shared else (info.dtype,)
            saved = EXPORT_DTYPES[export] if export and is_mergeable(key, info, self.architecture) else info.dtype
            views = live_views(key, self.architecture, len(info.shape))
            live = live_dtypes[views[0].component] if views else saved
            groups.setdefault(_Kind(place, dtypes, saved, live, shared), []).append(key)
        return groups

    def _pack(self, kind: _Kind, keys: Sequence[str], parents: Sequence[Checkpoint]) -> _Slab:
        infos = [parents[0].tensors[key] for key in keys]
        starts, end = [], 0
        for info in infos:
            starts.append(end)
            end += -(-info.size // ALIGNMENT) * ALIGNMENT
        packed = []
        for parent, dtype in zip(parents, kind.parent_dtypes, strict=False):
            flat = torch.zeros(end, dtype=dtype, device=self.device)
            for key, info, start in zip(keys, infos, starts, strict=True):
                flat[start : start + info.size].copy_(parent.tensor(key).flatten())
            packed.append(flat)
        live = torch.zeros(end, dtype=kind.live_dtype, device=self.device)
        for key, info, start in zip(keys, infos, starts, strict=True):
            self._live[key] = live[start : start + info.size].view(info.shape)
        live.copy_(packed[0].to(kind.export_dtype))  # the model begins as parent A
        return _Slab(kind, packed, live)

    def merge(self, recipe: Recipe) -> frozenset[str]:
        """Make a recipe live, in place; returns the places whose values changed.

        Raises:
            RecipeError: the recipe asks for another dtype than this model rounds to.
        """
        if recipe.dtype != self._export_dtype:
            raise RecipeError(f"the recipe is for dtype {recipe.dtype}, this model rounds to {self._export_dtype}")
        ratios = recipe.by_place
        return frozenset(
            slab.kind.place
            for slab in self._slabs
            if slab.kind.mergeable and slab.merge(recipe.method, ratios[slab.kind.place], self._scratch)
        )

    def copy_first(self) -> None:
        """Make parent A live by a plain copy, not rounded: what a merge's seconds are measured against."""
        for slab in self._slabs:
            slab.live.copy_(slab.parents[0])
            slab.merged = None

    def live_tensors(self) -> Mapping[str, Tensor]:
        """File key -> live tensor in the file's shape; views that every merge changes."""
        return self._live

    def parameters(self, component: Component) -> Iterator[tuple[str, Tensor]]:
        """(name in the live model, view) for every parameter of one component."""
        for key, tensor in self._live.items():
            for view in live_views(key, self.architecture, tensor.dim()):
                if view.component == component:
                    yield view.name, view.of(tensor)

    def nbytes(self) -> int:
        """Bytes held for parents and live model together."""
        return sum(flat.nbytes for slab in self._slabs for flat in (*slab.parents, slab.live))
