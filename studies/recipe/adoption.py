"""Recipes that were made elsewhere, as recipes over the files of a study.

A file is known by its content: what it is called, and which letter it has, may differ.
"""

from __future__ import annotations

from dataclasses import replace

from studies.errors import RecipeError
from studies.recipe.blueprint import Blueprint, Rows
from studies.recipe.recipe import RESULT, BakedVae, LoraUse, Recipe, Step


def adopted(recipe: Recipe, blueprint: Blueprint) -> Recipe:
    """The same merge over the blueprint's files, in its dtype.

    What a merge does not touch stays parent A's, and that is the blueprint's A, as in all of its merges. LoRAs that the
    blueprint has and the recipe has not weigh nothing.

    Raises:
        RecipeError: another architecture, or a file that the blueprint does not have.
    """
    if recipe.architecture != blueprint.architecture:
        raise RecipeError(f"it merges {recipe.architecture} checkpoints, the study's are {blueprint.architecture}")
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
    """The recipe's letter of a parent -> the blueprint's; of equal files the one of the same letter."""
    found: dict[str, str] = {}
    for parent in recipe.parents:
        same = [row.letter for row in blueprint.parents if row.sha256 == parent.sha256]
        free = [letter for letter in same if letter not in found.values()]
        if not free:
            known = ", ".join(f"{row.letter} ({row.name})" for row in blueprint.parents)
            raise RecipeError(f"its parent {parent.letter} ({parent.name}) is none of the study's parents: {known}")
        found[parent.letter] = parent.letter if parent.letter in free else free[0]
    return found


def _renamed(step: Step, letters: dict[str, str]) -> Step:
    inputs = tuple(name if name.startswith(RESULT) else letters[name] for name in step.operation.inputs)
    return replace(step, operation=replace(step.operation, inputs=inputs))


def _loras(recipe: Recipe, blueprint: Blueprint) -> tuple[LoraUse, ...]:
    """In the blueprint's order, as the executors have them; none at all where the recipe has none."""
    weights = {lora.sha256: lora.weights for lora in recipe.loras}
    unknown = [lora.name for lora in recipe.loras if lora.sha256 not in {row.sha256 for row in blueprint.loras}]
    if unknown or len(weights) < len(recipe.loras):
        raise RecipeError(
            f"it bakes the LoRA {unknown[0]}, which the study does not have: name it under `loras`"
            if unknown
            else "it bakes one LoRA twice: add up its weights"
        )
    if not weights:
        return ()
    nothing = tuple((place, 0.0) for place, _ in recipe.loras[0].weights)
    return tuple(
        LoraUse(name=row.name, sha256=row.sha256, weights=weights.get(row.sha256, nothing)) for row in blueprint.loras
    )


def _vae(recipe: Recipe, blueprint: Blueprint) -> BakedVae | None:
    if recipe.vae is None:
        return blueprint.vae if blueprint.only_vae else None
    if blueprint.vae is None or blueprint.vae.sha256 != recipe.vae.sha256:
        raise RecipeError(f"it bakes the VAE {recipe.vae.name}, which the study does not have: name it under `vae`")
    return blueprint.vae


def rows_of(recipe: Recipe, blueprint: Blueprint) -> Rows | None:
    """The numbers with which the blueprint gives an adopted recipe; None where none do: another method, another VAE."""
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
