"""The texts in the file of a render that is kept: what it was made with, for people, other programs and ourselves."""

from __future__ import annotations

from typing import Final

from studies.recipe.recipe import Recipe
from studies.spec.published.infotext import ModelNames, write_infotext
from studies.spec.suite import SuiteItem, SuiteSettings

PARAMETERS: Final = "parameters"  # A1111's keyword
RECIPE: Final = "mergetune.recipe"  # as in the header of an exported file
SHOWN_DIGITS: Final = 10  # of a hash, as A1111 shows it


def render_texts(
    item: SuiteItem, suite: SuiteSettings, recipe: Recipe, name: str, parent: str | None
) -> dict[str, str]:
    """Return the texts of a render, by their keywords.

    Args:
        suite: what the item belongs to.
        recipe: of the merge that it shows.
        name: of that merge as a model.
        parent: the letter of the parent that it is; None for every other merge.
    """
    return {
        PARAMETERS: write_infotext(item, suite, model_names(recipe, name, parent)),
        RECIPE: recipe.to_json(),
    }


def model_names(recipe: Recipe, name: str, parent: str | None) -> ModelNames:
    """Return the model of a render: a parent is its file; a merge has no file yet, so no hash but its recipe's."""
    if parent is not None and recipe.vae is None and recipe.dtype is None:
        file = next(each for each in recipe.parents if each.letter == parent)
        return ModelNames(name=file.name, sha256=file.sha256[:SHOWN_DIGITS])
    return ModelNames(name=name, recipe=recipe.digest[:SHOWN_DIGITS])


def merge_name(study: str, number: int) -> str:
    """Return what a trial's merge is called: as the file to which `mergetune export` writes it."""
    return f"{study}-trial-{number}"
