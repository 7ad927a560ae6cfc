"""Reading a diffusers pipeline's folder as if it were a single checkpoint file.

The folder has `model_index.json` and one folder for each model (`unet`, `vae`, `text_encoder`, `text_encoder_2`), with
weights in one file or in shards listed by an index, possibly in several precisions. Every tensor gets the name and
shape that it has in the family's single-file checkpoints, so no other module needs to know about folders.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.families.registry import model_families, model_family
from optimizer.families.stable_diffusion import NOISE_SCHEDULE
from optimizer.merging.files.layout import Component, stored_part
from optimizer.merging.files.names import DIFFUSERS_INDEX
from optimizer.merging.files.pickles import torch_source
from optimizer.merging.files.prefixes import without_wrappers
from optimizer.merging.files.quantised import refuse_quantised
from optimizer.merging.files.settings import read_settings, refuse_differing, require_assumed
from optimizer.merging.files.single_file import in_single_file
from optimizer.merging.files.sources import Source, Stored, abbreviated, safetensors_source
from search_spaces.blocks import Architecture
from search_spaces.families.registry import titles

SCHEDULER_CONFIG = Path("scheduler", "scheduler_config.json")
_STATISTICS = ("latents_mean", "latents_std", "scaling_factor")  # of latents; the markers of Playground 2.5 say them
VAE_CONFIG = Path("vae", "config.json")
PREDICTION_FIELD = "modelspec.prediction_type"
SHIFT_FIELD = "mergetune.shift"  # of a flow's noise levels; no other program has a name for it in files

# File names without suffix: of diffusers' models, then of transformers' (whose .bin files have another name).
_STEMS = {".safetensors": ("diffusion_pytorch_model", "model"), ".bin": ("diffusion_pytorch_model", "pytorch_model")}
_VARIANTS = ("", ".fp16")  # in the order in which they are looked for; others are read if there is only one
_SHARD = re.compile(r"-\d+-of-\d+$")


def diffusers_source(folder: Path) -> Source:
    """Open a pipeline's folder, with its tensors under single-file names.

    The scheduler's settings become the marker keys of single files: `v_pred` if the model predicts v, `ztsnr` if betas
    are rescaled to zero terminal SNR (both float32 without elements), and `edm_` keys for the schedulers of CosXL and
    Playground 2.5. A model that follows a flow has no marker, but the metadata `modelspec.prediction_type`, and its
    scheduler's shift as `mergetune.shift`.

    Raises:
        CheckpointError: no model_index.json, another kind of pipeline, weights that are missing or damaged, or settings
            that no checkpoint file can hold.
    """
    if not (folder / DIFFUSERS_INDEX).is_file():
        raise CheckpointError(
            f"{folder} is a folder without {DIFFUSERS_INDEX}: "
            "give a single checkpoint file, or the folder of a diffusers pipeline"
        )
    index = read_settings(folder / DIFFUSERS_INDEX)
    parts = {
        component: _open_component(folder, component)
        for component, classes in _pipeline_classes().items()
        if _has_component(folder, index, component, classes)
    }
    if "unet" not in parts:
        kind = index.get("_class_name")
        pipeline = f" (it is a {kind})" if isinstance(kind, str) else ""
        raise CheckpointError(
            f"{folder / DIFFUSERS_INDEX} names no U-Net{pipeline}: only pipelines of {titles('and')} can be merged"
        )
    architecture = _architecture(parts["unet"].tensors, folder)
    tensors: dict[str, Stored] = {}
    files = [file for part in parts.values() for file in part.files]
    notes = [f"{component}/: {note}" for component, part in parts.items() for note in part.notes]
    markers, scheduler_notes, metadata = _markers(folder, index, architecture)
    applied = _STATISTICS if "edm_mean" in markers else ()
    for component, part in parts.items():
        named, unknown = _single_file_names(folder, component, part.tensors, architecture)
        shapes = {key: stored.info.shape for key, stored in named.items()}
        require_assumed(folder / component / "config.json", component, architecture, shapes, applied)
        tensors |= named
        if unknown:
            notes.append(f"{component}/: {len(unknown)} tensors have no place in a checkpoint: {abbreviated(unknown)}")
    if markers or metadata:
        files.append(folder / SCHEDULER_CONFIG)
    if "edm_mean" in markers:
        files.append(folder / VAE_CONFIG)
    tensors |= {marker: Stored.of(value) for marker, value in markers.items()}
    return Source(files=tuple(files), tensors=tensors, metadata=metadata, notes=(*notes, *scheduler_notes))


def _pipeline_classes() -> dict[Component, tuple[str, ...]]:
    """Return component -> the classes that it may have in a pipeline of any family."""
    classes: dict[Component, tuple[str, ...]] = {}
    for family in model_families():
        for component, name in family.pipeline_classes.items():
            classes[component] = tuple(dict.fromkeys((*classes.get(component, ()), name)))
    return classes


def _architecture(unet_names: Collection[str], folder: Path) -> Architecture:
    """Recognise a pipeline's family by its U-Net's parameter names.

    Raises:
        CheckpointError: they are those of no known family.
    """
    for architecture in Architecture:
        if model_family(architecture).is_pipeline(unet_names):
            return architecture
    raise CheckpointError(f"{folder / 'unet'} is of no known family: only pipelines of {titles('and')} can be merged")


def _has_component(folder: Path, index: Mapping[str, Any], component: Component, classes: Sequence[str]) -> bool:
    """Return whether the pipeline has this component; a null entry means that it was left out on purpose.

    Raises:
        CheckpointError: it is there with an unknown class.
    """
    entry = index.get(component)
    if entry is None or entry == [None, None]:
        return False
    if not isinstance(entry, list) or not entry or entry[-1] not in classes:
        raise CheckpointError(
            f"{folder / DIFFUSERS_INDEX}: {component} is {entry!r}, expected a {' or '.join(classes)}: "
            f"only pipelines of {titles('and')} can be merged"
        )
    return True


# -------------------------------------------------------------------------------------------- weights


def _open_component(folder: Path, component: Component) -> Source:
    """Open the weights of one component: .safetensors before .bin, full precision before fp16 before other variants.

    Raises:
        CheckpointError: there are none, only several variants of which none is usual, or they are damaged or quantised.
    """
    subfolder = folder / component
    path, suffix, variant = _weights(folder, component, subfolder)
    source = without_wrappers(_open_weights(path, suffix))
    # here, because tensors of unknown names, such as scales, are left out later
    refuse_quantised({name: stored.info for name, stored in source.tensors.items()}, str(subfolder))
    if not variant:
        return source
    return replace(source, notes=(f"only the variant {variant} is there: {path.name} is read", *source.notes))


def _weights(folder: Path, component: Component, subfolder: Path) -> tuple[Path, str, str]:
    """Return a component's file or index of weights, the suffix of the weights, and their variant ("" for none).

    Raises:
        CheckpointError: see `_open_component`.
    """
    for suffix, stems in _STEMS.items():
        for variant in _VARIANTS:
            for stem in stems:
                for path in _weight_files(subfolder, stem, variant, suffix):
                    return path, suffix, variant.removeprefix(".")
    for suffix, stems in _STEMS.items():
        variants = {variant: stem for stem in stems for variant in _other_variants(subfolder, stem, suffix)}
        if len(variants) > 1:
            raise CheckpointError(
                f"{subfolder} holds several variants of the weights ({', '.join(sorted(variants))}) and none without a "
                f"variant's name: keep one of them there, or rename it to {next(iter(variants.values()))}{suffix}"
            )
        for variant, stem in variants.items():
            return next(_weight_files(subfolder, stem, f".{variant}", suffix)), suffix, variant
    others = sorted(path.name for path in subfolder.iterdir()) if subfolder.is_dir() else []
    found = f"there are: {abbreviated(others)}" if others else "the folder is empty or missing"
    expected = f"{_STEMS['.safetensors'][component.startswith('text')]}.safetensors"
    raise CheckpointError(
        f"{folder / DIFFUSERS_INDEX} names {component}, but {subfolder} holds no weights (expected {expected}; "
        f"{found}): fetch the folder again"
    )


def _weight_files(subfolder: Path, stem: str, variant: str, suffix: str) -> Iterator[Path]:
    names = (
        f"{stem}{variant}{suffix}",
        f"{stem}{suffix}.index{variant}.json",
        f"{stem}{variant}{suffix}.index.json",
    )
    yield from (subfolder / name for name in names if (subfolder / name).is_file())


def _other_variants(subfolder: Path, stem: str, suffix: str) -> list[str]:
    """Return the variants (bf16, non_ema, ...) of which a folder has the weights, or the index of their shards."""
    patterns = [
        re.compile(rf"{re.escape(stem)}\.([\w.-]+){re.escape(suffix)}(?:\.index\.json)?"),
        re.compile(rf"{re.escape(stem + suffix)}\.index\.([\w.-]+)\.json"),
    ]
    names = [path.name for path in subfolder.iterdir()] if subfolder.is_dir() else []
    found = [match[1] for name in sorted(names) for pattern in patterns if (match := pattern.fullmatch(name))]
    return [variant for variant in dict.fromkeys(found) if not _SHARD.search(variant)]


def _open_weights(path: Path, suffix: str) -> Source:
    """Open a weights file, or the shards that an index (.json) lists.

    Args:
        suffix: of the weights.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    source = safetensors_source if suffix == ".safetensors" else torch_source
    if path.suffix != ".json":
        return source(path)
    weight_map = read_settings(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in weight_map.values()
    ):
        raise CheckpointError(f"{path} is damaged (its weight_map must name files beside it): fetch the folder again")
    paths = {name: path.with_name(name) for name in dict.fromkeys(weight_map.values())}
    absent = [name for name, shard in paths.items() if not shard.is_file()]
    if absent:
        raise CheckpointError(f"{path} names {abbreviated(absent)}, which is not there: fetch the folder again")
    shards = {name: source(shard) for name, shard in paths.items()}
    missing = [key for key, name in weight_map.items() if key not in shards[name].tensors]
    if missing:
        raise CheckpointError(
            f"{path}: its files lack {len(missing)} tensors ({abbreviated(missing)}): fetch the folder again"
        )
    return Source(
        files=(path, *paths.values()),
        tensors={key: shards[name].tensors[key] for key, name in weight_map.items()},
        notes=tuple(dict.fromkeys(note for shard in shards.values() for note in shard.notes)),
    )


# ---------------------------------------------------------------------------------------------- names


def _single_file_names(
    folder: Path, component: Component, tensors: Mapping[str, Stored], architecture: Architecture
) -> tuple[dict[str, Stored], list[str]]:
    """Return a component's tensors under their single-file names, and the names of tensors that have none.

    Raises:
        CheckpointError: a U-Net or VAE has parameters that no model of the family has: leaving them out would change
            the images.
    """
    places = {
        name: stored_part(component, name, architecture, len(stored.info.shape)) for name, stored in tensors.items()
    }
    unknown = [name for name, part in places.items() if part is None]
    if unknown and component in {"unet", "vae"}:
        raise CheckpointError(
            f"{folder / component} has {len(unknown)} tensors that no {titles('or')} model has "
            f"({abbreviated(unknown)}): only plain models of these families can be merged"
        )
    parts = [(part, tensors[name]) for name, part in places.items() if part is not None]
    return in_single_file(parts, folder / component), unknown


# ------------------------------------------------------------------------------------------ scheduler


def _markers(
    folder: Path, index: Mapping[str, Any], architecture: Architecture
) -> tuple[dict[str, Tensor], tuple[str, ...], dict[str, str]]:
    """Return the marker tensors that express the scheduler's settings, notes, and metadata.

    Raises:
        CheckpointError: no marker of single files can express what the model predicts, or its noise is another than the
            family's.
    """
    path = folder / SCHEDULER_CONFIG
    if not path.is_file():
        return {}, ("no scheduler settings: the model is assumed to predict noise (epsilon)",), {}
    settings = read_settings(path)
    name = str(settings.get("_class_name") or (index.get("scheduler") or [""])[-1])
    prediction = settings.get("prediction_type", "epsilon")
    markers: dict[str, Tensor] | None = {}
    if name.startswith("EDM"):
        markers = _edm_markers(folder, settings, prediction)
    elif prediction == "v_prediction":
        markers = {"v_pred": torch.zeros(0)}
    elif prediction not in {"epsilon", "flow_prediction"}:
        markers = None
    if markers is None:
        raise CheckpointError(
            f"{path}: a model of scheduler {name} that predicts {prediction} cannot be read from a folder; "
            "give its single-file checkpoint"
        )
    if settings.get("rescale_betas_zero_snr") is True:
        markers["ztsnr"] = torch.zeros(0)
    notes = [f"{', '.join(markers)} read from {SCHEDULER_CONFIG.as_posix()}"] if markers else []
    if prediction == "flow_prediction" or name.startswith("FlowMatch") or settings.get("use_flow_sigmas") is True:
        shift = _shift(settings)
        told = "" if shift is None else f" with shift {shift:g}"
        notes.append(f"its scheduler ({name}) follows a flow{told}: checkpoint files say so in their metadata only")
        marked = {} if shift is None else {SHIFT_FIELD: str(shift)}
        return markers, tuple(notes), {PREDICTION_FIELD: "flow", **marked}
    if not name.startswith("EDM"):
        refuse_differing(path, settings, {**NOISE_SCHEDULE, "trained_betas": None}, architecture)
    return markers, tuple(notes), {}


def _shift(settings: Mapping[str, Any]) -> float | None:
    """Return the shift of a scheduler that follows a flow; None where it says none, or one for each image size."""
    shift = settings.get("shift", settings.get("flow_shift"))
    is_number = isinstance(shift, int | float) and not isinstance(shift, bool)
    return shift if is_number and settings.get("use_dynamic_shifting") is not True else None


def _edm_markers(folder: Path, settings: Mapping[str, Any], prediction: object) -> dict[str, Tensor] | None:
    """Return the markers of an EDM model: CosXL's or Playground 2.5's; None for others, which have no markers.

    Keys and values as in optimizer/rendering/prediction.py. CosXL predicts v, for data with a standard deviation of 1.
    Playground's data has 0.5, and its VAE's configuration gives the mean and deviation of its latents.
    """
    if prediction == "v_prediction" and settings.get("sigma_data") == 1.0:
        sigmas = {key: settings.get(key) for key in ("sigma_max", "sigma_min")}
        if all(isinstance(value, int | float) for value in sigmas.values()):
            return {f"edm_vpred.{key}": torch.tensor(value, dtype=torch.float32) for key, value in sigmas.items()}
    if prediction == "epsilon" and settings.get("sigma_data") == 0.5 and (folder / VAE_CONFIG).is_file():
        vae = read_settings(folder / VAE_CONFIG)
        statistics = {"edm_mean": vae.get("latents_mean"), "edm_std": vae.get("latents_std")}
        if all(_are_numbers(values) for values in statistics.values()):
            return {
                key: torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for key, values in statistics.items()
            }
    return None


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and len(values) > 0 and all(isinstance(value, int | float) for value in values)
