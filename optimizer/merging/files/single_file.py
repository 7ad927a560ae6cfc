"""Tensors under their names in single files: renamed, reshaped, and joined where a file fuses three of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.merging.files.layout import THIRDS, Reading, StoredPart
from optimizer.merging.files.sources import Stored, TensorInfo


def in_single_file(parts: Iterable[tuple[StoredPart, Stored]], path: Path | str) -> dict[str, Stored]:
    """Return key in the single file -> tensor, in the order of the parts; fused tensors come last.

    Args:
        parts: where a single file stores each tensor, and the tensor as it was found.
        path: of what is read, for messages.

    Raises:
        CheckpointError: a fused tensor lacks a third.
    """
    renamed: dict[str, Stored] = {}
    thirds: dict[str, dict[Reading, Stored]] = {}
    for part, stored in parts:
        if part.reading in THIRDS:
            thirds.setdefault(part.key, {})[part.reading] = stored
        elif part.reading == "whole":
            renamed[part.key] = stored
        else:
            renamed[part.key] = stored.viewed_as(part.shape_of(stored.info.shape), part.of)
    return renamed | {key: _fuse_thirds(path, key, projections) for key, projections in thirds.items()}


def _fuse_thirds(path: Path | str, key: str, projections: Mapping[Reading, Stored]) -> Stored:
    """Stack OpenCLIP's query, key and value projections along dimension 0, as the single file holds them.

    Raises:
        CheckpointError: one is missing, or they differ in shape or dtype.
    """
    infos = {stored.info for stored in projections.values()}
    if len(projections) != len(THIRDS) or len(infos) != 1:
        raise CheckpointError(
            f"{path}: the query, key and value projections that make up {key} "
            "are not three of one shape and dtype: fetch it again"
        )
    (info,) = infos
    ordered = [projections[third] for third in THIRDS]

    def read() -> Tensor:
        # As bytes, because torch cannot concatenate every dtype (float8).
        raw = torch.cat([stored.read().view(torch.uint8) for stored in ordered])
        return raw.view(info.dtype)

    return Stored(TensorInfo(info.dtype, (len(THIRDS) * info.shape[0], *info.shape[1:])), read)
