"""LoRAs on top of a live merge while it is rendered, and no part of it.

A weight w of the merge, rounded to the export dtype as a file has it, becomes

    q(w + sum over LoRAs of weight * delta)          q: rounded to the export dtype

which is to the bit what baking the LoRAs into an exported file gives. To take the LoRAs away again, the tensors that
they changed are merged again from the sources: as long as their share of a merge. Subtracting would not give the same
bits. A copy of the tensors would save little of that time, as it has to be written and read as well, and would take
memory for all layers that have LoRAs, which is most of a U-Net: 4.4 GB in float16 for the linear layers of SDXL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from optimizer.merging.engine.flat import merge_tensor
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.plan import PlacePlan, WeightedLoras
from optimizer.merging.lora.file import Lora, LoraPart, delta


@dataclass(frozen=True)
class LorasOnTop:
    """The parts of some LoRAs by the tensor that they change."""

    by_key: Mapping[str, Mapping[int, tuple[LoraPart, ...]]]  # key -> index of a LoRA -> its parts

    @classmethod
    def of(cls, loras: Sequence[Lora], ingredients: Ingredients) -> LorasOnTop:
        """Find the tensors of a merge that LoRAs change.

        Raises:
            LoraError: one does not fit.
        """
        by_key: dict[str, dict[int, tuple[LoraPart, ...]]] = {}
        for index, lora in enumerate(loras):
            for key, parts in lora.targets(ingredients.tensors, ingredients.parents.architecture).items():
                by_key.setdefault(key, {})[index] = parts
        return cls(by_key)

    def on_any(self, keys: Iterable[str]) -> frozenset[int]:
        """Return the indices of the LoRAs that change any of some tensors."""
        return frozenset(index for key in keys for index in self.by_key.get(key, ()))

    def add(self, key: str, loras: WeightedLoras, merged: Tensor, live: Tensor) -> None:
        """Write a tensor of the merge with LoRAs on top; as it is, where none of them changes it.

        Args:
            merged: its values in the export dtype.
            live: of the same shape and device; overwritten.
        """
        parts = self.by_key.get(key, {})
        deltas = [(weight, delta(parts[index], live.shape)) for index, weight in loras if index in parts]
        if deltas:
            merge_tensor(PlacePlan((), "A"), key, {"A": merged}, live, merged.dtype, deltas)
        else:
            live.copy_(merged)
