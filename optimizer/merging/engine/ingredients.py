"""The files that go into one merge, read key by key: parents, LoRAs, and a VAE to bake in.

Every tensor of the result has *sources*, by name: the parents' letters where ratios apply, `kept` where none applies
(integers, markers, tensors that only some parents have), and `vae` where a baked VAE has the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.merging.engine.plan import VAE_SOURCE, PlacePlan
from optimizer.merging.files.change_guard import OpenedFiles
from optimizer.merging.files.checkpoint import is_mergeable, letters
from optimizer.merging.files.health import is_finite
from optimizer.merging.files.layout import is_live
from optimizer.merging.files.parents import Parents, live_keys
from optimizer.merging.files.sources import TensorInfo, abbreviated
from optimizer.merging.files.vae import VaeFile
from optimizer.merging.lora.file import Lora, LoraPart, delta
from search_spaces.blocks import VAE, place_of
from studies.errors import RecipeError
from studies.recipe.recipe import DtypeName, Recipe

KEPT_SOURCE = "kept"

EXPORT_DTYPES: Mapping[DtypeName, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}


@dataclass(frozen=True)
class Ingredients:
    """Opened files that go into one merge.

    Raises:
        CheckpointError: a LoRA or the VAE does not fit the parents.
    """

    parents: Parents
    loras: tuple[Lora, ...] = ()
    vae: VaeFile | None = None
    opened: OpenedFiles | None = field(default=None, repr=False)  # None: as the files are now
    _loras_by_key: dict[str, list[tuple[int, tuple[LoraPart, ...]]]] = field(
        default_factory=dict, init=False, repr=False
    )
    _sound: set[tuple[str, str]] = field(default_factory=set, init=False, repr=False)  # key and source, once checked

    def __post_init__(self) -> None:
        if self.opened is None:
            object.__setattr__(self, "opened", OpenedFiles.now(self.files))
        for index, lora in enumerate(self.loras):
            for key, parts in lora.targets(self.parents.tensors, self.parents.architecture).items():
                self._loras_by_key.setdefault(key, []).append((index, parts))
        if self.vae is not None:
            object.__setattr__(self, "vae", self.vae.in_files_of(self.parents.architecture))
            self._check_vae(self.vae)

    def _check_vae(self, vae: VaeFile) -> None:
        own = {key: info for key, info in self.parents.tensors.items() if self.place(key) == VAE}
        shared = own.keys() & vae.tensors.keys()
        different = sorted(key for key in shared if not own[key].fits(vae.tensors[key]))
        if (own and not shared) or different:
            reason = f": {', '.join(different[:3])} differ in shape" if different else ""
            raise CheckpointError(
                f"the VAE {vae.path.name} does not fit these parents{reason}; give a VAE of their family"
            )
        self._require_whole(vae)

    def _require_whole(self, vae: VaeFile) -> None:
        """Refuse a VAE that lacks tensors of the parents'; take away the parents' own if it lacks tensors of this one.

        Raises:
            CheckpointError: it is incomplete.
        """
        own, given = (
            self.parents.live_keys(VAE),
            live_keys(vae.tensors, self.parents.architecture).get(VAE, frozenset()),
        )
        missing = sorted(own - given)
        if missing:
            raise CheckpointError(
                f"the VAE {vae.path.name} is incomplete: {len(missing)} of {len(own)} tensors are not in it "
                f"({abbreviated(missing)}){_unknown_names(vae, given)}; give a whole VAE"
            )
        if own and own != given:
            note = f"the parents' own vae is incomplete ({len(own)} of {len(given)} tensors) and is not used"
            object.__setattr__(self, "parents", self.parents.without(VAE, note))

    def on(self, device: torch.device) -> Ingredients:
        """Return a copy whose LoRA factors are on a device."""
        return replace(self, loras=tuple(lora.to(device) for lora in self.loras)) if self.loras else self

    @property
    def files(self) -> Mapping[str, tuple[Path, ...]]:
        """Description for messages, such as `parent A` -> the files it is read from."""
        checkpoints = self.parents.checkpoints
        files = {
            f"parent {letter}": checkpoint.files
            for letter, checkpoint in zip(letters(len(checkpoints)), checkpoints, strict=True)
        }
        for lora in self.loras:  # two in different folders may have the same name
            description = f"the LoRA {lora.name}"
            files[description] = (*files.get(description, ()), *lora.files)
        return files if self.vae is None else {**files, "the VAE": self.vae.files}

    def require_unchanged(self) -> None:
        """Refuse files that have changed since they were opened.

        Raises:
            CheckpointError: a file is gone, replaced or written to.
        """
        if self.opened is not None:
            self.opened.require_unchanged()

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The result's tensors, with the first parent's dtypes; the VAE's own where no parent has a VAE."""
        tensors = dict(self.parents.tensors)
        if self.vae is not None and not any(self.place(key) == VAE for key in tensors):
            tensors |= self.vae.tensors
        return tensors

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for everything a user should know about how the files fit together."""
        notes = [*self.parents.notes, *(f"{lora.path.name}: {note}" for lora in self.loras for note in lora.notes)]
        if self.vae is not None:
            own = [key for key in self.parents.tensors if self.place(key) == VAE]
            stay = [key for key in own if key not in self.vae.tensors]
            extra = [key for key in self.vae.tensors if own and key not in self.parents.tensors]
            name = self.vae.path.name
            notes.append(f"the VAE is {name}, in place of the merge's own")
            notes += [f"the VAE ({name}): {note}" for note in self.vae.notes]
            if stay:
                notes.append(f"{len(stay)} tensors beside the VAE are not in {name} and stay: {abbreviated(stay)}")
            if extra:
                notes.append(f"{len(extra)} tensors of {name} are not in A and left out: {abbreviated(extra)}")
        return tuple(notes)

    def place(self, key: str) -> str:
        """Return the place of a tensor: see `search_spaces.blocks.place_of`."""
        return place_of(key, self.parents.architecture)

    def sources(self, key: str) -> Mapping[str, TensorInfo]:
        """Return the sources of one tensor of the result: name -> dtype and shape."""
        sources: dict[str, TensorInfo] = {}
        if key in self.parents.tensors:
            if self.parents.is_merged(key):
                names = enumerate(letters(len(self.parents.checkpoints)))
                sources = {letter: self.parents.info(key, index) for index, letter in names}
            else:
                sources = {KEPT_SOURCE: self.parents.tensors[key]}
        if self.vae is not None and key in self.vae.tensors and key in self.tensors:
            sources[VAE_SOURCE] = TensorInfo(self.vae.tensors[key].dtype, self.tensors[key].shape)
        return sources

    def tensor(self, key: str, source: str) -> Tensor:
        """Read a source's values, in its own dtype and the result's shape, on the CPU.

        Raises:
            CheckpointError: they are broken: NaN or infinity in a weight that the live model has. Schedules, masks and
                what belongs to no model may hold them.
        """
        values = self._read(key, source)
        if (key, source) not in self._sound:  # a study reads them once for each trial where they stay in their files
            self._refuse_broken(key, source, values)
            self._sound.add((key, source))
        return values

    def require_sound(self, progress: Callable[[int], None] | None = None) -> None:
        """Refuse files with broken values before any work: every weight that a merge can read is read once.

        LoRAs were read, and checked, when they were opened.

        Args:
            progress: called with the bytes of each tensor that was read.

        Raises:
            CheckpointError: as for `tensor`.
        """
        for key in self.tensors:
            for source, info in self.sources(key).items():
                self.tensor(key, source)
                if progress is not None:
                    progress(info.nbytes)

    @property
    def size_bytes(self) -> int:
        """Bytes of all the tensors that `require_sound` reads."""
        return sum(info.nbytes for key in self.tensors for info in self.sources(key).values())

    def _read(self, key: str, source: str) -> Tensor:
        if source == VAE_SOURCE and self.vae is not None:
            return self.vae.tensor(key).view(self.tensors[key].shape)
        if source == KEPT_SOURCE:
            return self.parents.kept(key)
        return self.parents.tensor(key, letters(len(self.parents.checkpoints)).index(source))

    def _refuse_broken(self, key: str, source: str, values: Tensor) -> None:
        """Refuse broken values of a source, see `tensor`.

        Raises:
            CheckpointError: they are broken, or the file is not the one that was opened.
        """
        if is_finite(values) or not is_live(key, self.parents.architecture, values.dim()):
            return
        self.require_unchanged()  # or that is why
        what, path = self._file_of(key, source)
        broken = "NaN" if values.isnan().any() else "infinity"
        raise CheckpointError(
            f"{what} ({path}) holds {broken} in {key}: every merge with it would be broken; fetch the file again, or "
            "use another model"
        )

    def _file_of(self, key: str, source: str) -> tuple[str, Path]:
        """Return what a source is, for messages, and its path."""
        if source == VAE_SOURCE and self.vae is not None:
            return "the VAE", self.vae.path
        names = letters(len(self.parents.checkpoints))
        letter = names[self.parents.home(key)] if source == KEPT_SOURCE else source
        return f"parent {letter}", self.parents.checkpoints[names.index(letter)].path

    def is_float(self, key: str) -> bool:
        """Return whether it is a weight, to which an export's dtype applies; not a marker, a schedule or an index."""
        return is_mergeable(key, self.tensors[key], self.parents.architecture)

    def loras_on(self, key: str) -> Sequence[tuple[int, tuple[LoraPart, ...]]]:
        """Return (index of the LoRA, its parts) for every LoRA that changes this tensor."""
        return self._loras_by_key.get(key, ())

    def deltas(self, key: str, plan: PlacePlan) -> list[tuple[float, Tensor]]:
        """Compute (weight, float32 difference in the tensor's shape) for each LoRA of the plan that changes it."""
        weights = dict(plan.loras)
        shape = self.tensors[key].shape
        return [(weights[index], delta(parts, shape)) for index, parts in self.loras_on(key) if index in weights]

    def saved_dtype(self, key: str, export: DtypeName | None) -> torch.dtype:
        """Return the dtype in which an export saves a tensor: `export` for weights if it is given, else its own."""
        return EXPORT_DTYPES[export] if export is not None and self.is_float(key) else self.tensors[key].dtype

    def narrow_dtype_notes(self, export: DtypeName | None) -> list[str]:
        """Return a line if weights are saved in 8 bits, in which ratios near each other give the same merge."""
        saved = {self.saved_dtype(key, export) for key in self.tensors if self.is_float(key)}
        return [
            f"weights are rounded to {dtype}, as parent A has them, so small changes of a ratio may change nothing: "
            "`export: {dtype: fp16}` keeps them"
            for dtype in sorted(str(dtype).removeprefix("torch.") for dtype in saved if dtype.itemsize == 1)
        ]

    def plan(self, key: str, plans: Mapping[str, PlacePlan], *, baked: bool) -> PlacePlan:
        """Return the plan of one tensor of the result.

        Args:
            plans: place -> plan, from `plan_places`.
            baked: whether the recipe bakes in the VAE.
        """
        sources = self.sources(key)
        if VAE_SOURCE in sources and (baked or len(sources) == 1):
            return PlacePlan((), VAE_SOURCE)
        plan = plans.get(self.place(key), PlacePlan((), KEPT_SOURCE))
        indices = {index for index, _ in self.loras_on(key)}
        loras = tuple((index, weight) for index, weight in plan.loras if index in indices)
        if KEPT_SOURCE in sources:
            return PlacePlan((), KEPT_SOURCE, loras)
        return replace(plan, loras=loras)

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that was made for other files.

        Raises:
            RecipeError: architecture, number of parents, LoRAs or VAE differ.
        """
        if recipe.architecture != self.parents.architecture:
            raise RecipeError(
                f"the recipe is for {recipe.architecture}, the checkpoints are {self.parents.architecture}: give the "
                "recipe's own parents"
            )
        if len(recipe.parents) != len(self.parents.checkpoints):
            raise RecipeError(
                f"the recipe has {len(recipe.parents)} parents, got {len(self.parents.checkpoints)}: give the "
                "recipe's own parents"
            )
        if recipe.loras and tuple(lora.sha256 for lora in recipe.loras) != tuple(lora.sha256 for lora in self.loras):
            raise RecipeError("the recipe's LoRAs are not the files that were opened: give them in the recipe's order")
        if recipe.vae is not None and (self.vae is None or self.vae.sha256 != recipe.vae.sha256):
            raise RecipeError(
                f"the recipe bakes in the VAE {recipe.vae.name}, which is not the file that was opened: give the "
                "recipe's own VAE"
            )


def _unknown_names(vae: VaeFile, live: Collection[str]) -> str:
    """Return a clause that names the weights of a VAE which no live model has; empty if it has none."""
    unknown = [key for key in vae.tensors if key not in live]
    return f", and {len(unknown)} of its names are not understood ({abbreviated(unknown)})" if unknown else ""
