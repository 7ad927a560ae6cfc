"""VAEs to bake into a merge: read from a bare VAE file, a diffusers VAE file, or any checkpoint that has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.families.registry import model_families, model_family
from optimizer.families.vae_names import vae_part, vae_prefix
from optimizer.families.views import StoredPart
from optimizer.merging.files.canonical import known_architecture
from optimizer.merging.files.checkpoint import open_source
from optimizer.merging.files.quantised import refuse_quantised
from optimizer.merging.files.settings import require_assumed
from optimizer.merging.files.single_file import in_single_file
from optimizer.merging.files.sources import Source, Stored, TensorInfo, abbreviated, sha256_of_model
from search_spaces.blocks import Architecture
from search_spaces.families.registry import family_of
from search_spaces.recognition import description_of

PREFIX = "first_stage_model."  # of a VAE's keys before the family is known
_DIFFUSERS_NAME = "diffusion_pytorch_model"  # of weights with a config.json beside them
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


@dataclass(frozen=True, eq=False)
class VaeFile:
    """An opened VAE, whose tensors have the keys of a single-file checkpoint: Stable Diffusion's, or a family's."""

    path: Path
    files: tuple[Path, ...]
    _stored: Mapping[str, Stored] = field(repr=False)
    notes: tuple[str, ...] = ()  # what was renamed or ignored, one line each
    made_for: Architecture | None = None  # of the U-Net beside it; None if there is none that is known

    @classmethod
    def open(cls, path: Path) -> VaeFile:
        """Open a file or folder, and read its header.

        Raises:
            CheckpointError: it cannot be read, is quantised, or holds no VAE of Stable Diffusion.
        """
        source = open_source(path, "a VAE file")
        prefixes = _prefixes_of(source.tensors)
        for prefix in prefixes:  # scales below a prefix of their own look like another VAE
            _refuse_codes(source, prefix)
        prefix = _prefix_of(prefixes, source.tensors, path)
        own = _names_below(prefix, source)
        parts = {name: (_part(rest, source.tensors[name]), source.tensors[name]) for name, rest in own.items()}
        tensors = in_single_file((part for part in parts.values() if part[1].info.dtype.is_floating_point), path)
        renamed = [name for name, (part, _) in parts.items() if part.key != PREFIX + own[name]]
        notes = [f"{len(renamed)} tensors have diffusers' names ({abbreviated(renamed)}): renamed"] if renamed else []
        if prefix not in _usual_prefixes():
            notes.append(f"its tensors stand below the prefix `{prefix}`: taken off")
        if others := [f"`{other}`" for other in prefixes if other != prefix]:
            notes.append(f"another VAE is in the file and ignored, below {' and '.join(others)}")
        return cls(path, source.files, tensors, (*source.notes, *notes), known_architecture(source.tensors))

    def in_files_of(self, architecture: Architecture) -> VaeFile:
        """Return the same VAE under the keys of this family's files.

        Raises:
            CheckpointError: it is of another family, whose latents have another scale, or the configuration beside it
                says what a checkpoint file cannot hold.
        """
        if self.made_for is not None and _vae_settings(self.made_for) != _vae_settings(architecture):
            raise CheckpointError(
                f"{self.path} is a model of {family_of(self.made_for).title}, the parents are "
                f"{family_of(architecture).title}, whose latents have another scale: give a VAE of their family"
            )
        if self.path.name.startswith(_DIFFUSERS_NAME):
            shapes = {key: info.shape for key, info in self.tensors.items()}
            require_assumed(self.path.with_name("config.json"), "vae", architecture, shapes)
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


def _prefix_of(found: Sequence[str], tensors: Mapping[str, Stored], path: Path) -> str:
    """Return what stands before the names of a file's VAE.

    Args:
        found: the prefixes of its VAEs.

    Raises:
        CheckpointError: there is none, or there are several and none has the prefix of single files.
    """
    if PREFIX in found:
        return PREFIX
    if len(found) > 1:
        raise CheckpointError(
            f"{path} holds several VAEs, below {' and '.join(prefix or 'no prefix' for prefix in found)}: keep the one "
            "that is meant"
        )
    if not found:
        known = description_of(tuple(tensors))
        called = abbreviated(list(tensors)) or "there are no tensors"
        what = f"it is {known.partition(':')[0]}" if known else f"its tensors are called {called}"
        raise CheckpointError(f"{path} holds no VAE ({what}): give a VAE file, or a checkpoint that has one")
    return found[0]


def _prefixes_of(tensors: Mapping[str, Stored]) -> list[str]:
    """Return what stands before the names of each VAE that is there with its decoding half, sorted.

    Below the usual prefixes the names may be those of another kind of VAE, which then does not fit the parents.
    """
    found = {prefix for name in tensors if "decoder." in name and (prefix := vae_prefix(name)) is not None}
    usual = {
        prefix
        for prefix in _usual_prefixes()
        if prefix and any(name.startswith(f"{prefix}decoder.") for name in tensors)
    }
    return sorted(found or usual)


def _names_below(prefix: str, source: Source) -> dict[str, str]:
    """Return stored name -> name within the VAE, for the tensors of the VAE below a prefix."""
    return {
        name: name.removeprefix(prefix) for name in source.tensors if name.startswith((prefix,) if prefix else _PARTS)
    }


def _refuse_codes(source: Source, prefix: str) -> None:
    """Refuse a VAE that is quantised.

    Args:
        prefix: of the VAE's tensors.

    Raises:
        CheckpointError: it is.
    """
    own = _names_below(prefix, source)
    keys = {name: PREFIX + rest for name, rest in own.items()}
    for name in source.tensors:
        outer = vae_prefix(name)
        if name not in own and outer is not None and outer.endswith(prefix):
            keys[name] = outer.removesuffix(prefix) + PREFIX + name.removeprefix(outer)
    refuse_quantised({key: source.tensors[name].info for name, key in keys.items()}, str(source.files[0]))


def _vae_settings(architecture: Architecture) -> Mapping[str, Any]:
    """Return what all VAEs of a family have in common, among it the scale of the latents."""
    return model_family(architecture).assumed_settings("vae", {})


def _part(rest: str, stored: Stored) -> StoredPart:
    """Return where a single file stores a tensor of a VAE, whose name is the research code's or diffusers'."""
    return vae_part(rest, PREFIX, len(stored.info.shape)) or StoredPart(PREFIX + rest)


@cache
def _usual_prefixes() -> frozenset[str]:
    """Return the prefixes of a VAE's keys that files of any family have; files of a VAE alone have none."""
    families = [family.keys for family in model_families()]
    others = (prefix for keys in families for prefix, component in keys.aliases.items() if component == "vae")
    return frozenset(("", *(keys.vae for keys in families), *others))
