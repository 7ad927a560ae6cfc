"""The recipe file of a cell's merge, with which `mergetune merge` makes it."""

from __future__ import annotations

from collections.abc import Callable

from optimizer.runtime.plan import Plan
from studies.recipe.file import RecipePaths, recipe_text
from studies.recipe.recipe import Recipe


def recipe_writer(plan: Plan) -> Callable[[Recipe], str]:
    """Return a function that writes the recipe file of a merge of a plan's files, with the paths of this machine."""
    spec = plan.spec
    parents = dict(zip(spec.letters, spec.parents, strict=True))

    def written(recipe: Recipe) -> str:
        paths = RecipePaths(
            parents=parents,
            loras=[lora.path for lora in spec.loras.values()] if recipe.loras else [],
            vae=spec.vae,
        )
        return recipe_text(recipe, paths, f"a cell of a plot of {spec.study}")

    return written
