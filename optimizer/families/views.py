"""Live parameters as views of stored tensors, and the inverse.

Every live parameter is a *view* of a tensor as the file stores it: unchanged, reshaped, transposed, or one third of
OpenCLIP's fused attention projection. So a merge stays in the file's layout, and nothing is converted between merging,
rendering and exporting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Component = str  # unet, vae, or a text encoder's name
Reading = Literal["whole", "linear", "transposed", "first third", "second third", "last third"]
THIRDS: tuple[Reading, Reading, Reading] = ("first third", "second third", "last third")


@dataclass(frozen=True, slots=True)
class LiveView:
    """A live parameter: its model, its name there, and the kind of view of the stored tensor that it is."""

    component: Component
    name: str
    reading: Reading = "whole"

    def of(self, stored: Tensor) -> Tensor:
        """Return the live parameter as a view of the stored tensor: nothing is copied, and both share their memory."""
        match self.reading:
            case "whole":
                return stored
            case "linear":  # a 1x1 convolution [out, in, 1, 1], which is [out, in] in the live model
                return stored.flatten(1)
            case "transposed":
                return stored.t()
            case third:
                rows = stored.shape[0] // 3
                index = THIRDS.index(third)
                return stored[index * rows : (index + 1) * rows]


@dataclass(frozen=True, slots=True)
class StoredPart:
    """The tensor of a single file that holds a live parameter: its key, and the kind of view that the parameter is."""

    key: str
    reading: Reading = "whole"

    def shape_of(self, live: tuple[int, ...]) -> tuple[int, ...]:
        """Return the parameter's shape in the file; for a third, that of the third."""
        match self.reading:
            case "linear":
                return (*live, 1, 1)
            case "transposed":
                return live[::-1]
            case _:
                return live

    def of(self, live: Tensor) -> Tensor:
        """Return the live parameter in the file's shape, as a view; the caller joins thirds."""
        return live.t() if self.reading == "transposed" else live.reshape(self.shape_of(tuple(live.shape)))
