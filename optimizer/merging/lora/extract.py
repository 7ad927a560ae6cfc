"""Extract a LoRA from the difference of two checkpoints, and measure how much of the difference it holds.

Notation: D = B - A, the difference of one layer's weight, as a matrix [out, in * height * width];
D = U diag(S) V', its singular value decomposition; r = the rank kept. The best approximation of rank r is the
truncated decomposition (Eckart and Young 1936), which holds the share sum(S[:r]^2) / sum(S^2) of D's energy.

The decomposition is computed from the eigenvectors of the smaller of DD' and D'D in float64. Squaring costs half the
digits, so singular values are accurate to 1e-8 of the largest. That is better than a float32 decomposition of D itself,
five times as fast for the wide matrices of 3x3 convolutions, and the same on every run. A randomised decomposition
(torch.svd_lowrank) was measured and rejected: differences of fine-tuned models have flat spectra, and its usual two
iterations keep up to an eighth less energy than the best approximation.

Both factors get sqrt(S). kohya's extraction multiplies S into `up` alone and clips both factors to their 0.99 quantile.
Without clipping the product would be the same, but elements of a small difference would underflow in float16. Clipping
loses energy: between the demo's parents, rank 32 keeps 0.74 of it instead of 0.82.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from basics.files import open_to_write
from optimizer.errors import ExportError, LoraError, ParentsDifferError
from optimizer.families.registry import model_family
from optimizer.merging.files.checkpoint import Checkpoint, component_of, is_mergeable
from optimizer.merging.files.health import is_finite
from optimizer.merging.files.layout import Component
from optimizer.merging.lora.names import Naming, Target, name_in, targets_of
from search_spaces.blocks import UNET, VAE, Architecture, place_of, places, text_encoders

# Below this share of the largest, an eigenvalue of DD' in float64 is rounding noise, and so is its eigenvector.
NOISE = 1e-12


@dataclass(slots=True)
class Energy:
    """Sums of squared differences in one place."""

    total: float = 0.0  # over all tensors
    expressible: float = 0.0  # over weights of linear layers and convolutions
    kept: float = 0.0  # the part of `expressible` that the factors reproduce
    rounded: float = 0.0  # the part of `expressible` that the factors lose by their dtype, not by their rank

    def add(self, other: Energy) -> None:
        """Add another place's energy to this one's."""
        self.total += other.total
        self.expressible += other.expressible
        self.kept += other.kept
        self.rounded += other.rounded

    @property
    def kept_share(self) -> float:
        """Share of the total that the factors reproduce, 0..1; 1 where nothing differs."""
        return self.kept / self.total if self.total > 0 else 1.0

    @property
    def rounded_share(self) -> float:
        """Share of the total, 0..1, that the factors lose by their dtype."""
        return self.rounded / self.total if self.total > 0 else 0.0

    @property
    def not_expressible_share(self) -> float:
        """Share of the total, 0..1, in norms, biases and embeddings, which no LoRA can hold."""
        return 1 - self.expressible / self.total if self.total > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class ExtractedLora:
    """The factors of every layer that differs, and the energy they hold."""

    architecture: Architecture
    base: Checkpoint  # A, to which the LoRA is added
    tuned: Checkpoint  # B, which the result approximates
    rank: int
    conv_rank: int  # of 3x3 convolutions; 0 leaves them out
    factors: Mapping[Target, tuple[Tensor, Tensor]] = field(repr=False)  # (up, down) in the layer's dimensions
    energy: Mapping[str, Energy]  # by place; including the VAE's if it differs, though no LoRA can hold it
    unchanged: int  # number of layers left out because A and B are equal there
    one_sided: tuple[str, ...]  # keys left out because only one of the two has them

    @property
    def overall(self) -> Energy:
        """Energy over the U-Net and text encoders from which the LoRA was extracted."""
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
    """Extract the LoRA of a given rank that brings A as close to B as possible.

    Args:
        rank: of linear layers and 1x1 convolutions; limited by the rank of a layer's matrix.
        conv_rank: of 3x3 convolutions; None is `rank`, 0 leaves them out.
        device: where the decompositions are computed; it must support float64.
        components: to extract from; None: all but the VAE, which no LoRA can change.
        dtype: of the factors.
        progress: called with (tensors done, tensors in all).

    Raises:
        ParentsDifferError: architectures or shapes of A and B differ.
        LoraError: no layer differs, or the difference is not finite.
    """
    conv_rank = rank if conv_rank is None else conv_rank
    keys, one_sided = _shared_keys(a, b, components or (UNET, *text_encoders(a.architecture)))
    energy: dict[str, Energy] = {place: Energy() for place in places(a.architecture)}
    factors: dict[Target, tuple[Tensor, Tensor]] = {}
    unchanged = 0
    for done, (key, difference) in enumerate(_differences(a, b, keys, device), start=1):
        place_energy = energy[place_of(key, a.architecture)]
        place_energy.total += _sum_of_squares(difference)
        for target in targets_of(key, a.tensors[key], a.architecture):
            layer = target.view.of(difference)
            layer_energy = _sum_of_squares(layer)
            place_energy.expressible += layer_energy
            unchanged += layer_energy == 0
            layer_rank = conv_rank if max(layer.shape[2:], default=1) > 1 else rank
            if layer_energy > 0 and layer_rank > 0:
                exact = _truncated(layer.flatten(1), layer_rank)
                factors[target] = _stored(*exact, layer.shape, dtype)
                product = _product(*factors[target], layer.shape).to(layer.device)
                kept = layer_energy - _sum_of_squares(layer - product)
                place_energy.kept += kept
                place_energy.rounded += max(0.0, _energy(*exact) - kept)
        if progress is not None:
            progress(done, len(keys))
    if not factors:
        raise LoraError(_nothing_to_extract(a, b, energy))
    return ExtractedLora(
        architecture=a.architecture,
        base=a,
        tuned=b,
        rank=rank,
        conv_rank=conv_rank,
        factors=factors,
        energy={place: of_place for place, of_place in energy.items() if of_place.total > 0},
        unchanged=unchanged,
        one_sided=one_sided,
    )


def _shared_keys(a: Checkpoint, b: Checkpoint, components: Sequence[Component]) -> tuple[list[str], tuple[str, ...]]:
    """Return the keys to compare, in A's order, and those that only one of the two has.

    Raises:
        ParentsDifferError: architectures or shapes of A and B differ.
    """
    architecture = a.architecture
    if b.architecture != architecture:
        raise ParentsDifferError(
            f"{a.path.name} is {architecture}, {b.path.name} is {b.architecture}: "
            "a LoRA is extracted from two checkpoints of one family"
        )
    compared_components = {*components, VAE}

    def is_compared(key: str, checkpoint: Checkpoint) -> bool:
        return component_of(key, architecture) in compared_components and is_mergeable(
            key, checkpoint.tensors[key], architecture
        )

    keys = [key for key in a.tensors if key in b.tensors and is_compared(key, a)]
    for key in keys:
        if component_of(key, architecture) != VAE and not a.tensors[key].fits(b.tensors[key]):
            raise ParentsDifferError(
                f"{key} is {list(a.tensors[key].shape)} in {a.path.name} and {list(b.tensors[key].shape)} in "
                f"{b.path.name}: a LoRA is extracted from two checkpoints of the same shapes"
            )
    one_sided = a.tensors.keys() ^ b.tensors.keys()
    return keys, tuple(sorted(key for key in one_sided if is_compared(key, a if key in a.tensors else b)))


def _differences(
    a: Checkpoint, b: Checkpoint, keys: Sequence[str], device: torch.device | str
) -> Iterator[tuple[str, Tensor]]:
    """Yield (key, B - A in float64 on the device, in A's shape).

    Tensors of the VAE that cannot be subtracted give an infinite scalar: no LoRA holds the VAE, so its shapes and
    values must not prevent the extraction.

    Raises:
        LoraError: a difference outside the VAE is not finite.
    """
    infinite = torch.tensor(torch.inf)
    for key in keys:
        difference = infinite
        if a.tensors[key].fits(b.tensors[key]):
            first, second = (checkpoint.tensor(key).to(device).double() for checkpoint in (a, b))
            difference = second.view(first.shape) - first
        if difference.isfinite().all():
            yield key, difference
        elif component_of(key, a.architecture) == VAE:
            yield key, infinite
        else:
            broken = [checkpoint.path.name for checkpoint in (a, b) if not is_finite(checkpoint.tensor(key))]
            raise LoraError(
                f"{key} holds values that are not finite numbers in {' and in '.join(broken)}: fetch that file again, "
                "or use another checkpoint"
            )


def _sum_of_squares(tensor: Tensor) -> float:
    return float(tensor.square().sum())


def _stored(up: Tensor, down: Tensor, shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return float64 factors as the file has them: [out, r] and [r, in], or [out, r, 1, 1] and [r, in, height, width].

    Args:
        shape: of the layer's weight.
    """
    up, down = up.to("cpu", dtype), down.to("cpu", dtype)
    if len(shape) == 2:
        return up.contiguous(), down.contiguous()
    return up[:, :, None, None].contiguous(), down.reshape(-1, *shape[1:]).contiguous()


def _energy(up: Tensor, down: Tensor) -> float:
    """Compute the sum of squares of up @ down, whose columns and rows are orthogonal: sum(S^2)."""
    return float((up.square().sum(0) * down.square().sum(1)).sum())


def _truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Compute U sqrt(S) [out, r] and sqrt(S) V' [r, in] of a float64 matrix; rounding noise is set to zero."""
    if matrix.shape[0] > matrix.shape[1]:
        down, up = _truncated(matrix.t(), rank)
        return up.t(), down.t()
    squared, vectors = torch.linalg.eigh(matrix @ matrix.t())  # ascending
    squared, vectors = squared.flip(0)[:rank], vectors.flip(1)[:, :rank]
    significant = squared > NOISE * squared[0]
    root = torch.where(significant, squared.clamp_min(0) ** 0.25, 0)
    inverse = torch.where(significant, 1 / root, 0)
    return vectors * root, (vectors.t() @ matrix) * inverse[:, None]


def _product(up: Tensor, down: Tensor, shape: Sequence[int]) -> Tensor:
    return (up.flatten(1).double() @ down.flatten(1).double()).view(*shape)


def _nothing_to_extract(a: Checkpoint, b: Checkpoint, energy: Mapping[str, Energy]) -> str:
    if all(of_place.total == 0 for of_place in energy.values()):
        return (
            f"{b.path.name} does not differ from {a.path.name} in these components: there is nothing to extract; name "
            "others, or another checkpoint"
        )
    differing = ", ".join(place for place, of_place in energy.items() if of_place.total > 0)
    return (
        f"{b.path.name} differs from {a.path.name} only in what a LoRA of these settings cannot hold ({differing}): "
        "norms, biases, embeddings, the VAE, or layers left out by a rank of 0"
    )


# ----------------------------------------------------------------------------------- writing


def write_lora(path: Path, lora: ExtractedLora, naming: Naming = "kohya", title: str | None = None) -> None:
    """Write a LoRA that A1111, Forge, ComfyUI and diffusers load to `path`, which is overwritten.

    Alpha is the rank of each layer, so the product is not scaled. PEFT's naming has no alpha, with the same effect.
    Equal differences give equal files.

    Args:
        title: display name; None takes the file's name.

    Raises:
        ExportError: the file cannot be written.
    """
    tensors = _file_tensors(lora, naming)
    metadata = _metadata(lora, title or path.stem)
    digest = _data_hash(save(tensors, metadata))  # it does not cover the header, to which it is added
    content = save(tensors, metadata | {"sshs_model_hash": digest, "modelspec.hash_sha256": f"0x{digest}"})
    try:
        with open_to_write(path) as file:
            file.write(content)
    except OSError as error:
        raise ExportError(
            f"cannot write {path}: {error}; nothing was kept: give a path that can be written to"
        ) from error


def _data_hash(content: bytes) -> str:
    """Return the sha256 of the data in a .safetensors file's content, 64 hex digits."""
    header_bytes = struct.unpack_from("<Q", content)[0]
    return hashlib.sha256(memoryview(content)[8 + header_bytes :]).hexdigest()


def _file_tensors(lora: ExtractedLora, naming: Naming) -> dict[str, Tensor]:
    tensors = {}
    for target, (up, down) in lora.factors.items():
        name = name_in(target, naming, lora.architecture)
        if naming == "kohya":
            tensors[f"{name}.lora_up.weight"] = up
            tensors[f"{name}.lora_down.weight"] = down
            tensors[f"{name}.alpha"] = torch.tensor(float(up.shape[1]), dtype=up.dtype)
        else:
            tensors[f"{name}.lora_B.weight"] = up
            tensors[f"{name}.lora_A.weight"] = down
    return tensors


def _metadata(lora: ExtractedLora, title: str) -> dict[str, str]:
    """Return the header that programs show: kohya's `ss_*`, Stability's `modelspec.*`, A1111's `sd_merge_*`."""
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
                model.sha256: {"name": model.path.name, "legacy_hash": model.legacy_hash, "sd_merge_recipe": None}
                for model in (base, tuned)
            }
        ),
        "mergetune.kept_energy": json.dumps(
            {place: round(energy.kept_share, 6) for place, energy in lora.energy.items()}
        ),
    }
