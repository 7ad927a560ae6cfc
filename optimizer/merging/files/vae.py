"""VAEs to bake into a merge: read from a bare VAE file, a diffusers VAE file, or any checkpoint that has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.families.registry import model_families, model_family
from optimizer.families.vae_names import vae_part
from optimizer.merging.files.checkpoint import open_source
from optimizer.merging.files.quantised import refuse_quantised
from optimizer.merging.files.sources import Stored, TensorInfo, sha256_of_model
from search_spaces.blocks import Architecture

PREFIX = "first_stage_model."  # of a VAE's keys before the family is known
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


@dataclass(frozen=True, eq=False)
class VaeFile:
    """An opened VAE, whose tensors have the keys of a single-file checkpoint: Stable Diffusion's, or a family's."""

    path: Path
    files: tuple[Path, ...]
    _stored: Mapping[str, Stored] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> VaeFile:
        """Open a file or folder, and read its header.

        Raises:
            CheckpointError: it cannot be read, is quantised, or holds no VAE of Stable Diffusion.
        """
        source = open_source(path)
        tensors: dict[str, Stored] = {}
        prefixes = tuple(family.keys.vae for family in model_families())
        for name, stored in source.tensors.items():
            if name.startswith(prefixes):
                prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
                tensors[PREFIX + name.removeprefix(prefix)] = stored
            elif name.startswith(_PARTS):
                key, renamed = _in_single_file(name, stored)
                tensors[key] = renamed
        refuse_quantised({key: stored.info for key, stored in tensors.items()}, str(path))
        tensors = {key: stored for key, stored in tensors.items() if stored.info.dtype.is_floating_point}
        if not any(key.startswith(f"{PREFIX}decoder.") for key in tensors):
            raise CheckpointError(f"{path} holds no VAE: give a VAE file, or a checkpoint that has one")
        return cls(path, source.files, tensors)

    def in_files_of(self, architecture: Architecture) -> VaeFile:
        """Return the same VAE under the keys of this family's files."""
        prefix = model_family(architecture).keys.vae
        if prefix == PREFIX:
            return self
        renamed = {prefix + key.removeprefix(PREFIX): stored for key, stored in self._stored.items()}
        return replace(self, _stored=renamed)

    @property
    def name(self) -> str:
        """File name without suffix, or the folder's name."""
        return self.path.stem if self.path.is_file() else self.path.name

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole file, 64 hex digits; for a folder, see `sha256_of_model`."""
        return sha256_of_model(self.path, self.files)

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Key -> dtype and shape."""
        return {key: stored.info for key, stored in self._stored.items()}

    def tensor(self, key: str) -> Tensor:
        """Read a tensor in the dtype and shape of `tensors[key]`."""
        return self._stored[key].read()


def _in_single_file(name: str, stored: Stored) -> tuple[str, Stored]:
    """Return key and tensor in a single file, for a tensor of a bare VAE.

    diffusers' names are recognised by their blocks, where the original's have levels.
    """
    diffusers = "_blocks." in name or "mid_block." in name or "conv_norm_out" in name
    if not diffusers:
        return PREFIX + name, stored
    part = vae_part(name, PREFIX, len(stored.info.shape))
    if part is None:
        return PREFIX + name, stored
    if part.reading == "whole":
        return part.key, stored
    return part.key, stored.viewed_as(part.shape_of(stored.info.shape), part.of)
