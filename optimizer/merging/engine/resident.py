"""The merge in memory: sources are packed once, and the live model's parameters are views of live buffers.

Every source's tensors are packed into flat buffers, one per place and dtype (a "slab"). A merge is one pass over each
slab whose plan changed, in place: no file, no reload, no allocation that grows with the trials, and whatever holds the
live parameters (a pipeline, a compiled graph) stays valid. Sources that do not fit beside the live model stay in host
memory or in their files, and are streamed: see placement.py, host_buffers.py and staging.py.

LoRAs may lie on top of a merge while it is rendered: see on_top.py. They are no part of the recipe.

Where not even the live model fits, its components take turns: a component is merged when it is needed, and frees its
memory when the next one is needed. In a trial of one stage that costs no more than merging everything at once, because
each component is merged once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from optimizer.errors import NoMemoryError
from optimizer.merging.engine.flat import Scratch, merge_flat, merge_one
from optimizer.merging.engine.host_buffers import HostBuffers
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.on_top import LorasOnTop
from optimizer.merging.engine.placement import Placement, choose_placement
from optimizer.merging.engine.plan import PlacePlan, WeightedLoras, plan_places
from optimizer.merging.files.layout import Component, live_views
from optimizer.merging.files.sources import TensorInfo
from optimizer.merging.lora.file import Lora
from studies.errors import RecipeError
from studies.recipe.recipe import DtypeName, Recipe

_log = logging.getLogger(__name__)

# Tensors start at multiples of 64 elements (at least 64 bytes), so that vector kernels see the same alignment whatever
# precedes a tensor, and equal models compute equal images.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class _SlabKind:
    """The properties that all tensors of a slab share."""

    place: str
    component: Component | None  # None: in the file, but not in the live model
    sources: tuple[tuple[str, torch.dtype], ...]
    export_dtype: torch.dtype
    live_dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Member:
    """A tensor of a slab."""

    key: str
    start: int  # elements before it
    info: TensorInfo

    def of(self, flat: Tensor) -> Tensor:
        """Return the view of a flat buffer that holds this tensor, in its shape."""
        return flat[self.start : self.start + self.info.size].view(self.info.shape)


@dataclass(frozen=True, slots=True)
class _SlabLayout:
    """The positions of a slab's tensors in its flat buffers."""

    kind: _SlabKind
    members: tuple[_Member, ...]
    size: int  # elements, padding included
    lora_indices: frozenset[int]  # of the LoRAs that change any member

    @classmethod
    def of(cls, kind: _SlabKind, keys: Sequence[str], ingredients: Ingredients) -> _SlabLayout:
        members, end = [], 0
        for key in keys:
            info = ingredients.tensors[key]
            members.append(_Member(key, end, info))
            end += -(-info.size // ALIGNMENT) * ALIGNMENT
        lora_indices = frozenset(index for key in keys for index, _ in ingredients.loras_on(key))
        return cls(kind, tuple(members), end, lora_indices)


class _Slab:
    """Flat buffers of one kind of tensors: the values of each source, unless they stay in files, and the live values.

    Args:
        buffers: source -> zeros, [size] of its dtype, which are filled here; empty when sources stay in their files.
    """

    def __init__(
        self,
        layout: _SlabLayout,
        buffers: Mapping[str, Tensor],
        ingredients: Ingredients,
        on_top: LorasOnTop,
        device: torch.device,
    ) -> None:
        self.kind, self.members, self.lora_indices = layout.kind, layout.members, layout.lora_indices
        self.buffers, self._ingredients, self._on_top = buffers, ingredients, on_top
        self.live = torch.zeros(layout.size, dtype=layout.kind.live_dtype, device=device)
        self.live_plan: PlacePlan | None = None  # of the live values, or of those that were released
        self._requested_plan = PlacePlan((), "A")
        self.top_indices = on_top.on_any(member.key for member in layout.members)
        self._live_top: WeightedLoras = ()  # on top of the live values
        self._requested_top: WeightedLoras = ()
        self._live_bytes = self.live.nbytes
        for name, flat in buffers.items():
            for member in self.members:
                member.of(flat).copy_(ingredients.tensor(member.key, name))

    @property
    def is_allocated(self) -> bool:
        """Whether the live values have memory."""
        return self.live.untyped_storage().nbytes() == self._live_bytes

    def release(self) -> None:
        """Free the memory of the live values; views of them stay in place, and must not be read."""
        self.live.untyped_storage().resize_(0)

    def restore(self, scratch: Scratch) -> None:
        """Allocate the live values if they were released, and compute what was requested last."""
        if not self.is_allocated:
            self.live_plan = None  # before there is memory, whose contents are arbitrary
            self.live.untyped_storage().resize_(self._live_bytes)
        self._update(scratch)

    def merge(self, plan: PlacePlan, scratch: Scratch) -> bool:
        """Make a plan live, without LoRAs on top; where the slab is released, when it is restored.

        Returns:
            False when the plan is live already, or was when the slab was released.
        """
        self._requested_plan, self._requested_top = plan, ()
        changes = self.live_plan != plan
        if self.is_allocated:
            self._update(scratch)
        return changes

    def lay_on_top(self, loras: WeightedLoras, scratch: Scratch) -> bool:
        """Make the live values those of the plan with LoRAs on top; where the slab is released, when it is restored.

        Returns:
            Whether values were computed.
        """
        self._requested_top = tuple((index, weight) for index, weight in loras if index in self.top_indices)
        return self.is_allocated and self._update(scratch)

    def _update(self, scratch: Scratch) -> bool:
        """Make live what was requested last, and return whether that computed anything."""
        changes = self.live_plan != self._requested_plan
        if changes:
            self._carry_out(self._requested_plan, scratch)
        if self._live_top == self._requested_top:
            return changes
        self._change_top(self._requested_plan, self._requested_top, scratch)
        return True

    def _change_top(self, plan: PlacePlan, loras: WeightedLoras, scratch: Scratch) -> None:
        """Compute the tensors anew that LoRAs on top change, or changed before: see on_top.py."""
        self.live_plan = None  # as in `_carry_out`
        before, after = ({index for index, _ in each} for each in (self._live_top, loras))
        is_exact = self.kind.live_dtype in {self.kind.export_dtype, torch.float32}  # whether it holds what a file has
        for member in self.members:
            indices = self._on_top.on_any([member.key])
            if indices.isdisjoint(before | after):
                continue
            live = member.of(self.live)
            merged = torch.empty_like(live, dtype=self.kind.export_dtype)  # as a file has it
            if is_exact and indices.isdisjoint(before):
                merged.copy_(live)
            else:
                self._merge_member(member, plan, scratch, into=merged)
            self._on_top.add(member.key, loras, merged, live)
        self.live_plan, self._live_top = plan, loras

    def _carry_out(self, plan: PlacePlan, scratch: Scratch) -> None:
        self.live_plan = None  # so an interrupted merge is never taken for a finished one
        self._live_top = ()
        in_one_pass = plan.elementwise and bool(self.buffers)
        if in_one_pass:
            merge_flat(plan, self.buffers, self.live, self.kind.export_dtype, scratch)
        if not in_one_pass or plan.loras:
            for member in self.members:
                if not in_one_pass or self._ingredients.loras_on(member.key):
                    self._merge_member(member, plan, scratch, into=member.of(self.live))
        self.live_plan = plan

    def _merge_member(self, member: _Member, plan: PlacePlan, scratch: Scratch, *, into: Tensor) -> None:
        """Merge one tensor."""
        deltas = self._ingredients.deltas(member.key, plan)
        sources = {name: self._source(member, name) for name in plan.sources}
        merge_one(plan, member.key, sources, into, self.kind.export_dtype, scratch, deltas)

    def _source(self, member: _Member, name: str) -> Tensor:
        return member.of(self.buffers[name]) if self.buffers else self._ingredients.tensor(member.key, name)


class ResidentModel:
    """A live model into which any recipe over its sources can be merged; it starts as parent A.

    Args:
        device: of the live model.
        live_dtypes: dtype in which each component computes; float32 for all on a CPU.
        export_dtype: dtype in which an export would save weights; None keeps A's dtype of each tensor.
        placement: where the sources are kept; None chooses by the memory that is free.
        working: bytes that rendering takes; 0 if unknown.
        in_turns: whether a component has memory only while it is in `use`.
        on_top: LoRAs that may lie on top of merges, see `lay_on_top`.

    Raises:
        LoraError: one of `on_top` does not fit.
    """

    def __init__(
        self,
        ingredients: Ingredients,
        *,
        device: torch.device | str,
        live_dtypes: Mapping[Component, torch.dtype],
        export_dtype: DtypeName | None = None,
        placement: Placement | None = None,
        working: int = 0,
        in_turns: bool = False,
        on_top: Sequence[Lora] = (),
    ) -> None:
        self.device = torch.device(device)
        self.ingredients = ingredients.on(self.device)
        self.architecture = ingredients.parents.architecture
        self._export_dtype = export_dtype
        self._scratch = Scratch.on(self.device, sum(info.size for info in ingredients.tensors.values()))
        layouts = [_SlabLayout.of(kind, keys, self.ingredients) for kind, keys in self._group(live_dtypes).items()]
        self.in_turns = in_turns
        self.placement = placement or choose_placement(self.device, *_sizes(layouts, in_turns=in_turns), working)
        self._host: HostBuffers | None = None
        top = LorasOnTop.of([lora.to(self.device) for lora in on_top], self.ingredients)
        self._slabs: list[_Slab] = []
        self._live: dict[str, Tensor] = {}
        for layout, buffers in zip(layouts, self._allocate(layouts), strict=True):
            slab = _Slab(layout, buffers, self.ingredients, top, self.device)
            self._slabs.append(slab)
            self._live |= {member.key: member.of(slab.live) for member in slab.members}
            if in_turns and layout.kind.component is not None:
                slab.release()
        self._merge({}, baked=False)

    def _group(self, live_dtypes: Mapping[Component, torch.dtype]) -> dict[_SlabKind, list[str]]:
        """Return the keys of each slab, by kind, in the file's order."""
        groups: dict[_SlabKind, list[str]] = {}
        for key, info in self.ingredients.tensors.items():
            saved = self.ingredients.saved_dtype(key, self._export_dtype)
            views = live_views(key, self.architecture, len(info.shape))
            component = views[0].component if views else None
            live = saved if component is None else live_dtypes[component]
            sources = tuple((name, source.dtype) for name, source in self.ingredients.sources(key).items())
            groups.setdefault(_SlabKind(self.ingredients.place(key), component, sources, saved, live), []).append(key)
        return groups

    def _allocate(self, layouts: Sequence[_SlabLayout]) -> list[dict[str, Tensor]]:
        """Allocate zeros for each slab's sources, or nothing where they stay in files; they do if host memory lacks."""
        if self.placement is Placement.HOST:
            try:
                self._host, buffers = _allocate_on_host(layouts, self.device)
                return buffers
            except NoMemoryError as error:
                self.placement = Placement.FILES
                _log.warning("%s: the parents stay %s", error, self.placement.value)
        if self.placement is Placement.FILES:
            return [{} for _ in layouts]
        return [
            {name: torch.zeros(layout.size, dtype=dtype, device=self.device) for name, dtype in layout.kind.sources}
            for layout in layouts
        ]

    def merge(self, recipe: Recipe) -> frozenset[str]:
        """Make a recipe live, in place, without LoRAs on top.

        Where components take turns, those that are released are merged when they are used.

        Returns:
            The places whose values changed.

        Raises:
            RecipeError: the recipe was made for other files, or for another dtype than this model rounds to.
            CheckpointError: sources that stay in their files have changed.
        """
        if recipe.dtype != self._export_dtype:
            raise RecipeError(f"the recipe is for dtype {recipe.dtype}, this model rounds to {self._export_dtype}")
        self.ingredients.check(recipe)
        with self._reading_sources():
            return self._merge(plan_places(recipe), baked=recipe.vae is not None)

    def lay_on_top(self, loras: WeightedLoras, *components: Component) -> bool:
        """Make components live as the merge with LoRAs on top, in place of those there; without any, as the merge.

        The weights are those of a file of the merge into which the LoRAs are baked. Where components take turns, those
        that are released are computed when they are used.

        Args:
            loras: by their index among `on_top`.

        Returns:
            Whether values were computed: not where these LoRAs lie there already.

        Raises:
            CheckpointError: sources that stay in their files have changed.
        """
        slabs = [slab for slab in self._slabs if slab.kind.component in components and slab.top_indices]
        if not slabs:
            return False
        with self._reading_sources():
            computed = [slab.lay_on_top(loras, self._scratch) for slab in slabs]
        return any(computed)

    def use(self, *components: Component) -> None:
        """Make these components live; where components take turns, free the memory of all others first.

        Raises:
            CheckpointError: sources that stay in their files have changed.
            torch.OutOfMemoryError: the device has too little memory for them.
        """
        if not self.in_turns:
            return
        for slab in self._slabs:
            if slab.kind.component not in (None, *components):
                slab.release()
        with self._reading_sources():
            for slab in self._slabs:
                if slab.kind.component in components:
                    slab.restore(self._scratch)

    @contextmanager
    def _reading_sources(self) -> Iterator[None]:
        """Enclose code that may read sources from their files, and check before and after that they are unchanged.

        Raises:
            CheckpointError: they have changed.
        """
        if self.placement is Placement.FILES:
            self.ingredients.require_unchanged()
        yield
        if self.placement is Placement.FILES:
            self.ingredients.require_unchanged()

    def _merge(self, plans: Mapping[str, PlacePlan], *, baked: bool) -> frozenset[str]:
        parent_a = PlacePlan((), "A")
        all_plans = {slab.kind.place: plans.get(slab.kind.place, parent_a) for slab in self._slabs}
        changed = set()
        for slab in self._slabs:
            plan = self._slab_plan(slab, all_plans, baked=baked)
            if slab.merge(plan, self._scratch):
                changed.add(slab.kind.place)
        return frozenset(changed)

    def _slab_plan(self, slab: _Slab, plans: Mapping[str, PlacePlan], *, baked: bool) -> PlacePlan:
        """Return the plan that all tensors of a slab share, with every LoRA that changes any of them."""
        plan = self.ingredients.plan(slab.members[0].key, plans, baked=baked)
        place_loras = plans[slab.kind.place].loras
        loras = tuple((index, weight) for index, weight in place_loras if index in slab.lora_indices)
        return PlacePlan(plan.steps, plan.final, loras)

    def broken_keys(self) -> tuple[str, ...]:
        """Return the keys of live tensors that hold a NaN or an infinity, in the file's order."""
        broken = set[str]()
        for component in dict.fromkeys(slab.kind.component for slab in self._slabs):
            if component is not None:
                self.use(component)
            for slab in self._slabs:
                if slab.kind.component == component:
                    broken |= {member.key for member in slab.members if not bool(member.of(slab.live).isfinite().all())}
        return tuple(key for key in self._live if key in broken)

    def live_tensors(self) -> Mapping[str, Tensor]:
        """Return key -> live tensor in the file's shape; the tensors are views, which every merge changes.

        Where components take turns, tensors of a released component have a shape but no values: see `live_tensor`.
        """
        return self._live

    def live_tensor(self, key: str) -> Tensor:
        """Return one live tensor in the file's shape; where components take turns, `use` its component first."""
        for view in live_views(key, self.architecture, self._live[key].dim())[:1]:
            self.use(view.component)
        return self._live[key]

    def parameters(self, component: Component) -> Iterator[tuple[str, Tensor]]:
        """Yield (name in the live model, view) for every parameter of one component; `use` the component first."""
        self.use(component)
        for key, tensor in self._live.items():
            for view in live_views(key, self.architecture, tensor.dim()):
                if view.component == component:
                    yield view.name, view.of(tensor)

    def nbytes(self) -> int:
        """Return the bytes allocated for sources and live model together."""
        sources = sum(flat.nbytes for slab in self._slabs for flat in slab.buffers.values())
        return sources + sum(slab.live.untyped_storage().nbytes() for slab in self._slabs)


def _allocate_on_host(
    layouts: Sequence[_SlabLayout], device: torch.device
) -> tuple[HostBuffers, list[dict[str, Tensor]]]:
    """Allocate a host buffer for each source; return the buffers, and each slab's views of them.

    Raises:
        NoMemoryError: the host has too little memory.
    """
    sizes: Counter[str] = Counter()
    starts: list[dict[str, int]] = []
    for layout in layouts:
        starts.append({name: sizes[name] for name, _ in layout.kind.sources})
        sizes.update({name: layout.size * dtype.itemsize for name, dtype in layout.kind.sources})
    buffers = HostBuffers(sizes, device)
    return buffers, [
        {name: buffers.part(name, start[name], layout.size, dtype) for name, dtype in layout.kind.sources}
        for layout, start in zip(layouts, starts, strict=True)
    ]


def _sizes(layouts: Sequence[_SlabLayout], *, in_turns: bool) -> tuple[int, int]:
    """Return the bytes of all sources, and of what is live at once: all components, or the largest if in turns."""
    sources = sum(layout.size * dtype.itemsize for layout in layouts for _, dtype in layout.kind.sources)
    live: Counter[Component | None] = Counter()
    for layout in layouts:
        live[layout.kind.component] += layout.size * layout.kind.live_dtype.itemsize
    always = live.pop(None, 0)
    return sources, always + (max(live.values(), default=0) if in_turns else live.total())
