"""Read a LoRA file, and compute what it adds to the weights of a checkpoint.

For a layer with weight W [out, in], a LoRA holds two factors of rank r. The layer becomes

    W + weight * (alpha / r) * up @ down        up [out, r], down [r, in]

For a convolution, `in` includes the kernel: down is flattened to [r, in * height * width]. A third factor `mid`
[r, r, height, width] (CP or Tucker decomposition, LyCORIS) is composed with down [r, in] first.
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
from optimizer.merging.files.quantised import quantisation
from optimizer.merging.files.sources import TensorInfo, abbreviated, read_header
from optimizer.merging.lora.names import (
    Role,
    Target,
    components_without_layers,
    made_for,
    other_kind,
    role_of,
    targets_by_name,
)
from search_spaces.blocks import Architecture, place_of, places
from search_spaces.families.registry import family_of

_PATTERN = re.compile(r"[\w.\\|^$-]*(\.\*[\w.\\|^$-]*){0,2}")
ADAPTER_METADATA = "lora_adapter_metadata"  # diffusers 0.34 and later: PEFT's configurations as JSON


@dataclass(frozen=True, slots=True)
class Factors:
    """The low-rank factors of one layer: its weight changes by scale * up @ down."""

    up: Tensor  # float32 [out, rank]
    down: Tensor  # float32 [rank, in * height * width]
    shape: tuple[int, ...]  # of the product: [out, in] or [out, in, height, width]; without a 1x1 kernel
    scale: float  # alpha / rank


@dataclass(frozen=True, slots=True)
class LoraPart:
    """The factors of one layer, and the layer's position in the stored tensor."""

    view: LiveView
    factors: Factors


@dataclass(frozen=True, eq=False)
class Lora:
    """An opened LoRA: the factors of every layer, in float32."""

    path: Path
    metadata: Mapping[str, str]
    modules: Mapping[str, Factors] = field(repr=False)  # by the file's names, without suffix or PEFT's prefix

    @classmethod
    def open(cls, path: Path) -> Lora:
        """Read a whole file into memory.

        Raises:
            LoraError: it is missing, not a LoRA, another kind of adapter, quantised, or incomplete.
            CheckpointError: it is not safetensors, or truncated.
        """
        if not path.is_file():
            raise LoraError(f"no LoRA at {path}: give the path of a .safetensors file")
        infos, metadata = read_header(path)
        keys_by_module = _keys_by_module(infos, path.name)
        configuration = _adapter_configuration(metadata, path.name)
        try:
            with safe_open(path, framework="pt") as file:
                modules = {
                    name: _factors(
                        {role: file.get_tensor(key) for role, key in roles.items()},
                        _configured_scale(name, configuration, path.name),
                        f"{path.name}: {name}",
                    )
                    for name, roles in keys_by_module.items()
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
            elif factors.shape != _without_1x1_kernel(target.shape):
                misshapen.append(f"{name} is {_by(factors.shape)}, the checkpoint's is {_by(target.shape)}")
            elif target in factors_by_target:
                raise LoraError(
                    f"{self.path.name} has the layer {target.module} twice, under different names: use another LoRA"
                )
            else:
                factors_by_target[target] = factors
        if absent := components_without_layers(unknown, tensors, architecture):
            raise LoraError(
                f"{self.path.name} changes {' and '.join(absent)} in {len(unknown)} of its {len(self.modules)} layers, "
                "and the checkpoint has none: give a full checkpoint, or a LoRA of the U-Net alone"
            )
        if unknown or misshapen:
            raise LoraError(self._misfit(unknown, misshapen, family_of(architecture).title))
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

    def _misfit(self, unknown: Sequence[str], misshapen: Sequence[str], expected: str) -> str:
        """Return the message for a LoRA whose layers do not fit a checkpoint of the `expected` family."""
        total = len(self.modules)
        problem = (
            f"{len(unknown)} of its {total} layers are not in the checkpoint ({abbreviated(unknown)})"
            if unknown
            else f"{len(misshapen)} of its {total} layers have another shape ({abbreviated(misshapen)})"
        )
        family = made_for({name: factors.shape[1] for name, factors in self.modules.items()}, self.metadata)
        if family is not None and family != expected:
            return f"{self.path.name} is a LoRA for {family}, the checkpoint is {expected}: {problem}"
        return f"{self.path.name} does not fit this {expected} checkpoint: {problem}; use a LoRA made for this model"


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
            f"{name} lacks a factor of {len(incomplete)} layers ({abbreviated(incomplete)}): fetch the file again"
        )
    return keys


def _factors(tensors: Mapping[Role, Tensor], configured: _Scale, where: str) -> Factors:
    """Check one module's tensors, and compose them into two factors.

    Args:
        configured: the scale that the file's header gives, for a module without alpha.
        where: file and module, for messages.

    Raises:
        LoraError: shapes do not fit, or values are not finite.
    """
    up, down = tensors["up"].float(), tensors["down"].float()
    mid = tensors["mid"].float() if "mid" in tensors else None
    _check_shapes(up, down, mid, where)
    rank = down.shape[0]
    kernel = tuple((down if mid is None else mid).shape[2:])
    if mid is not None:  # a 1x1 convolution followed by `mid`: composed, one convolution [rank, in, h, w]
        down = torch.einsum("rshw,si->rihw", mid, down.flatten(1))
    scale = _scale(tensors.get("alpha"), rank, configured)
    if not (math.isfinite(scale) and bool(up.isfinite().all()) and bool(down.isfinite().all())):
        raise LoraError(f"{where} holds values that are not finite numbers: fetch the file again")
    shape = _without_1x1_kernel((up.shape[0], tensors["down"].shape[1], *kernel))
    return Factors(up.flatten(1).contiguous(), down.flatten(1).contiguous(), shape, scale)


def _check_shapes(up: Tensor, down: Tensor, mid: Tensor | None, where: str) -> None:
    """Require matrices, or convolutions of which only `down` has a kernel (with `mid`: only `mid`).

    Raises:
        LoraError: the shapes are others.
    """
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
    """The scale settings of one module in a file's header, where PEFT stores them instead of in tensors."""

    alpha: float | None = None
    rank_stabilised: bool = False  # alpha / sqrt(rank), Kalajdzievski 2023 (arXiv:2312.03732)


def _scale(alpha: Tensor | None, rank: int, configured: _Scale) -> float:
    """Return the factor of the product: from the file's alpha if there is one, else from the header's settings."""
    if alpha is not None:
        return float(alpha.flatten()[0]) / rank if alpha.numel() == 1 else math.nan
    if configured.alpha is None:
        return 1.0
    return configured.alpha / (math.sqrt(rank) if configured.rank_stabilised else rank)


def _adapter_configuration(metadata: Mapping[str, str], name: str) -> Mapping[str, Any]:
    """Read PEFT's settings as diffusers stores them: `unet.lora_alpha`, `text_encoder.alpha_pattern` and so on.

    Raises:
        LoraError: they are not a JSON object.
    """
    try:
        stored = json.loads(metadata.get(ADAPTER_METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise LoraError(f"{name}: its header's {ADAPTER_METADATA} is not JSON; fetch the file again") from error
    if not isinstance(stored, dict):
        raise LoraError(f"{name}: its header's {ADAPTER_METADATA} is not a JSON object; fetch the file again")
    return stored


def _configured_scale(name: str, configuration: Mapping[str, Any], where: str) -> _Scale:
    """Return the scale settings of a module.

    Args:
        name: of the module, with its component.
        configuration: from `_adapter_configuration`.
        where: the file's name, for messages.

    Raises:
        LoraError: the settings are damaged.
    """
    component, _, module = name.partition(".")
    alpha = configuration.get(f"{component}.lora_alpha")
    if alpha is None:
        return _Scale()
    patterns = configuration.get(f"{component}.alpha_pattern") or {}
    try:
        own_alpha = next((value for pattern, value in patterns.items() if _matches(pattern, module)), alpha)
        return _Scale(float(own_alpha), bool(configuration.get(f"{component}.use_rslora")))
    except (ValueError, TypeError, AttributeError, OverflowError, re.error) as error:
        raise LoraError(
            f"{where}: its header's {ADAPTER_METADATA} is damaged ({error}); fetch the file again"
        ) from error


def _matches(pattern: str, module: str) -> bool:
    """Return whether one of PEFT's patterns, which are regular expressions, matches a module's name.

    Raises:
        ValueError: the pattern is more than names with at most two `.*`; a file could give one that matches endlessly.
    """
    if not _PATTERN.fullmatch(pattern):
        msg = f"the pattern {pattern!r} is not supported"
        raise ValueError(msg)
    return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None


def _without_1x1_kernel(shape: Sequence[int]) -> tuple[int, ...]:
    """Drop a 1x1 kernel: to a LoRA such a convolution is a linear layer, and programs store it as either."""
    return tuple(shape[:2]) if set(shape[2:]) <= {1} else tuple(shape)


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
