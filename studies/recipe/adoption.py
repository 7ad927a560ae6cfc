"""Adopt recipes from elsewhere: turn them into recipes over the files of a study.

A file is identified by its content; its name and its letter may differ.
"""

from __future__ import annotations

from dataclasses import replace

from studies.errors import RecipeError
from studies.recipe.blueprint import Blueprint, NumbersByPlace
from studies.recipe.recipe import RESULT, BakedVae, LoraUse, Recipe, Step, refuse_other_draws


def adopt(recipe: Recipe, blueprint: Blueprint) -> Recipe:
    """Return the same merge over the blueprint's files, in its dtype.

    Tensors that the merge does not touch come from the blueprint's parent A, as in all of its merges. LoRAs of the
    blueprint that the recipe does not have get the weight 0.

    Raises:
        RecipeError: it has another architecture, a file that the blueprint does not have, or random numbers of another
            version.
    """
    if recipe.architecture != blueprint.architecture:
        raise RecipeError(f"it merges {recipe.architecture} checkpoints, the study's are {blueprint.architecture}")
    refuse_other_draws(recipe.random_operations)
    letters = _letters(recipe, blueprint)
    loras = _loras(recipe, blueprint)
    if not recipe.steps and not loras:
        return replace(blueprint.parent_alone(letters["A"]), vae=_vae(recipe, blueprint))
    steps = tuple(_renamed(step, letters) for step in recipe.steps) or blueprint.parent_alone(letters["A"]).steps
    return Recipe(
        architecture=recipe.architecture,
        parents=blueprint.parents,
        steps=steps,
        loras=loras,
        vae=_vae(recipe, blueprint),
        dtype=blueprint.dtype,
    )


def _letters(recipe: Recipe, blueprint: Blueprint) -> dict[str, str]:
    """Map the recipe's letters to the blueprint's; among equal files, the same letter is preferred."""
    letters: dict[str, str] = {}
    for parent in recipe.parents:
        same = [other.letter for other in blueprint.parents if other.sha256 == parent.sha256]
        free = [letter for letter in same if letter not in letters.values()]
        if not free:
            known = ", ".join(f"{other.letter} ({other.name})" for other in blueprint.parents)
            raise RecipeError(f"its parent {parent.letter} ({parent.name}) is none of the study's parents: {known}")
        letters[parent.letter] = parent.letter if parent.letter in free else free[0]
    return letters


def _renamed(step: Step, letters: dict[str, str]) -> Step:
    inputs = tuple(name if name.startswith(RESULT) else letters[name] for name in step.operation.inputs)
    return replace(step, operation=replace(step.operation, inputs=inputs))


def _loras(recipe: Recipe, blueprint: Blueprint) -> tuple[LoraUse, ...]:
    """Return the LoRAs in the blueprint's order, as the executors expect them; none at all if the recipe has none."""
    weights = {lora.sha256: lora.weights for lora in recipe.loras}
    known = {lora.sha256 for lora in blueprint.loras}
    unknown = [lora.name for lora in recipe.loras if lora.sha256 not in known]
    if unknown or len(weights) < len(recipe.loras):
        raise RecipeError(
            f"it bakes the LoRA {unknown[0]}, which the study does not have: name it under `loras`"
            if unknown
            else "it bakes one LoRA twice: add up its weights"
        )
    if not weights:
        return ()
    zeros = tuple((place, 0.0) for place, _ in recipe.loras[0].weights)
    return tuple(
        LoraUse(name=lora.name, sha256=lora.sha256, weights=weights.get(lora.sha256, zeros)) for lora in blueprint.loras
    )


def _vae(recipe: Recipe, blueprint: Blueprint) -> BakedVae | None:
    if recipe.vae is None:
        return blueprint.vae if blueprint.only_vae else None
    if blueprint.vae is None or blueprint.vae.sha256 != recipe.vae.sha256:
        raise RecipeError(f"it bakes the VAE {recipe.vae.name}, which the study does not have: name it under `vae`")
    return blueprint.vae


def numbers_of(recipe: Recipe, blueprint: Blueprint) -> NumbersByPlace | None:
    """Return the numbers with which the blueprint makes an adopted recipe; None if its methods or VAE differ."""
    if tuple(step.operation for step in recipe.steps) != blueprint.operations or recipe.vae != blueprint.vae:
        return None
    steps = [step.by_place for step in recipe.steps]
    loras = [lora.by_place for lora in recipe.loras]
    return {
        place: (
            *(value for step in steps for value in step[place]),
            *((lora[place] for lora in loras) if loras else (0.0 for _ in blueprint.loras)),
        )
        for place in steps[0]
    }
