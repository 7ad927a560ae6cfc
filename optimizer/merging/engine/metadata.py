"""What a merged file says of itself: our own recipe, and what other programs read.

`sd_merge_recipe` and `sd_merge_models` as A1111 and Forge write them; `modelspec.*` after Stability AI's model metadata
standard, version 1.0. Nothing depends on when a file is written, and on where only what decides how numbers round: the
device, and a CPU's threads where a merge adds elements up. So equal merges give equal files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from optimizer.errors import ExportError
from optimizer.families.registry import model_family
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.parents import MARKERS
from studies.recipe.recipe import Recipe

RECIPE_FIELD = "mergetune.recipe"
DEVICE_FIELD = "mergetune.device"
THREADS_FIELD = "mergetune.threads"
MARKERS_FIELD = "mergetune.markers"  # which the file has, where a study says otherwise than A


def merge_metadata(
    recipe: Recipe, ingredients: Ingredients, *, title: str, prediction_type: str | None, device: torch.device
) -> dict[str, str]:
    """Header metadata of a merge.

    Args:
        title: the model's name, for people.
        prediction_type: as modelspec has it, `epsilon` or `v`; None says nothing of it.
        device: where the arithmetic is done: the same recipe gives the same bits there.
    """
    names = model_family(ingredients.parents.architecture).header
    threads = {THREADS_FIELD: str(torch.get_num_threads())} if device.type == "cpu" and _sums(recipe) else {}
    return {
        "format": "pt",
        RECIPE_FIELD: recipe.to_json(),
        DEVICE_FIELD: device.type,
        **threads,
        "sd_merge_recipe": json.dumps(_merge_recipe(recipe)),
        "sd_merge_models": json.dumps(_merge_models(ingredients, recipe)),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": names.architecture,
        "modelspec.implementation": names.implementation,
        "modelspec.title": title,
        **({} if prediction_type is None else {"modelspec.prediction_type": prediction_type}),
        "modelspec.resolution": names.resolution,
        "modelspec.merged_from": ", ".join(parent.name for parent in recipe.parents),
    }


def markers_in(metadata: Mapping[str, str]) -> frozenset[str] | None:
    """Which of `MARKERS` a file of this metadata has; None: those of parent A.

    Raises:
        ExportError: it names others.
    """
    if MARKERS_FIELD not in metadata:
        return None
    named = frozenset(metadata[MARKERS_FIELD].split())
    if not named <= MARKERS:
        wanted = ", ".join(sorted(MARKERS))
        raise ExportError(f"the metadata {MARKERS_FIELD} is {metadata[MARKERS_FIELD]!r}: expected some of {wanted}")
    return named


def _sums(recipe: Recipe) -> bool:
    """Whether elements are added up: on a CPU, the order and so the last bit depends on how many threads share that."""
    whole = any(step.operation.info.scope in {"reduction", "decomposition"} for step in recipe.steps)
    return whole or bool(recipe.loras)


def _merge_recipe(recipe: Recipe) -> dict[str, Any]:
    hashes = [parent.sha256 for parent in recipe.parents] + [None] * (3 - len(recipe.parents))
    labels = [step.operation.info.label or step.operation.method for step in recipe.steps]
    return {
        "type": "mergetune",
        "primary_model_hash": hashes[0],
        "secondary_model_hash": hashes[1],
        "tertiary_model_hash": hashes[2],
        "interp_method": ", then ".join(labels) or "No interpolation",
        "multiplier": None,  # there is no single one: see mergetune.recipe
        "save_as_half": recipe.dtype == "fp16",
        "bake_in_vae": None if recipe.vae is None else recipe.vae.name,
        "loras": [lora.name for lora in recipe.loras],
    }


def _merge_models(ingredients: Ingredients, recipe: Recipe) -> dict[str, Any]:
    """sha256 -> what is known of every model behind this one; the parents' own records are carried forward."""
    models: dict[str, Any] = {}
    for parent, checkpoint in zip(recipe.parents, ingredients.parents.checkpoints, strict=True):
        models |= _stored_json(checkpoint.metadata.get("sd_merge_models"))
        models[parent.sha256] = {
            "name": parent.name,
            "legacy_hash": checkpoint.legacy_hash,
            "sd_merge_recipe": _stored_json(checkpoint.metadata.get("sd_merge_recipe")) or None,
        }
    return models


def _stored_json(text: str | None) -> dict[str, Any]:
    try:
        data = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
