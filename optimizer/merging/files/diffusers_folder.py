"""A diffusers pipeline's folder read as if it were a single checkpoint file.

The folder has `model_index.json` and one folder for each model (`unet`, `vae`, `text_encoder`, `text_encoder_2`), with
weights in one file or in shards that an index names, possibly in several precisions. Every tensor is presented under
the name, and in the shape, that Stable Diffusion's own files use, so that nothing after this module need know.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimizer.errors import CheckpointError
from optimizer.families.registry import model_families, model_family
from optimizer.merging.files.layout import THIRDS, Component, Reading, stored_part
from optimizer.merging.files.pickles import torch_source
from optimizer.merging.files.sources import Source, Stored, TensorInfo, safetensors_source, some
from search_spaces.blocks import Architecture
from search_spaces.families.registry import titles

INDEX = "model_index.json"
SCHEDULER_CONFIG = Path("scheduler", "scheduler_config.json")
VAE_CONFIG = Path("vae", "config.json")

# File names without suffix: diffusers' models, then transformers' (whose .bin files are named otherwise).
_STEMS = {".safetensors": ("diffusion_pytorch_model", "model"), ".bin": ("diffusion_pytorch_model", "pytorch_model")}
_VARIANTS = ("", ".fp16")


def diffusers_source(folder: Path) -> Source:
    """The tensors of a pipeline's folder under the names of a single file.

    A scheduler that says the model predicts v gives the marker key `v_pred`, one that rescales its betas to zero
    terminal SNR gives `ztsnr` (float32, no elements), and the schedulers of CosXL and Playground 2.5 give `edm_` keys:
    that is how single files say so.

    Raises:
        CheckpointError: no model_index.json, another kind of pipeline, or weights that are missing or damaged.
    """
    if not (folder / INDEX).is_file():
        raise CheckpointError(
            f"{folder} is a folder without {INDEX}: "
            "give a single checkpoint file, or the folder of a diffusers pipeline"
        )
    index = _json(folder / INDEX)
    parts = {
        component: _component(folder, component)
        for component, classes in _pipeline_classes().items()
        if _has(folder, index, component, classes)
    }
    if "unet" not in parts:
        raise CheckpointError(f"{folder / INDEX} names no U-Net: only pipelines of {titles('and')} can be merged")
    architecture = _architecture(parts["unet"].tensors, folder)
    tensors: dict[str, Stored] = {}
    files = [file for part in parts.values() for file in part.files]
    notes = [f"{component}/: {note}" for component, part in parts.items() for note in part.notes]
    for component, part in parts.items():
        named, unknown = _single_file_names(folder, component, part.tensors, architecture)
        tensors |= named
        if unknown:
            notes.append(f"{component}/: {len(unknown)} tensors have no place in a checkpoint: {some(unknown)}")
    markers, more = _markers(folder, index)
    if markers:
        files.append(folder / SCHEDULER_CONFIG)
    if "edm_mean" in markers:
        files.append(folder / VAE_CONFIG)
    tensors |= {marker: Stored.of(value) for marker, value in markers.items()}
    return Source(files=tuple(files), tensors=tensors, notes=(*notes, *more))


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): fetch the folder again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is damaged (expected an object in braces): fetch the folder again")
    return data


def _pipeline_classes() -> dict[Component, tuple[str, ...]]:
    """Component -> what it may be in a pipeline of any family."""
    found: dict[Component, tuple[str, ...]] = {}
    for family in model_families():
        for component, name in family.pipeline_classes.items():
            found[component] = tuple(dict.fromkeys((*found.get(component, ()), name)))
    return found


def _architecture(unet_names: Collection[str], folder: Path) -> Architecture:
    for architecture in Architecture:
        if model_family(architecture).is_pipeline(unet_names):
            return architecture
    raise CheckpointError(f"{folder / 'unet'} is of no known family: only pipelines of {titles('and')} can be merged")


def _has(folder: Path, index: Mapping[str, Any], component: Component, classes: Sequence[str]) -> bool:
    """Whether the pipeline has this model; a null entry means that it was left out on purpose."""
    entry = index.get(component)
    if entry is None or entry == [None, None]:
        return False
    if not isinstance(entry, list) or not entry or entry[-1] not in classes:
        raise CheckpointError(
            f"{folder / INDEX}: {component} is {entry!r}, expected a {' or '.join(classes)}: "
            f"only pipelines of {titles('and')} can be merged"
        )
    return True


# -------------------------------------------------------------------------------------------- weights


def _component(folder: Path, component: Component) -> Source:
    """The weights of one model: .safetensors before .bin, full precision before fp16."""
    home = folder / component
    for suffix, stems in _STEMS.items():
        for variant in _VARIANTS:
            for stem in stems:
                for found in _candidates(home, stem, variant, suffix):
                    return _read(found, suffix)
    raise CheckpointError(
        f"{folder / INDEX} names {component}, but {home} holds no weights "
        f"(expected {_STEMS['.safetensors'][component.startswith('text')]}.safetensors): fetch the folder again"
    )


def _candidates(home: Path, stem: str, variant: str, suffix: str) -> Iterator[Path]:
    names = (
        f"{stem}{variant}{suffix}",
        f"{stem}{suffix}.index{variant}.json",
        f"{stem}{variant}{suffix}.index.json",
    )
    yield from (home / name for name in names if (home / name).is_file())


def _read(path: Path, suffix: str) -> Source:
    source = safetensors_source if suffix == ".safetensors" else torch_source
    if path.suffix != ".json":
        return source(path)
    placed = _json(path).get("weight_map")
    if not isinstance(placed, dict) or not all(
        isinstance(row, str) and Path(row).name == row for row in placed.values()
    ):
        raise CheckpointError(f"{path} is damaged (its weight_map must name files beside it): fetch the folder again")
    shards = {name: path.with_name(name) for name in dict.fromkeys(placed.values())}
    absent = [name for name, shard in shards.items() if not shard.is_file()]
    if absent:
        raise CheckpointError(f"{path} names {some(absent)}, which is not there: fetch the folder again")
    read = {name: source(shard) for name, shard in shards.items()}
    missing = [key for key, name in placed.items() if key not in read[name].tensors]
    if missing:
        raise CheckpointError(
            f"{path}: its files lack {len(missing)} tensors ({some(missing)}): fetch the folder again"
        )
    return Source(
        files=(path, *shards.values()),
        tensors={key: read[name].tensors[key] for key, name in placed.items()},
        notes=tuple(dict.fromkeys(note for row in read.values() for note in row.notes)),
    )


# ---------------------------------------------------------------------------------------------- names


def _single_file_names(
    folder: Path, component: Component, tensors: Mapping[str, Stored], architecture: Architecture
) -> tuple[dict[str, Stored], list[str]]:
    """Tensors under their single-file names, and the names that have none.

    Raises:
        CheckpointError: a U-Net or VAE with parameters that no model of the family has: to leave them out would
            change what the model paints.
    """
    found: dict[str, Stored] = {}
    thirds: dict[str, dict[Reading, Stored]] = {}
    unknown = []
    for name, stored in tensors.items():
        part = stored_part(component, name, architecture, len(stored.info.shape))
        if part is None:
            unknown.append(name)
        elif part.reading in THIRDS:
            thirds.setdefault(part.key, {})[part.reading] = stored
        elif part.reading == "whole":
            found[part.key] = stored
        else:
            found[part.key] = stored.seen_as(part.shape_of(stored.info.shape), part.of)
    if unknown and component in {"unet", "vae"}:
        raise CheckpointError(
            f"{folder / component} has {len(unknown)} tensors that no {titles('or')} model has ({some(unknown)}): "
            "only plain models of these families are merged"
        )
    return found | {key: _fused(folder / component, key, rows) for key, rows in thirds.items()}, unknown


def _fused(home: Path, key: str, rows: Mapping[Reading, Stored]) -> Stored:
    """OpenCLIP's query, key and value projections one above the other, as the single file holds them."""
    infos = {row.info for row in rows.values()}
    if len(rows) != len(THIRDS) or len(infos) != 1:
        raise CheckpointError(
            f"{home}: the query, key and value projections that make up {key} "
            "are not three of one shape and dtype: fetch the folder again"
        )
    (info,) = infos
    ordered = [rows[third] for third in THIRDS]

    def read() -> Tensor:
        # Bytes are put together, because torch cannot concatenate every dtype (float8).
        raw = torch.cat([row.read().view(torch.uint8) for row in ordered])
        return raw.view(info.dtype)

    return Stored(TensorInfo(info.dtype, (len(THIRDS) * info.shape[0], *info.shape[1:])), read)


# ------------------------------------------------------------------------------------------ scheduler


def _markers(folder: Path, index: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Marker tensors that the scheduler's settings stand for, and notes.

    Raises:
        CheckpointError: the model predicts what no marker of a single file can say.
    """
    path = folder / SCHEDULER_CONFIG
    if not path.is_file():
        return {}, ("no scheduler settings: taken for a model that predicts noise (epsilon)",)
    settings = _json(path)
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
    if prediction == "flow_prediction" or name.startswith("FlowMatch"):
        notes.append(f"its scheduler ({name}) follows a flow: checkpoint files have no mark for that, none is put in")
    return markers, tuple(notes)


def _edm_markers(folder: Path, settings: Mapping[str, Any], prediction: object) -> dict[str, Tensor] | None:
    """The two kinds of EDM model that single files have marks for: CosXL's and Playground 2.5's; None for others.

    Marks and numbers as in optimizer/rendering/prediction.py: CosXL predicts v of data of deviation 1, Playground's
    data has 0.5 and its latents are shifted and scaled as its VAE's configuration says.
    """
    if prediction == "v_prediction" and settings.get("sigma_data") == 1.0:
        sigmas = {key: settings.get(key) for key in ("sigma_max", "sigma_min")}
        if all(isinstance(value, int | float) for value in sigmas.values()):
            return {f"edm_vpred.{key}": torch.tensor(value, dtype=torch.float32) for key, value in sigmas.items()}
    if prediction == "epsilon" and settings.get("sigma_data") == 0.5 and (folder / VAE_CONFIG).is_file():
        vae = _json(folder / VAE_CONFIG)
        statistics = {"edm_mean": vae.get("latents_mean"), "edm_std": vae.get("latents_std")}
        if all(_are_numbers(row) for row in statistics.values()):
            return {key: torch.tensor(row, dtype=torch.float32).view(1, -1, 1, 1) for key, row in statistics.items()}
    return None


def _are_numbers(row: object) -> bool:
    return isinstance(row, list) and len(row) > 0 and all(isinstance(value, int | float) for value in row)
