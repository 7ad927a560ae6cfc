"""Read a LoRA file, and compute what it adds to the weights of a checkpoint.

For a layer with weight W [out, in], a LoRA holds two factors of rank r. The layer becomes

    W + weight * (alpha / r) * up @ down        up [out, r], down [r, in]

For a convolution, `in` includes the kernel: down is flattened to [r, in * height * width]. A third factor `mid`
[r, r, height, width] (CP or Tucker decomposition, LyCORIS) is composed with down [r, in] first.
Sources: Hu et al. 2021 (arXiv:2106.09685); kohya's sd-scripts and LyCORIS for convolutions and names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from basics.messages import counted
from optimizer.errors import LoraError
from optimizer.merging.files.layout import LiveView
from optimizer.merging.files.names import TORCH_SUFFIXES
from optimizer.merging.files.pickles import torch_source
from optimizer.merging.files.prefixes import without_wrappers
from optimizer.merging.files.presence import require_lora_at
from optimizer.merging.files.quantised import quantisation
from optimizer.merging.files.sources import Source, TensorInfo, abbreviated, safetensors_source, sha256_of_model
from optimizer.merging.lora.factors import Factors, by, composed, without_1x1_kernel
from optimizer.merging.lora.names import (
    Role,
    Target,
    component_of_name,
    components_without_layers,
    made_for,
    other_kind,
    role_of,
    targets_by_name,
)
from optimizer.merging.lora.strength import Strength, strength_of
from search_spaces.blocks import Architecture, place_of, places
from search_spaces.families.registry import family_of
from studies.recipe.lora_files import files_of_lora

TORCH_LORA_SUFFIXES = frozenset({*TORCH_SUFFIXES, ".bin"})


@dataclass(frozen=True, slots=True)
class LoraPart:
    """The factors of one layer, and the layer's position in the stored tensor."""

    view: LiveView
    factors: Factors


@dataclass(frozen=True, eq=False)
class Lora:
    """An opened LoRA: the factors of every layer, in float32."""

    path: Path
    files: tuple[Path, ...]  # the file, and PEFT's configuration beside it if that belongs to it
    metadata: Mapping[str, str]
    modules: Mapping[str, Factors] = field(repr=False)  # by the file's names, without suffix or PEFT's prefix
    notes: tuple[str, ...] = ()  # one line for everything that was ignored, or taken from outside the tensors

    @classmethod
    def open(cls, path: Path) -> Lora:
        """Read a whole file into memory, and the configuration beside it if it has one.

        Raises:
            LoraError: it is missing, not a LoRA, another kind of adapter, quantised, or incomplete.
            CheckpointError: it cannot be read, is truncated, or holds code to run.
        """
        require_lora_at(path)
        files = files_of_lora(path)
        source = _source(path)
        strength = strength_of(path, source.metadata)
        infos = {key: stored.info for key, stored in source.tensors.items()}
        keys_by_module = _keys_by_module(infos, path.name)
        try:
            modules = {
                name: composed(
                    {role: source.tensors[key].read() for role, key in roles.items()},
                    partial(strength.scale, name),
                    f"{path.name}: {name}",
                )
                for name, roles in keys_by_module.items()
            }
        except (SafetensorError, OSError) as error:
            raise LoraError(f"{path} cannot be read ({error}): fetch it again") from error
        without_alpha = [name for name, roles in keys_by_module.items() if roles.keys().isdisjoint({"alpha", "scale"})]
        notes = (*source.notes, *_strength_notes(strength, {name: modules[name].scale for name in without_alpha}))
        return cls(path=path, files=files, metadata=source.metadata, modules=modules, notes=notes)

    @property
    def name(self) -> str:
        """File name without folder and suffix."""
        return self.path.stem

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole file, 64 hex digits; with a configuration beside it, of both: see `sha256_of_model`."""
        return sha256_of_model(self.path, self.files)

    def to(self, device: torch.device | str) -> Lora:
        """Return a copy with the factors on a device."""
        modules = {
            name: replace(factors, up=factors.up.to(device), down=factors.down.to(device))
            for name, factors in self.modules.items()
        }
        moved = replace(self, modules=modules)
        if "sha256" in self.__dict__:  # so that the file is hashed only once
            moved.__dict__["sha256"] = self.sha256
        return moved

    def targets(
        self, tensors: Mapping[str, TensorInfo], architecture: Architecture
    ) -> Mapping[str, tuple[LoraPart, ...]]:
        """Return key -> parts for every stored tensor that this LoRA changes, in the tensors' order.

        Args:
            tensors: the checkpoint's, by their keys in the single-file layout.

        Raises:
            LoraError: a name means no layer of the checkpoint, two names mean the same one, or a shape differs.
        """
        targets = targets_by_name(tensors, architecture)
        factors_by_target: dict[Target, Factors] = {}
        unknown, misshapen = [], []
        for name, factors in self.modules.items():
            target = targets.get(name)
            if target is None:
                unknown.append(name)
            elif factors.shape != without_1x1_kernel(target.shape):
                misshapen.append(f"{name} is {by(factors.shape)}, the checkpoint's is {by(target.shape)}")
            elif target in factors_by_target:
                raise LoraError(
                    f"{self.path.name} has the layer {target.module} twice, under different names: use another LoRA"
                )
            else:
                factors_by_target[target] = factors
        if absent := components_without_layers(unknown, tensors, architecture):
            raise LoraError(
                f"{self.path.name} changes {' and '.join(absent)} in {len(unknown)} of its "
                f"{len(self.modules)} layers, and the checkpoint has none: give a full checkpoint, or "
                "a LoRA of the U-Net alone"
            )
        if unknown or misshapen:
            raise LoraError(self._misfit(unknown, misshapen, architecture))
        parts_by_key: dict[str, tuple[LoraPart, ...]] = dict.fromkeys(tensors, ())
        for target, factors in factors_by_target.items():
            parts_by_key[target.key] += (LoraPart(target.view, factors),)
        return {key: parts for key, parts in parts_by_key.items() if parts}

    def places(self, tensors: Mapping[str, TensorInfo], architecture: Architecture) -> tuple[str, ...]:
        """Return the blocks and text encoders that this LoRA changes, in the order of `search_spaces.blocks.places`.

        Raises:
            LoraError: as for `targets`.
        """
        changed = {place_of(key, architecture) for key in self.targets(tensors, architecture)}
        return tuple(place for place in places(architecture) if place in changed)

    def _misfit(self, unknown: Sequence[str], misshapen: Sequence[str], architecture: Architecture) -> str:
        """Return the message for a LoRA whose layers do not fit a checkpoint.

        Args:
            unknown: names that mean no layer of the checkpoint.
            misshapen: descriptions of the layers of another shape.
        """
        total, expected = f"{len(self.modules)} layers", family_of(architecture).title
        problem = f"{len(misshapen)} of its {total} have another shape ({abbreviated(misshapen)})"
        advice = "use a LoRA made for this model"
        if unknown:
            problem = f"{len(unknown)} of its {total} are not in the checkpoint ({abbreviated(unknown)})"
        family = made_for({name: factors.shape[1] for name, factors in self.modules.items()}, self.metadata)
        if family is not None and family != expected:
            return f"{self.path.name} is a LoRA for {family}, the checkpoint is {expected}: {problem}"
        if odd := [name for name in unknown if component_of_name(name, architecture) is None]:
            problem = f"the names of {len(odd)} of its {total} are not understood ({abbreviated(odd)})"
            advice = f"if it was made for {expected}, save it under the names of kohya's scripts or of diffusers"
        return f"{self.path.name} does not fit this {expected} checkpoint: {problem}; {advice}"


def delta(parts: Sequence[LoraPart], shape: Sequence[int]) -> Tensor:
    """Compute what a LoRA adds to a stored tensor at weight 1.

    Args:
        parts: of the stored tensor, from `Lora.targets`.
        shape: of the stored tensor.

    Returns:
        A new float32 tensor [shape] on the factors' device; 0 for layers of a fused projection that have no part.
    """
    if len(parts) == 1 and parts[0].view.reading == "whole":
        return _product(parts[0].factors).view(*shape)
    total = torch.zeros(*shape, device=parts[0].factors.up.device)
    for part in parts:
        view = part.view.of(total)
        view.add_(_product(part.factors).view(view.shape))
    return total


def _product(factors: Factors) -> Tensor:
    return (factors.up @ factors.down).mul_(factors.scale)


# ----------------------------------------------------------------------------------- reading


def _source(path: Path) -> Source:
    """Open a file of safetensors or torch.save, by its suffix; plain numbers in the latter may be alphas.

    Raises:
        CheckpointError: it cannot be read, is truncated, or holds code to run.
    """
    if path.suffix.lower() in TORCH_LORA_SUFFIXES:
        return without_wrappers(torch_source(path, numbers=True, wanted="a LoRA file"))
    return without_wrappers(safetensors_source(path))


def _strength_notes(strength: Strength, scales: Mapping[str, float]) -> list[str]:
    """Return a line for each place outside the tensors from which scales other than 1 were taken.

    Args:
        scales: of the modules without alpha.
    """
    changed: dict[str, list[float]] = {}
    for name, scale in scales.items():
        origin = strength.origin(name)
        if origin is not None and scale != 1:
            changed.setdefault(origin, []).append(scale)
    return [
        f"the scale of {counted(len(found), 'layer')} is {_range(found)} and comes from {origin}"
        for origin, found in changed.items()
    ]


def _range(numbers: Sequence[float]) -> str:
    """Return the least and the greatest number for messages; only one where all are equal."""
    return " to ".join(f"{number:g}" for number in sorted({min(numbers), max(numbers)}))


def _keys_by_module(infos: Mapping[str, TensorInfo], name: str) -> dict[str, dict[Role, str]]:
    """Return module -> role -> key, after checking that every key of the file belongs to a LoRA.

    Args:
        infos: the file's tensors.
        name: of the file, for messages.

    Raises:
        LoraError: it is not a plain LoRA, quantised, or incomplete.
    """
    if kind := other_kind(infos):
        raise LoraError(f"{name} is {kind}, and only plain LoRAs can be baked in: use a plain LoRA")
    if reason := quantisation(infos):
        raise LoraError(f"{name} is quantised ({reason}): use the fp16, bf16 or fp32 LoRA it was made from")
    keys: dict[str, dict[Role, str]] = {}
    unknown = []
    for key in infos:
        parsed = role_of(key)
        if parsed is None:
            unknown.append(key)
            continue
        module, role = parsed
        if role in keys.setdefault(module, {}):
            raise LoraError(
                f"{name} has {role!r} of {module} twice, as {keys[module][role]} and {key}: use another LoRA"
            )
        keys[module][role] = key
    if unknown or not keys:
        reason = f"{abbreviated(unknown)} does not belong to one" if unknown else "it has no tensors"
        raise LoraError(f"{name} is not a LoRA ({reason}): give a LoRA file")
    incomplete = [module for module, roles in keys.items() if not {"up", "down"} <= roles.keys()]
    if incomplete:
        raise LoraError(
            f"{name} lacks a factor of {counted(len(incomplete), 'layer')} ({abbreviated(incomplete)}): fetch the file "
            "again"
        )
    return keys
