"""Read a LoRA file, and compute what it adds to the weights of a checkpoint.

A LoRA holds, for a layer of weight W [out, in], two factors of rank r: the layer becomes

    W + weight * (alpha / r) * up @ down        up [out, r], down [r, in]

A convolution's kernel belongs to `in`: down is [r, in * height * width] flattened. With a third factor `mid`
[r, r, height, width] (CP or Tucker decomposition, LyCORIS), down [r, in] is first mixed by it.
Sources: Hu et al. 2021 (arXiv:2106.09685); kohya's sd-scripts and LyCORIS for convolutions and names.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from basics.files import sha256_of
from optimizer.errors import LoraError
from optimizer.merging.files.layout import LiveView
from optimizer.merging.files.sources import TensorInfo, read_header
from optimizer.merging.lora.names import Role, Target, address_book, made_for, other_kind, role_of
from search_spaces.blocks import Architecture, place_of, places
from search_spaces.families.registry import family_of

_PATTERN = re.compile(r"[\w.\\|^$-]*(\.\*[\w.\\|^$-]*){0,2}")
ADAPTER_METADATA = "lora_adapter_metadata"  # diffusers 0.34 and later: PEFT's configurations as JSON


@dataclass(frozen=True, slots=True)
class Factors:
    """One layer's low-rank product: scale * up @ down is the change of its weight."""

    up: Tensor  # float32 [out, rank]
    down: Tensor  # float32 [rank, in * height * width]
    shape: tuple[int, ...]  # of the product: [out, in] or [out, in, height, width]; a 1x1 kernel counts as none
    scale: float  # alpha / rank


@dataclass(frozen=True, slots=True)
class LoraPart:
    """One layer's change, and where in the stored tensor that layer lies."""

    view: LiveView
    factors: Factors


@dataclass(frozen=True, eq=False)
class Lora:
    """An opened LoRA: the factors of every layer, in float32."""

    path: Path
    metadata: Mapping[str, str]
    modules: Mapping[str, Factors] = field(repr=False)  # by the file's names, without suffix and PEFT's prefix

    @classmethod
    def open(cls, path: Path) -> Lora:
        """Read a whole file.

        Raises:
            LoraError: it is missing, no LoRA, another kind of adapter, or incomplete.
            CheckpointError: it is not safetensors, or cut off.
        """
        if not path.is_file():
            raise LoraError(f"no LoRA at {path}: give the path of a .safetensors file")
        infos, metadata = read_header(path)
        grouped = _grouped(infos, path.name)
        configuration = _adapter_configuration(metadata, path.name)
        try:
            with safe_open(path, framework="pt") as file:
                modules = {
                    name: _factors(
                        {role: file.get_tensor(key) for role, key in roles.items()},
                        _configured_scale(name, configuration, path.name),
                        f"{path.name}: {name}",
                    )
                    for name, roles in grouped.items()
                }
        except (SafetensorError, OSError) as error:
            raise LoraError(f"{path} cannot be read as safetensors ({error}): fetch it again") from error
        return cls(path=path, metadata=metadata, modules=modules)

    @property
    def name(self) -> str:
        """File name without folder and suffix."""
        return self.path.stem

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole file, 64 hex digits."""
        return sha256_of(self.path)

    def to(self, device: torch.device | str) -> Lora:
        """The same LoRA with its factors on a device."""
        moved = {
            name: replace(factors, up=factors.up.to(device), down=factors.down.to(device))
            for name, factors in self.modules.items()
        }
        other = replace(self, modules=moved)
        if "sha256" in self.__dict__:  # the file is read for it only once
            other.__dict__["sha256"] = self.sha256
        return other

    def targets(
        self, tensors: Mapping[str, TensorInfo], architecture: Architecture
    ) -> Mapping[str, tuple[LoraPart, ...]]:
        """Key of every stored tensor that this LoRA changes -> its parts, in the tensors' order.

        Args:
            tensors: the checkpoint's, by their keys in the single-file layout.

        Raises:
            LoraError: a name addresses nothing in the checkpoint, two names the same layer, or a shape differs.
        """
        book = address_book(tensors, architecture)
        addressed: dict[Target, Factors] = {}
        unknown, misshapen = [], []
        for name, factors in self.modules.items():
            target = book.get(name)
            if target is None:
                unknown.append(name)
            elif factors.shape != _kernel_free(target.shape):
                misshapen.append(f"{name} is {_by(factors.shape)}, the checkpoint's is {_by(target.shape)}")
            elif target in addressed:
                raise LoraError(f"{self.path.name} has the layer {target.module} twice, under different names")
            else:
                addressed[target] = factors
        if unknown or misshapen:
            raise LoraError(self._misfit(unknown, misshapen, family_of(architecture).title))
        found: dict[str, tuple[LoraPart, ...]] = dict.fromkeys(tensors, ())
        for target, factors in addressed.items():
            found[target.key] += (LoraPart(target.view, factors),)
        return {key: parts for key, parts in found.items() if parts}

    def places(self, tensors: Mapping[str, TensorInfo], architecture: Architecture) -> tuple[str, ...]:
        """The blocks and text encoders this LoRA changes, in the order of `places`. Raises as `targets` does."""
        touched = {place_of(key, architecture) for key in self.targets(tensors, architecture)}
        return tuple(place for place in places(architecture) if place in touched)

    def _misfit(self, unknown: Sequence[str], misshapen: Sequence[str], wanted: str) -> str:
        total = len(self.modules)
        problem = (
            f"{len(unknown)} of its {total} layers are not in the checkpoint ({_some(unknown)})"
            if unknown
            else f"{len(misshapen)} of its {total} layers have another shape ({_some(misshapen)})"
        )
        family = made_for({name: factors.shape[1] for name, factors in self.modules.items()}, self.metadata)
        if family is not None and family != wanted:
            return f"{self.path.name} is a LoRA for {family}, the checkpoint is {wanted}: {problem}"
        return f"{self.path.name} does not fit this {wanted} checkpoint: {problem}; use a LoRA made for this model"


def delta(parts: Sequence[LoraPart], shape: Sequence[int]) -> Tensor:
    """What parts add to a stored tensor at weight 1.

    Args:
        parts: of one stored tensor, as `Lora.targets` has them.
        shape: of the stored tensor.

    Returns:
        float32 [shape] on the factors' device, a new tensor. Layers of a fused projection that no part is for get 0.
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


def _grouped(infos: Mapping[str, TensorInfo], name: str) -> dict[str, dict[Role, str]]:
    """Module -> role -> key, with every key of the file accounted for."""
    if kind := other_kind(infos):
        raise LoraError(f"{name} is {kind}, and only plain LoRAs can be baked")
    grouped: dict[str, dict[Role, str]] = {}
    strange = []
    for key, info in infos.items():
        found = role_of(key)
        if found is None:
            strange.append(key)
            continue
        module, role = found
        if role in grouped.setdefault(module, {}):
            raise LoraError(f"{name} has {role!r} of {module} twice: {grouped[module][role]} and {key}")
        if not info.dtype.is_floating_point and role != "alpha":
            raise LoraError(f"{name}: {key} holds {info.dtype}, expected floating point numbers")
        grouped[module][role] = key
    if strange or not grouped:
        raise LoraError(f"{name} is not a LoRA: {_some(strange) or 'no tensors'} is no part of one")
    broken = [module for module, roles in grouped.items() if not {"up", "down"} <= roles.keys()]
    if broken:
        raise LoraError(f"{name} lacks a factor of {len(broken)} layers ({_some(broken)}): fetch the file again")
    return grouped


def _factors(tensors: Mapping[Role, Tensor], configured: _Scale, where: str) -> Factors:
    """Check one module's tensors and bring them into the plain form."""
    up, down = tensors["up"].float(), tensors["down"].float()
    mid = tensors["mid"].float() if "mid" in tensors else None
    _check_shapes(up, down, mid, where)
    rank = down.shape[0]
    kernel = tuple((down if mid is None else mid).shape[2:])
    if mid is not None:  # a 1x1 convolution, then the mid one: composed, that is one convolution [rank, in, h, w]
        down = torch.einsum("rshw,si->rihw", mid, down.flatten(1))
    scale = _scale(tensors.get("alpha"), rank, configured)
    if not (math.isfinite(scale) and bool(up.isfinite().all()) and bool(down.isfinite().all())):
        raise LoraError(f"{where} has values that are no finite numbers: the file is broken, fetch it again")
    shape = _kernel_free((up.shape[0], tensors["down"].shape[1], *kernel))
    return Factors(up.flatten(1).contiguous(), down.flatten(1).contiguous(), shape, scale)


def _check_shapes(up: Tensor, down: Tensor, mid: Tensor | None, where: str) -> None:
    """Matrices, or convolutions of which only the first has a kernel (with `mid`: only that)."""
    pointwise = [up] if mid is None else [up, down]
    ranks = {up.shape[1:2], down.shape[0:1]} | (set() if mid is None else {mid.shape[0:1], mid.shape[1:2]})
    fits = (
        all(tensor.dim() in {2, 4} for tensor in (up, down))
        and (mid is None or mid.dim() == 4)
        and all(set(tensor.shape[2:]) <= {1} for tensor in pointwise)
        and len(ranks) == 1
        and down.shape[0] > 0
    )
    if not fits:
        shapes = " and ".join(_by(tensor.shape) for tensor in (up, down, mid) if tensor is not None)
        raise LoraError(f"{where}: factors of shape {shapes} do not make a layer; fetch the file again")


@dataclass(frozen=True, slots=True)
class _Scale:
    """What a file's header says of one module's scale; PEFT keeps it out of the tensors."""

    alpha: float | None = None
    rank_stabilised: bool = False  # alpha / sqrt(rank), Kalajdzievski 2023 (arXiv:2312.03732)


def _scale(alpha: Tensor | None, rank: int, configured: _Scale) -> float:
    if alpha is not None:
        return float(alpha.flatten()[0]) / rank if alpha.numel() == 1 else math.nan
    if configured.alpha is None:
        return 1.0
    return configured.alpha / (math.sqrt(rank) if configured.rank_stabilised else rank)


def _adapter_configuration(metadata: Mapping[str, str], name: str) -> Mapping[str, Any]:
    """PEFT's settings as diffusers stores them: `unet.lora_alpha`, `text_encoder.alpha_pattern` and so on."""
    try:
        stored = json.loads(metadata.get(ADAPTER_METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise LoraError(f"{name}: its header's {ADAPTER_METADATA} is not JSON; fetch the file again") from error
    if not isinstance(stored, dict):
        raise LoraError(f"{name}: its header's {ADAPTER_METADATA} is no table of settings; fetch the file again")
    return stored


def _configured_scale(name: str, configuration: Mapping[str, Any], where: str) -> _Scale:
    """Raises LoraError for settings that are none."""
    component, _, module = name.partition(".")
    alpha = configuration.get(f"{component}.lora_alpha")
    if alpha is None:
        return _Scale()
    patterns = configuration.get(f"{component}.alpha_pattern") or {}
    try:
        own = next((value for pattern, value in patterns.items() if _names(pattern, module)), alpha)
        return _Scale(float(own), bool(configuration.get(f"{component}.use_rslora")))
    except (ValueError, TypeError, AttributeError, OverflowError, re.error) as error:
        raise LoraError(
            f"{where}: its header's {ADAPTER_METADATA} is damaged ({error}); fetch the file again"
        ) from error


def _names(pattern: str, module: str) -> bool:
    """Whether one of PEFT's patterns, which are regular expressions, names a module.

    Raises:
        ValueError: a pattern that is more than names and two gaps: a file could name one that takes for ever.
    """
    if not _PATTERN.fullmatch(pattern):
        msg = f"the pattern {pattern!r} is not understood"
        raise ValueError(msg)
    return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None


def _kernel_free(shape: Sequence[int]) -> tuple[int, ...]:
    """A 1x1 convolution and a linear layer are the same to a LoRA, and programs take one for the other."""
    return tuple(shape[:2]) if set(shape[2:]) <= {1} else tuple(shape)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
