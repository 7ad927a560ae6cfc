"""Textual inversion: embeddings of a folder, which a prompt names, and their vectors for each text encoder.

The forms that files have:

- A1111 and the original scripts: `string_to_param` with one tensor [vectors, width]; in old files a ParameterDict.
- diffusers: one tensor [width] or [vectors, width] under the embedding's name.
- `emb_params`, as some safetensors files of SD1.5 name their only tensor.
- SDXL: `clip_l` and `clip_g`, a tensor each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basics.messages import counted, nearest
from optimizer.errors import CheckpointError, PromptError
from optimizer.merging.files.pickles import torch_content
from optimizer.merging.files.sources import abbreviated, safetensors_source
from optimizer.rendering.folders import require_embeddings_at
from studies.spec.embedding_files import embedding_names

MOST_VECTORS = 75  # what a chunk holds
ONLY = ""  # the key of vectors that are for the only text encoder of a model


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """An embedding that was opened."""

    name: str
    path: Path
    vectors: Mapping[str, Tensor]  # text encoder of the model (clip_l, clip_g) -> float32 [vectors, width]


class InversionFolder:
    """The embeddings of a folder, opened when a prompt names them.

    Args:
        folder: None: there is none.
        widths: text encoder (clip_l, clip_g) -> features of a token's vector, in the model's order; None for a width
            leaves it unchecked.

    Raises:
        PromptError: it is no folder.
    """

    def __init__(self, folder: Path | None, widths: Mapping[str, int | None]) -> None:
        if folder is not None:
            require_embeddings_at(folder)
        self.folder, self.widths = folder, widths
        self.names = {} if folder is None else embedding_names(folder)

    @property
    def stems(self) -> tuple[str, ...]:
        """The names that A1111 knows: of the files, without folder and suffix."""
        return tuple(name for name, files in self.names.items() if any(file.stem == name for file in files))

    def knows(self, name: str) -> bool:
        """Return whether there is a file of this name, which may have a folder before it and a suffix."""
        return name in self.names

    def open(self, name: str) -> Inversion:
        """Open an embedding and check that it is one for the model.

        Raises:
            PromptError: there is none of this name, or several; or its file cannot be read, or is for another model.
        """
        if self.folder is None:
            raise PromptError(
                f"the embedding {name!r} is named, and the suite names no folder of embeddings: give `embeddings: "
                "FOLDER` under `suite`"
            )
        paths = self.names.get(name, ())
        if not paths:
            close = nearest(name, self.names)
            advice = f"did you mean {close[0]!r}?" if close else f"put NAME.safetensors, .pt or .bin into {self.folder}"
            raise PromptError(f"the embedding {name!r} is not in {self.folder}: {advice}")
        if len(paths) > 1:
            places = " and ".join(str(path.relative_to(self.folder)) for path in paths)
            raise PromptError(f"the embedding {name!r} is there {len(paths)} times ({places}): keep one of them")
        return Inversion(name=name, path=paths[0], vectors=self._fitting(name, paths[0], _vectors(paths[0])))

    def _fitting(self, name: str, path: Path, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return an embedding's vectors for each text encoder of the model.

        Args:
            stored: the vectors of its file, by text encoder or under `ONLY`.

        Raises:
            PromptError: it is not for the model.
        """
        wanted = " and ".join(f"{key} of {width}" for key, width in self.widths.items() if width is not None)
        given = ", ".join(f"{key or 'one tensor'} of {each.shape[1]}" for key, each in stored.items())
        without_key = stored.get(ONLY) if len(self.widths) == 1 else None
        fitting: dict[str, Tensor] = {}
        for key, width in self.widths.items():
            vectors = stored.get(key, without_key)
            if vectors is None or (width is not None and vectors.shape[1] != width):
                raise PromptError(
                    f"the embedding {name!r} ({path}) is not for this model: expected vectors for "
                    f"{wanted or ' and '.join(self.widths)}, got {given}; use the one made for this family of models"
                )
            fitting[key] = vectors
        counts = sorted({len(vectors) for vectors in fitting.values()})
        if len(counts) != 1 or not 1 <= counts[0] <= MOST_VECTORS:
            raise PromptError(
                f"the embedding {name!r} ({path}) has {' and '.join(map(str, counts))} vectors: expected 1 to "
                f"{MOST_VECTORS}, as many for each text encoder; fetch it again"
            )
        return fitting


def _vectors(path: Path) -> dict[str, Tensor]:
    """Read the vectors of a file.

    Raises:
        PromptError: it cannot be read, or holds no embedding.
    """
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except (CheckpointError, OSError) as error:
        raise PromptError(str(error)) from error


@cache
def _read(path: Path, _changed: int, _size: int) -> dict[str, Tensor]:
    """Read the vectors of a file; one that is unchanged is read once.

    Raises:
        CheckpointError: it cannot be read, or holds no embedding.
    """
    if path.suffix.lower() == ".safetensors":
        content: Any = {key: stored.read() for key, stored in safetensors_source(path).tensors.items()}
    else:
        content = torch_content(path)
    tensors = _tensors(content)
    if not tensors:
        raise CheckpointError(
            f"{path} holds no embedding: expected `string_to_param`, `clip_l` and `clip_g`, or a single tensor, got "
            f"{_in_words(content)}; use a file of textual inversion"
        )
    return {key: _as_rows(path, tensor) for key, tensor in tensors.items()}


def _tensors(content: Any) -> dict[str, Tensor]:
    """Return text encoder -> tensor as it is stored; empty if the content is no embedding."""
    if isinstance(content, Tensor):
        return {ONLY: content}
    if not isinstance(content, Mapping):
        return {}
    inner = content.get("string_to_param", content)
    inner = getattr(inner, "_parameters", inner)
    if not isinstance(inner, Mapping):
        return {}
    tensors = {key: value for key, value in inner.items() if isinstance(value, Tensor)}
    encoders = {key: tensors[key] for key in ("clip_l", "clip_g") if key in tensors}
    if encoders:
        return encoders
    return {ONLY: next(iter(tensors.values()))} if len(tensors) == 1 else {}


def _as_rows(path: Path, tensor: Tensor) -> Tensor:
    """Return a tensor as float32 [vectors, width].

    Raises:
        CheckpointError: it is none of vectors, or holds broken values.
    """
    if tensor.dim() not in {1, 2} or not tensor.is_floating_point() or not tensor.numel():
        raise CheckpointError(
            f"{path} holds a tensor of {tensor.dtype} {list(tensor.shape)}: expected floats [vectors, width]; use a "
            "file of textual inversion"
        )
    rows = tensor.detach().to(torch.float32).reshape(-1, tensor.shape[-1])
    if not rows.isfinite().all():
        raise CheckpointError(f"{path} holds NaN or infinite values: fetch it again")
    return rows


def _in_words(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"{counted(len(content), 'entry', 'entries')} ({abbreviated([str(key) for key in content])})"
    return f"a {type(content).__name__}"
