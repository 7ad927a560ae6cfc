"""Extract a LoRA from the difference of two checkpoints, and say how much of the difference it holds.

Notation: D = B - A, the difference of one layer's weight, as a matrix [out, in * height * width];
D = U diag(S) V', its singular value decomposition; r = the rank kept. The best approximation of rank r is the
truncated decomposition (Eckart and Young 1936), which holds the share sum(S[:r]^2) / sum(S^2) of D's energy.

The decomposition is taken from the eigenvectors of the smaller of DD' and D'D in float64. Squaring costs half the
digits, which leaves singular values to 1e-8 of the largest: better than a float32 decomposition of D itself, five
times as fast for the wide matrices of 3x3 convolutions, and the same on every run. A randomised decomposition
(torch.svd_lowrank) was measured and not used: differences of fine-tuned models have flat spectra, of which its usual
two iterations keep up to an eighth less energy than the best.

Both factors get sqrt(S). kohya's extraction puts S into `up` alone and clips both factors to their 0.99 quantile. The
product without clipping is the same, but entries of a small difference would underflow in float16, and clipping loses
energy: between the demo's parents, rank 32 keeps 0.74 of it instead of 0.82.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from optimizer.errors import ExportError, LoraError, ParentsDifferError
from optimizer.families.registry import model_family
from optimizer.merging.files.checkpoint import Checkpoint, component_of, is_mergeable
from optimizer.merging.files.layout import Component
from optimizer.merging.files.sources import data_hash
from optimizer.merging.lora.names import Naming, Target, name_in, targets_of
from search_spaces.blocks import UNET, VAE, Architecture, place_of, places, text_encoders

# Below this share of the largest, an eigenvalue of DD' in float64 is rounding noise, and so is its eigenvector's row.
NOISE = 1e-12


@dataclass(slots=True)
class Energy:
    """Squared differences of one place, summed."""

    total: float = 0.0  # everything in which the two checkpoints differ
    expressible: float = 0.0  # of that, weights of linear layers and convolutions
    kept: float = 0.0  # of that, what the factors reproduce

    def add(self, other: Energy) -> None:
        self.total += other.total
        self.expressible += other.expressible
        self.kept += other.kept

    @property
    def kept_share(self) -> float:
        """0..1 of the total; 1 where nothing differs."""
        return self.kept / self.total if self.total > 0 else 1.0

    @property
    def not_expressible_share(self) -> float:
        """0..1 of the total: norms, biases and embeddings, which no LoRA can hold."""
        return 1 - self.expressible / self.total if self.total > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class ExtractedLora:
    """Factors of every layer that differs, and what they hold of the difference."""

    architecture: Architecture
    base: Checkpoint  # A: what the LoRA is added to
    tuned: Checkpoint  # B: what it then resembles
    rank: int
    conv_rank: int  # of 3x3 convolutions; 0 leaves them out
    factors: Mapping[Target, tuple[Tensor, Tensor]] = field(repr=False)  # (up, down) in the layer's dimensions
    energy: Mapping[str, Energy]  # by place; VAE's is here if it differs, though no LoRA can hold it
    unchanged: int  # layers in which A and B are equal: left out
    one_sided: tuple[str, ...]  # keys that only one of the two has: left out

    @property
    def overall(self) -> Energy:
        """Over U-Net and text encoders, as far as they were asked for."""
        total = Energy()
        for place, energy in self.energy.items():
            if place != VAE:
                total.add(energy)
        return total


def extract(
    a: Checkpoint,
    b: Checkpoint,
    rank: int,
    conv_rank: int | None = None,
    *,
    device: torch.device | str = "cpu",
    components: Sequence[Component] | None = None,
    dtype: torch.dtype = torch.float16,
    progress: Callable[[int, int], None] | None = None,
) -> ExtractedLora:
    """The LoRA of a rank that brings A as near to B as one can.

    Args:
        rank: of linear layers and 1x1 convolutions; limited to what a layer's matrix has.
        conv_rank: of 3x3 convolutions; None is `rank`, 0 leaves them out.
        device: where the decompositions are computed; it must know float64.
        components: what to extract from; None: from everything but the VAE, which cannot be.
        dtype: of the factors.
        progress: called with (tensors done, tensors in all).

    Raises:
        ParentsDifferError: A and B are of different architectures or shapes.
        LoraError: no layer differs, or the difference is not finite.
    """
    conv_rank = rank if conv_rank is None else conv_rank
    keys, one_sided = _shared_keys(a, b, components or (UNET, *text_encoders(a.architecture)))
    energy: dict[str, Energy] = {place: Energy() for place in places(a.architecture)}
    factors: dict[Target, tuple[Tensor, Tensor]] = {}
    unchanged = 0
    for done, (key, difference) in enumerate(_differences(a, b, keys, device), start=1):
        row = energy[place_of(key, a.architecture)]
        row.total += _squares(difference)
        for target in targets_of(key, a.tensors[key], a.architecture):
            layer = target.view.of(difference)
            size = _squares(layer)
            row.expressible += size
            unchanged += size == 0
            limit = conv_rank if max(layer.shape[2:], default=1) > 1 else rank
            if size > 0 and limit > 0:
                factors[target] = _low_rank(layer, limit, dtype)
                row.kept += size - _squares(layer - _product(*factors[target], layer.shape))
        if progress is not None:
            progress(done, len(keys))
    if not factors:
        raise LoraError(_nothing(a, b, energy))
    return ExtractedLora(
        architecture=a.architecture,
        base=a,
        tuned=b,
        rank=rank,
        conv_rank=conv_rank,
        factors=factors,
        energy={place: row for place, row in energy.items() if row.total > 0},
        unchanged=unchanged,
        one_sided=one_sided,
    )


def _shared_keys(a: Checkpoint, b: Checkpoint, components: Sequence[Component]) -> tuple[list[str], tuple[str, ...]]:
    """Keys to compare, in A's order, and those that only one of the two has."""
    architecture = a.architecture
    if b.architecture != architecture:
        raise ParentsDifferError(
            f"{a.path.name} is {architecture}, {b.path.name} is {b.architecture}: "
            "a LoRA is extracted from two checkpoints of one family"
        )
    wanted = {*components, VAE}

    def asked(key: str, checkpoint: Checkpoint) -> bool:
        return component_of(key, architecture) in wanted and is_mergeable(key, checkpoint.tensors[key], architecture)

    keys = [key for key in a.tensors if key in b.tensors and asked(key, a)]
    for key in keys:
        if component_of(key, architecture) != VAE and not a.tensors[key].fits(b.tensors[key]):
            raise ParentsDifferError(
                f"{key} is {list(a.tensors[key].shape)} in {a.path.name} and {list(b.tensors[key].shape)} in "
                f"{b.path.name}: a LoRA is extracted from two checkpoints of the same shapes"
            )
    one_sided = a.tensors.keys() ^ b.tensors.keys()
    return keys, tuple(sorted(key for key in one_sided if asked(key, a if key in a.tensors else b)))


def _differences(
    a: Checkpoint, b: Checkpoint, keys: Sequence[str], device: torch.device | str
) -> Iterator[tuple[str, Tensor]]:
    """(key, B - A in float64 on the device, in A's shape).

    Infinity stands for what cannot be subtracted in the VAE: no LoRA holds that, so it must not stand in its way.
    """
    unlike = torch.tensor(torch.inf)
    for key in keys:
        difference = unlike
        if a.tensors[key].fits(b.tensors[key]):
            first, second = (checkpoint.tensor(key).to(device).double() for checkpoint in (a, b))
            difference = second.view(first.shape) - first
        if difference.isfinite().all():
            yield key, difference
        elif component_of(key, a.architecture) == VAE:
            yield key, unlike
        else:
            raise LoraError(f"{key} holds values that are no finite numbers in {a.path.name} or {b.path.name}")


def _squares(tensor: Tensor) -> float:
    return float(tensor.square().sum())


def _low_rank(layer: Tensor, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(up, down) of one layer: [out, r] and [r, in], or [out, r, 1, 1] and [r, in, height, width].

    Args:
        layer: float64, the difference of its weight.
    """
    up, down = _truncated(layer.flatten(1), rank)
    up, down = up.to("cpu", dtype), down.to("cpu", dtype)
    if layer.dim() == 2:
        return up.contiguous(), down.contiguous()
    return up[:, :, None, None].contiguous(), down.reshape(-1, *layer.shape[1:]).contiguous()


def _truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U sqrt(S) [out, r] and sqrt(S) V' [r, in] of a float64 matrix; components that are rounding noise are zero."""
    if matrix.shape[0] > matrix.shape[1]:
        down, up = _truncated(matrix.t(), rank)
        return up.t(), down.t()
    squared, vectors = torch.linalg.eigh(matrix @ matrix.t())  # ascending
    squared, vectors = squared.flip(0)[:rank], vectors.flip(1)[:, :rank]
    real = squared > NOISE * squared[0]
    root = torch.where(real, squared.clamp_min(0) ** 0.25, 0)
    inverse = torch.where(real, 1 / root, 0)
    return vectors * root, (vectors.t() @ matrix) * inverse[:, None]


def _product(up: Tensor, down: Tensor, shape: Sequence[int]) -> Tensor:
    return (up.flatten(1).double() @ down.flatten(1).double()).view(*shape)


def _nothing(a: Checkpoint, b: Checkpoint, energy: Mapping[str, Energy]) -> str:
    if all(row.total == 0 for row in energy.values()):
        return f"{b.path.name} does not differ from {a.path.name} in what was asked for: there is nothing to extract"
    differing = ", ".join(place for place, row in energy.items() if row.total > 0)
    return (
        f"{b.path.name} differs from {a.path.name} only in what a LoRA of these settings cannot hold ({differing}): "
        "norms, biases, embeddings, the VAE, or layers left out by a rank of 0"
    )


# ----------------------------------------------------------------------------------- writing


def write_lora(path: Path, lora: ExtractedLora, naming: Naming = "kohya", title: str | None = None) -> None:
    """Write a LoRA that A1111, Forge, ComfyUI and diffusers load to `path`, which must not be anyone's file.

    Alpha is the rank of each layer, so the product is not scaled; PEFT's naming has no alpha and means the same.
    Equal differences give equal files.

    Args:
        title: for people; None takes the file's name.

    Raises:
        ExportError: the file cannot be written.
    """
    tensors = _named(lora, naming)
    metadata = _metadata(lora, title or path.stem)
    try:
        save_file(tensors, path, metadata)
        digest = data_hash(path)  # the header does not enter it, so it can be added
        save_file(tensors, path, metadata | {"sshs_model_hash": digest, "modelspec.hash_sha256": f"0x{digest}"})
    except (SafetensorError, OSError) as error:
        raise ExportError(f"cannot write {path}: {error}; nothing was kept") from error


def _named(lora: ExtractedLora, naming: Naming) -> dict[str, Tensor]:
    named = {}
    for target, (up, down) in lora.factors.items():
        name = name_in(target, naming, lora.architecture)
        if naming == "kohya":
            named[f"{name}.lora_up.weight"] = up
            named[f"{name}.lora_down.weight"] = down
            named[f"{name}.alpha"] = torch.tensor(float(up.shape[1]), dtype=up.dtype)
        else:
            named[f"{name}.lora_B.weight"] = up
            named[f"{name}.lora_A.weight"] = down
    return named


def _metadata(lora: ExtractedLora, title: str) -> dict[str, str]:
    """What programs show of a LoRA: kohya's `ss_*`, Stability's `modelspec.*`, A1111's `sd_merge_*`."""
    base, tuned, family = lora.base, lora.tuned, model_family(lora.architecture)
    convolutions = {"conv_dim": str(lora.conv_rank), "conv_alpha": str(float(lora.conv_rank))}
    return {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": str(float(lora.rank)),
        "ss_network_args": json.dumps(convolutions if lora.conv_rank else {}),
        "ss_base_model_version": family.lora.base_model,
        "ss_sd_model_name": base.path.name,
        "ss_new_sd_model_hash": base.sha256,
        "ss_v2": "False",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{family.header.architecture}/lora",
        "modelspec.implementation": family.header.implementation,
        "modelspec.title": title,
        "modelspec.merged_from": f"{base.name}, {tuned.name}",
        "sd_merge_recipe": json.dumps(
            {
                "type": "mergetune-lora-extract",
                "primary_model_hash": base.sha256,
                "secondary_model_hash": tuned.sha256,
                "interp_method": "Extract difference",
            }
        ),
        "sd_merge_models": json.dumps(
            {
                one.sha256: {"name": one.path.name, "legacy_hash": one.legacy_hash, "sd_merge_recipe": None}
                for one in (base, tuned)
            }
        ),
        "mergetune.kept_energy": json.dumps({place: round(row.kept_share, 6) for place, row in lora.energy.items()}),
    }
