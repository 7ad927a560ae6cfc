"""VAEs to bake into a merge: read from a bare VAE file, a diffusers VAE file, or any checkpoint that has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.families.registry import model_families, model_family
from optimizer.families.vae_names import vae_part
from optimizer.families.views import StoredPart
from optimizer.merging.files.checkpoint import open_source
from optimizer.merging.files.quantised import refuse_quantised
from optimizer.merging.files.single_file import in_single_file
from optimizer.merging.files.sources import Stored, TensorInfo, abbreviated, sha256_of_model
from search_spaces.blocks import Architecture
from search_spaces.recognition import description_of

PREFIX = "first_stage_model."  # of a VAE's keys before the family is known
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


@dataclass(frozen=True, eq=False)
class VaeFile:
    """An opened VAE, whose tensors have the keys of a single-file checkpoint: Stable Diffusion's, or a family's."""

    path: Path
    files: tuple[Path, ...]
    _stored: Mapping[str, Stored] = field(repr=False)
    notes: tuple[str, ...] = ()  # what was renamed or ignored, one line each

    @classmethod
    def open(cls, path: Path) -> VaeFile:
        """Open a file or folder, and read its header.

        Raises:
            CheckpointError: it cannot be read, is quantised, or holds no VAE of Stable Diffusion.
        """
        source = open_source(path)
        parts = {
            name: (_part(rest, stored), stored)
            for name, stored in source.tensors.items()
            if (rest := _without_prefix(name)) is not None
        }
        refuse_quantised({name: stored.info for name, (_, stored) in parts.items()}, str(path))
        tensors = in_single_file((part for part in parts.values() if part[1].info.dtype.is_floating_point), path)
        if not any(key.startswith(f"{PREFIX}decoder.") for key in tensors):
            known = description_of(tuple(source.tensors))
            what = f" (it is {known.partition(':')[0]})" if known else ""
            raise CheckpointError(f"{path} holds no VAE{what}: give a VAE file, or a checkpoint that has one")
        renamed = [name for name, (part, _) in parts.items() if part.key != f"{PREFIX}{_without_prefix(name)}"]
        notes = [f"{len(renamed)} tensors have diffusers' names ({abbreviated(renamed)}): renamed"] if renamed else []
        return cls(path, source.files, tensors, (*source.notes, *notes))

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


def _without_prefix(name: str) -> str | None:
    """Return a tensor's name within its VAE; None for a tensor that belongs to none."""
    prefix = next((prefix for prefix in _prefixes() if name.startswith(prefix)), "")
    return name.removeprefix(prefix) if prefix or name.startswith(_PARTS) else None


def _part(rest: str, stored: Stored) -> StoredPart:
    """Return where a single file stores a tensor of a VAE, whose name is the research code's or diffusers'."""
    return vae_part(rest, PREFIX, len(stored.info.shape)) or StoredPart(PREFIX + rest)


@cache
def _prefixes() -> tuple[str, ...]:
    """Return the prefixes of a VAE's keys in files of any family."""
    families = [family.keys for family in model_families()]
    others = (prefix for keys in families for prefix, component in keys.aliases.items() if component == "vae")
    return tuple(dict.fromkeys((*(keys.vae for keys in families), *others)))
