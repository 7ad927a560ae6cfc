"""Header metadata of a merged file: our own recipe, and the fields that other programs read.

`sd_merge_recipe` and `sd_merge_models` are as A1111 and Forge write them; `modelspec.*` follows Stability AI's model
metadata standard, version 1.0. Equal merges give equal files: nothing depends on the time of writing. Of the machine
only what decides how numbers round is recorded: the device, and the number of CPU threads where a merge sums elements.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from basics.foreign import parse_json
from optimizer.errors import ExportError
from optimizer.families.registry import model_family
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.parents import MARKERS
from studies.recipe.recipe import Recipe

RECIPE_FIELD = "mergetune.recipe"
DEVICE_FIELD = "mergetune.device"
THREADS_FIELD = "mergetune.threads"
HISTORY_FIELD = "mergetune.history"  # what was left out of the merge history, for people
MODELS_FIELD = "sd_merge_models"
MARKERS_FIELD = "mergetune.markers"  # the file's markers, where a study overrides those of A


def merge_metadata(
    recipe: Recipe, ingredients: Ingredients, *, title: str, prediction: Mapping[str, str], device: torch.device
) -> dict[str, str]:
    """Return the header metadata of a merge.

    Args:
        title: the model's display name.
        prediction: fields that say what the model predicts.
        device: where the arithmetic is done; the same recipe gives the same bits there.
    """
    names = model_family(ingredients.parents.architecture).header
    threads = {THREADS_FIELD: str(torch.get_num_threads())} if device.type == "cpu" and _sums(recipe) else {}
    return {
        "format": "pt",
        RECIPE_FIELD: recipe.to_json(),
        DEVICE_FIELD: device.type,
        **threads,
        "sd_merge_recipe": json.dumps(_merge_recipe(recipe)),
        MODELS_FIELD: json.dumps(_merge_models(ingredients, recipe)),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": names.architecture,
        "modelspec.implementation": names.implementation,
        "modelspec.title": title,
        **prediction,
        "modelspec.resolution": names.resolution,
        "modelspec.merged_from": ", ".join(parent.name for parent in recipe.parents),
    }


def shorter_histories(metadata: Mapping[str, str]) -> Iterator[tuple[Mapping[str, str], str]]:
    """Yield (header metadata, what is left out of it): with all history, with that of the parents, with their names."""
    yield metadata, ""
    recipe = Recipe.from_json(metadata[RECIPE_FIELD])
    models = _stored_json(metadata.get(MODELS_FIELD))
    parents = {parent.sha256: models[parent.sha256] for parent in recipe.parents if parent.sha256 in models}
    note = "the models behind the parents are left out of the merge history"
    yield {**metadata, MODELS_FIELD: json.dumps(parents), HISTORY_FIELD: note}, note
    parents = {sha256: {**record, "sd_merge_recipe": None} for sha256, record in parents.items()}
    note = "the models behind the parents, and how these were merged, are left out of the merge history"
    yield {**metadata, MODELS_FIELD: json.dumps(parents), HISTORY_FIELD: note}, note


def markers_in(metadata: Mapping[str, str]) -> frozenset[str] | None:
    """Return which of `MARKERS` a file with this metadata has; None: those of parent A.

    Raises:
        ExportError: the metadata names other markers.
    """
    if MARKERS_FIELD not in metadata:
        return None
    markers = frozenset(metadata[MARKERS_FIELD].split())
    if not markers <= MARKERS:
        expected = ", ".join(sorted(MARKERS))
        raise ExportError(f"the metadata {MARKERS_FIELD} is {metadata[MARKERS_FIELD]!r}: expected some of {expected}")
    return markers


def _sums(recipe: Recipe) -> bool:
    """Return whether the merge sums elements: on a CPU the order, and so the last bit, depends on the thread count."""
    reduces = any(step.operation.info.scope in {"reduction", "decomposition"} for step in recipe.steps)
    return reduces or bool(recipe.loras)


def _merge_recipe(recipe: Recipe) -> dict[str, Any]:
    hashes = [parent.sha256 for parent in recipe.parents] + [None] * (3 - len(recipe.parents))
    labels = [step.operation.info.label or step.operation.method for step in recipe.steps]
    return {
        "type": "mergetune",
        "primary_model_hash": hashes[0],
        "secondary_model_hash": hashes[1],
        "tertiary_model_hash": hashes[2],
        "interp_method": ", then ".join(labels) or "No interpolation",
        "multiplier": None,  # no single number describes the merge: see mergetune.recipe
        "save_as_half": recipe.dtype == "fp16",
        "bake_in_vae": None if recipe.vae is None else recipe.vae.name,
        "loras": [lora.name for lora in recipe.loras],
    }


def _merge_models(ingredients: Ingredients, recipe: Recipe) -> dict[str, Any]:
    """Return sha256 -> record of every model behind this one; the parents' own records are carried forward."""
    models: dict[str, Any] = {}
    for parent, checkpoint in zip(recipe.parents, ingredients.parents.checkpoints, strict=True):
        models |= _stored_json(checkpoint.metadata.get(MODELS_FIELD))
        models[parent.sha256] = {
            "name": parent.name,
            "legacy_hash": checkpoint.legacy_hash,
            "sd_merge_recipe": _stored_json(checkpoint.metadata.get("sd_merge_recipe")) or None,
        }
    return models


def _stored_json(text: str | None) -> dict[str, Any]:
    try:
        data = parse_json(text or "{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
