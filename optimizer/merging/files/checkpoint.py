"""Open a checkpoint, recognise its family, and identify it by its content.

A checkpoint is a .safetensors file, a file of torch.save (.ckpt, .pt, .pth) or the folder of a diffusers pipeline. In
each case its tensors have the keys of its family's single-file layout (Stable Diffusion's begin with
`model.diffusion_model.`, `first_stage_model.` and so on). They are read through a memory map: opening is cheap, and
reading a tensor allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import cache, cached_property
from pathlib import Path

from torch import Tensor

from basics.files import sha256_of
from optimizer.errors import CheckpointError
from optimizer.families.registry import model_family
from optimizer.merging.files.canonical import canonical
from optimizer.merging.files.diffusers_folder import diffusers_source
from optimizer.merging.files.names import TORCH_SUFFIXES, model_name
from optimizer.merging.files.pickles import torch_source
from optimizer.merging.files.prefixes import without_wrappers
from optimizer.merging.files.presence import require_checkpoint_at, require_utf8_name
from optimizer.merging.files.sources import (
    DTYPE_NAMES,
    DTYPES,
    Source,
    Stored,
    TensorInfo,
    data_hash,
    legacy_hash,
    read_header,
    safetensors_source,
    sha256_of_model,
)
from search_spaces.blocks import (
    EMA,
    OTHER,
    UNET,
    VAE,
    Architecture,
    blocks,
    place_of,
    text_encoders,
)
from search_spaces.errors import UnknownArchitectureError
from search_spaces.recognition import architecture_of
from studies.recipe.recipe import LETTERS

__all__ = [
    "DTYPES",
    "DTYPE_NAMES",
    "Checkpoint",
    "TensorInfo",
    "data_hash",
    "is_mergeable",
    "legacy_hash",
    "letters",
    "model_name",
    "read_header",
    "total_bytes",
]


class Checkpoint:
    """An opened checkpoint: its tensors by key, read through a memory map.

    Attributes:
        path: the file or folder.
        tensors: key -> dtype and shape, in the order of the file.
        metadata: of the file's header; empty for other formats than safetensors.
        files: every file it is read from; for a folder its weights, and the scheduler's settings where they say what
            the model predicts.
        notes: one line for everything that was renamed, repaired or ignored.
    """

    def __init__(self, path: Path, source: Source) -> None:
        self.path = path
        self.files = source.files
        self.metadata = dict(source.metadata)
        self._stored: Mapping[str, Stored]
        self._stored, notes = canonical(source.tensors, str(path))
        self.tensors: Mapping[str, TensorInfo] = {key: stored.info for key, stored in self._stored.items()}
        self.notes: tuple[str, ...] = (*source.notes, *notes)

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Open a file or folder, and check its header.

        Raises:
            CheckpointError: it is missing, of an unknown format, damaged, truncated, quantised, or holds code to run.
        """
        return cls(path, open_source(path))

    def tensor(self, key: str) -> Tensor:
        """Read a tensor in the dtype and shape of `tensors[key]`: a view of the file's pages where possible.

        Raises:
            KeyError: the checkpoint has no such tensor.
        """
        return self._stored[key].read()

    @cached_property
    def architecture(self) -> Architecture:
        """The family of models.

        Raises:
            CheckpointError: there is no U-Net of a known family.
        """
        try:
            return architecture_of({key: info.shape for key, info in self.tensors.items()})
        except UnknownArchitectureError as error:
            raise CheckpointError(f"{self.path.name}: {error}") from error

    @cached_property
    def components(self) -> tuple[str, ...]:
        """Which of unet, text_encoder, text_encoder_2 and vae it has, in that order.

        A component counts as present if any of its tensors is.

        Raises:
            CheckpointError: as for `architecture`.
        """
        present = {component_of(key, self.architecture) for key in self.tensors}
        return tuple(name for name in (UNET, *text_encoders(self.architecture), VAE) if name in present)

    @property
    def lacking(self) -> tuple[str, ...]:
        """The keys without which no model of the family has a component that is there.

        A component with less than half of its essential keys is an extract that somebody made, and lacks nothing.

        Raises:
            CheckpointError: as for `architecture`.
        """
        by_component: dict[str, list[str]] = {}
        for key in model_family(self.architecture).keys.essential:
            by_component.setdefault(component_of(key, self.architecture), []).append(key)
        found: list[str] = []
        for keys in by_component.values():
            absent = [key for key in keys if key not in self.tensors]
            if 2 * len(absent) < len(keys):
                found += absent
        return tuple(found)

    def without(self, component: str) -> Checkpoint:
        """Return the same checkpoint as if its file had no tensor of a component."""
        other = copy(self)
        kept = {
            key: stored for key, stored in self._stored.items() if component_of(key, self.architecture) != component
        }
        other.__dict__.update(_stored=kept, tensors={key: stored.info for key, stored in kept.items()})
        other.__dict__.pop("components", None)  # a cached property
        return other

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of all its files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def mtime_ns(self) -> int:
        """Time of the last change of any of its files, in nanoseconds since the epoch."""
        return max(file.stat().st_mtime_ns for file in self.files)

    @property
    def name(self) -> str:
        """Display name: see `model_name`."""
        return model_name(self.path)

    def hash(self, progress: Callable[[int], None] | None = None) -> str:
        """Compute `sha256` by reading the files again.

        Args:
            progress: called with the bytes of each chunk that was read.
        """
        return sha256_of_model(self.path, self.files, lambda file: sha256_of(file, progress))

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole file, 64 hex digits; its first 10 are the AutoV2 hash of A1111 and Civitai.

        For a folder, the sha256 of the lines `<sha256>  <path in the folder>` of its `files`, sorted by path: see
        `sha256_of_model`.
        """
        return self.hash()

    @property
    def legacy_hash(self) -> str | None:
        """A1111's old model hash, 8 hex digits; None for a folder, which A1111 does not read."""
        return legacy_hash(self.path) if self.files == (self.path,) else None

    @property
    def data_hash(self) -> str | None:
        """sha256 of the tensor data, 64 hex digits, the first 12 of which are AutoV3; None unless safetensors."""
        return data_hash(self.path) if _is_safetensors(self.path) else None


def open_source(path: Path, wanted: str = "a checkpoint") -> Source:
    """Open a file or folder, in the format that its suffix names, with the tensors under their stored names.

    Only what wrappers such as DataParallel add to the names is taken out.

    Args:
        wanted: what a torch file should be, for messages.

    Raises:
        CheckpointError: it is missing, of an unknown format, damaged, truncated, holds code to run, or its name is not
            UTF-8.
    """
    require_checkpoint_at(path)
    require_utf8_name(path)
    if path.is_dir():
        return diffusers_source(path)
    return without_wrappers(_file_source(path, wanted))


def _file_source(path: Path, wanted: str) -> Source:
    """Open a file in the format that its suffix names.

    Raises:
        CheckpointError: as for `open_source`.
    """
    if not path.is_file():  # a pipe would block, a device may never end
        raise CheckpointError(f"{path} is not a regular file: give a .safetensors or .ckpt file, or a diffusers folder")
    if path.suffix.lower() in TORCH_SUFFIXES:
        return torch_source(path, wanted=wanted)
    if path.suffix.lower() == ".bin":
        raise CheckpointError(
            f"{path} is one part of a diffusers pipeline: give the folder that holds model_index.json instead"
        )
    return safetensors_source(path)


def _is_safetensors(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() not in TORCH_SUFFIXES


def component_of(key: str, architecture: Architecture) -> str:
    """Return unet, text_encoder, text_encoder_2 or vae; for keys of no component OTHER or EMA."""
    place = place_of(key, architecture)
    return UNET if place in _blocks(architecture) else place


@cache
def _blocks(architecture: Architecture) -> frozenset[str]:
    return frozenset(blocks(architecture))


def is_mergeable(key: str, info: TensorInfo, architecture: Architecture) -> bool:
    """Return whether a ratio applies to this tensor: integers, schedules and markers stay as parent A has them.

    `position_ids` are integers, whatever dtype they are stored in: old merges left them as floats, and averaging or
    casting those again would damage them.
    """
    if not info.dtype.is_floating_point or key.endswith(".position_ids"):
        return False
    return place_of(key, architecture) not in {OTHER, EMA}


def letters(count: int) -> tuple[str, ...]:
    """Return the letters of the first `count` parents: A, B, C ..."""
    return tuple(LETTERS[:count])


def total_bytes(infos: Iterable[TensorInfo]) -> int:
    """Return the bytes of all these tensors together."""
    return sum(info.nbytes for info in infos)
