"""The merge in memory: sources packed once, the live model's parameters views into one live buffer.

Every source's tensors are packed into flat buffers, one per place and dtype ("slab"). A merge is one pass over each
slab whose numbers changed, in place: no file, no reload, no allocation that grows with the trials, and whatever holds
the live parameters (a pipeline, a compiled graph) stays valid. Sources that do not fit beside the live model stay in
host memory, or in their files, and are streamed: see placement.py, host_buffers.py and staging.py.

Where not even the live model fits, its components take turns: one is merged when it is needed and gives its memory back
when the next one is. In a trial of one stage that costs what merging everything at once would: each is merged once.
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
from optimizer.merging.engine.placement import Placement, choose_placement
from optimizer.merging.engine.plan import PlacePlan, plan_places
from optimizer.merging.files.layout import Component, live_views
from optimizer.merging.files.sources import TensorInfo
from studies.errors import RecipeError
from studies.recipe.recipe import DtypeName, Recipe

_log = logging.getLogger(__name__)

# Tensors start on 64-element boundaries (at least 64 bytes): vector kernels see the same alignment whatever
# stands before them, so equal models compute equal images.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the tensors of one slab have in common."""

    place: str
    component: Component | None  # None: no part of the live model, but of the file
    sources: tuple[tuple[str, torch.dtype], ...]
    export_dtype: torch.dtype
    live_dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Member:
    """One tensor of a slab."""

    key: str
    start: int
    info: TensorInfo

    def of(self, flat: Tensor) -> Tensor:
        return flat[self.start : self.start + self.info.size].view(self.info.shape)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the tensors of one slab stand in its flat buffers."""

    kind: _Kind
    members: tuple[_Member, ...]
    size: int  # elements, with those between the tensors
    touching: frozenset[int]  # LoRAs

    @classmethod
    def of(cls, kind: _Kind, keys: Sequence[str], ingredients: Ingredients) -> _Layout:
        members, end = [], 0
        for key in keys:
            info = ingredients.tensors[key]
            members.append(_Member(key, end, info))
            end += -(-info.size // ALIGNMENT) * ALIGNMENT
        touching = frozenset(index for key in keys for index, _ in ingredients.touching(key))
        return cls(kind, tuple(members), end, touching)


class _Slab:
    """The flat buffers of one kind: each source's values, unless they stay in their files, and the live ones.

    Args:
        held: source -> zeros, [size] of its dtype, to be filled; empty when sources stay in their files.
    """

    def __init__(
        self, layout: _Layout, held: Mapping[str, Tensor], ingredients: Ingredients, device: torch.device
    ) -> None:
        self.kind, self.members, self.touching = layout.kind, layout.members, layout.touching
        self.held, self._ingredients = held, ingredients
        self.live = torch.zeros(layout.size, dtype=layout.kind.live_dtype, device=device)
        self.made: PlacePlan | None = None  # what the live values are, or were when they left
        self._wanted = PlacePlan((), "A")
        self._live_bytes = self.live.nbytes
        for name, flat in held.items():
            for member in self.members:
                member.of(flat).copy_(ingredients.tensor(member.key, name))

    @property
    def present(self) -> bool:
        """Whether the live values have memory."""
        return self.live.untyped_storage().nbytes() == self._live_bytes

    def leave(self) -> None:
        """Give the live values' memory back; whatever views them stays as it is, and must not be read."""
        self.live.untyped_storage().resize_(0)

    def enter(self, scratch: Scratch) -> None:
        """Have memory for the live values, and make live what was wanted last."""
        absent = not self.present
        if absent:
            self.made = None  # before there is memory with whatever lay in it
            self.live.untyped_storage().resize_(self._live_bytes)
        if absent or self.made != self._wanted:
            self._make(self._wanted, scratch)

    def merge(self, plan: PlacePlan, scratch: Scratch) -> bool:
        """Make a plan live, or have it made when the slab enters; False when it was already, or was when it left."""
        self._wanted = plan
        if self.made == plan:
            return False
        if self.present:
            self._make(plan, scratch)
        return True

    def _make(self, plan: PlacePlan, scratch: Scratch) -> None:
        self.made = None  # an interrupted merge leaves nothing that could be taken for done
        in_one_pass = plan.elementwise and bool(self.held)
        if in_one_pass:
            merge_flat(plan, self.held, self.live, self.kind.export_dtype, scratch)
        if not in_one_pass or plan.loras:
            for member in self.members:
                self._merge_member(member, plan, scratch, done=in_one_pass)
        self.made = plan

    def _merge_member(self, member: _Member, plan: PlacePlan, scratch: Scratch, *, done: bool) -> None:
        """One tensor; where the pass over the flat buffers has done it, only if a LoRA comes on top."""
        deltas = self._ingredients.deltas(member.key, plan)
        if done and not deltas:
            return
        sources = {name: self._source(member, name) for name in plan.sources}
        merge_one(plan, member.key, sources, member.of(self.live), self.kind.export_dtype, scratch, deltas)

    def _source(self, member: _Member, name: str) -> Tensor:
        return member.of(self.held[name]) if self.held else self._ingredients.tensor(member.key, name)


class ResidentModel:
    """Sources in memory and one live model that any recipe over them can become; it begins as parent A.

    Args:
        device: where the live model stays.
        live_dtypes: what each component computes in; float32 for all on a CPU.
        export_dtype: what an export would save; None keeps A's dtype of each tensor.
        placement: where the sources stay; None chooses by the memory that is free.
        working: bytes that rendering takes, if they are known.
        in_turns: whether a component has memory only from when it is asked for (`use`) until another is.
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
    ) -> None:
        self.device = torch.device(device)
        self.ingredients = ingredients.on(self.device)
        self.architecture = ingredients.parents.architecture
        self._export_dtype = export_dtype
        self._scratch = Scratch.on(self.device, sum(info.size for info in ingredients.tensors.values()))
        layouts = [_Layout.of(kind, keys, self.ingredients) for kind, keys in self._group(live_dtypes).items()]
        self.in_turns = in_turns
        self.placement = placement or choose_placement(self.device, *_sizes(layouts, in_turns=in_turns), working)
        self._host: HostBuffers | None = None
        self._slabs: list[_Slab] = []
        self._live: dict[str, Tensor] = {}
        for layout, held in zip(layouts, self._room(layouts), strict=True):
            slab = _Slab(layout, held, self.ingredients, self.device)
            self._slabs.append(slab)
            self._live |= {member.key: member.of(slab.live) for member in slab.members}
            if in_turns and layout.kind.component is not None:
                slab.leave()
        self._merge({}, baked=False)

    def _group(self, live_dtypes: Mapping[Component, torch.dtype]) -> dict[_Kind, list[str]]:
        groups: dict[_Kind, list[str]] = {}
        for key, info in self.ingredients.tensors.items():
            saved = self.ingredients.saved_dtype(key, self._export_dtype)
            views = live_views(key, self.architecture, len(info.shape))
            component = views[0].component if views else None
            live = saved if component is None else live_dtypes[component]
            sources = tuple((name, source.dtype) for name, source in self.ingredients.sources(key).items())
            groups.setdefault(_Kind(self.ingredients.place(key), component, sources, saved, live), []).append(key)
        return groups

    def _room(self, layouts: Sequence[_Layout]) -> list[dict[str, Tensor]]:
        """Zeros for each slab's sources; where the host has no room for them, they stay in their files."""
        if self.placement is Placement.HOST:
            try:
                self._host, parts = _host_parts(layouts, self.device)
                return parts
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
        """Make a recipe live, in place; returns the places whose values changed.

        Where components take turns, those that are absent are merged when they are used.

        Raises:
            RecipeError: the recipe is of other ingredients, or asks for another dtype than this model rounds to.
            CheckpointError: sources that stay in their files have changed there.
        """
        if recipe.dtype != self._export_dtype:
            raise RecipeError(f"the recipe is for dtype {recipe.dtype}, this model rounds to {self._export_dtype}")
        self.ingredients.check(recipe)
        with self._reading():
            return self._merge(plan_places(recipe), baked=recipe.vae is not None)

    def use(self, *components: Component) -> None:
        """Have these components live for what comes next; where they take turns, the others leave before.

        Raises:
            CheckpointError: sources that stay in their files have changed there.
            torch.OutOfMemoryError: there is not the memory for them.
        """
        if not self.in_turns:
            return
        for slab in self._slabs:
            if slab.kind.component not in (None, *components):
                slab.leave()
        with self._reading():
            for slab in self._slabs:
                if slab.kind.component in components:
                    slab.enter(self._scratch)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Around what may read sources from their files: they must be what they were, before and after."""
        if self.placement is Placement.FILES:
            self.ingredients.require_unchanged()
        yield
        if self.placement is Placement.FILES:
            self.ingredients.require_unchanged()

    def _merge(self, plans: Mapping[str, PlacePlan], *, baked: bool) -> frozenset[str]:
        first = PlacePlan((), "A")
        every = {slab.kind.place: plans.get(slab.kind.place, first) for slab in self._slabs}
        changed = set()
        for slab in self._slabs:
            plan = self._slab_plan(slab, every, baked=baked)
            if slab.merge(plan, self._scratch):
                changed.add(slab.kind.place)
        return frozenset(changed)

    def _slab_plan(self, slab: _Slab, plans: Mapping[str, PlacePlan], *, baked: bool) -> PlacePlan:
        """The plan that all tensors of a slab share, with every LoRA that touches one of them."""
        plan = self.ingredients.plan(slab.members[0].key, plans, baked=baked)
        loras = tuple(row for row in plans[slab.kind.place].loras if row[0] in slab.touching)
        return PlacePlan(plan.steps, plan.final, loras)

    def broken_keys(self) -> tuple[str, ...]:
        """Live tensors that hold a NaN or an infinity, in the file's order."""
        broken = set[str]()
        for component in dict.fromkeys(slab.kind.component for slab in self._slabs):
            if component is not None:
                self.use(component)
            for slab in self._slabs:
                if slab.kind.component == component:
                    broken |= {each.key for each in slab.members if not bool(each.of(slab.live).isfinite().all())}
        return tuple(key for key in self._live if key in broken)

    def copy_first(self) -> None:
        """Make parent A live by a plain copy, not rounded: what a merge's seconds are measured against.

        All components must stay, and sources be held.
        """
        for slab in self._slabs:
            slab.live.copy_(next(iter(slab.held.values())))
            slab.made = None

    def live_tensors(self) -> Mapping[str, Tensor]:
        """File key -> live tensor in the file's shape; views that every merge changes.

        Where components take turns, those of an absent one have a shape but no values: see `live_tensor`.
        """
        return self._live

    def live_tensor(self, key: str) -> Tensor:
        """One live tensor, after its component was brought in if it was absent."""
        for view in live_views(key, self.architecture, self._live[key].dim())[:1]:
            self.use(view.component)
        return self._live[key]

    def parameters(self, component: Component) -> Iterator[tuple[str, Tensor]]:
        """(name in the live model, view) for every parameter of one component, which is used for it."""
        self.use(component)
        for key, tensor in self._live.items():
            for view in live_views(key, self.architecture, tensor.dim()):
                if view.component == component:
                    yield view.name, view.of(tensor)

    def nbytes(self) -> int:
        """Bytes held for sources and live model together."""
        sources = sum(flat.nbytes for slab in self._slabs for flat in slab.held.values())
        return sources + sum(slab.live.untyped_storage().nbytes() for slab in self._slabs)


def _host_parts(layouts: Sequence[_Layout], device: torch.device) -> tuple[HostBuffers, list[dict[str, Tensor]]]:
    """One buffer for each source, and the part of each slab in them.

    Raises:
        NoMemoryError: the host has no room for them.
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


def _sizes(layouts: Sequence[_Layout], *, in_turns: bool) -> tuple[int, int]:
    """Bytes of all sources, and of what is live at once: all components, or the largest if they take turns."""
    sources = sum(layout.size * dtype.itemsize for layout in layouts for _, dtype in layout.kind.sources)
    live: Counter[Component | None] = Counter()
    for layout in layouts:
        live[layout.kind.component] += layout.size * layout.kind.live_dtype.itemsize
    always = live.pop(None, 0)
    return sources, always + (max(live.values(), default=0) if in_turns else live.total())
