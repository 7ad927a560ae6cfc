"""Reading a model's configuration off the shapes of its tensors, so that no config file or hub is needed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from optimizer.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]


def count(shapes: Shapes, pattern: re.Pattern[str]) -> int:
    """Return one more than the largest number that the pattern's group matches at the start of a key; 0 for none."""
    return max((int(match[1]) + 1 for key in shapes if (match := pattern.match(key))), default=0)


def shape_of(shapes: Shapes, key: str) -> tuple[int, ...]:
    """Return the shape of a tensor that the model requires.

    Raises:
        CheckpointError: it is missing.
    """
    if key not in shapes:
        raise CheckpointError(
            f"{key} is missing: a full checkpoint (U-Net, VAE and text encoders) is needed; "
            "one of the parents must have what the others lack"
        )
    return shapes[key]
