"""The stored renders of a trial, read back exactly as they were scored."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from optimizer.errors import ScoredImageLost
from optimizer.rendering.contact_sheet import to_tensor
from optimizer.trial.evaluation import pixels_digest
from studies.errors import RenderLostError
from studies.files.artifacts import Artifacts
from studies.records.values import StoredRender


def read_images(artifacts: Artifacts, renders: Iterable[StoredRender]) -> dict[int, Tensor]:
    """Map each item to its image, uint8 [3, h, w].

    Raises:
        ScoredImageLost: an image is gone, cannot be read, or differs from the one that was scored.
    """
    return {render.item: _read(artifacts, render) for render in renders}


def _read(artifacts: Artifacts, render: StoredRender) -> Tensor:
    try:
        picture = artifacts.open_render(render.file or "")
    except RenderLostError as error:
        raise ScoredImageLost(f"item {render.item}, {error}") from error
    image = to_tensor(picture)
    if pixels_digest(image) != render.pixels_sha256:
        raise ScoredImageLost(f"item {render.item}, {render.file} is not the image that was scored")
    return image
