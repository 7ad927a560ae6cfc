"""Where a tensor of a checkpoint file lives in the running models, and the other way round.

Every live parameter is a *view* of a tensor as the file stores it: the same, reshaped, transposed, or one third of
the fused attention projection of OpenCLIP. So a merge can stay in the file's layout, and nothing is converted between
merging, rendering and exporting.
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
    """One live parameter: in which model, under which name, and how it looks at the stored tensor."""

    component: Component
    name: str
    reading: Reading = "whole"

    def of(self, stored: Tensor) -> Tensor:
        """The live parameter as a view of the stored tensor: no copy, writes go both ways."""
        match self.reading:
            case "whole":
                return stored
            case "linear":  # a 1x1 convolution [out, in, 1, 1] that the live model has as [out, in]
                return stored.flatten(1)
            case "transposed":
                return stored.t()
            case third:
                rows = stored.shape[0] // 3
                index = THIRDS.index(third)
                return stored[index * rows : (index + 1) * rows]


@dataclass(frozen=True, slots=True)
class StoredPart:
    """Where one live parameter stands in a single file: under which name, and how the live one looks at it."""

    key: str
    reading: Reading = "whole"

    def shape_of(self, live: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in the file; of a third, that third's."""
        match self.reading:
            case "linear":
                return (*live, 1, 1)
            case "transposed":
                return live[::-1]
            case _:
                return live

    def of(self, live: Tensor) -> Tensor:
        """The live parameter as the file stores it, a view; thirds are to be put together by the caller."""
        return live.t() if self.reading == "transposed" else live.reshape(self.shape_of(tuple(live.shape)))
