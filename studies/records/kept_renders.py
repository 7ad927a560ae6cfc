"""The renders that are kept as PNG files: what they are called, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from studies.files.artifacts import Artifacts, RenderFile
from studies.recipe.recipe import Recipe
from studies.records.origins import Origin
from studies.records.values import StoredStudy
from studies.spec.published.render_texts import merge_name, render_texts
from studies.spec.suite import SuiteItem, SuiteSettings


def render_name(number: int, label: str) -> str:
    """Return the file name of a trial's render, without its folder.

    Args:
        label: of the suite's item: see `SuiteSettings.render_labels`.
    """
    return f"trial-{number}-{label}.png"


def render_names(suite: SuiteSettings, number: int) -> tuple[str, ...]:
    """Return the file names of all renders of a trial, by item, without their folder."""
    return tuple(render_name(number, label) for label in suite.render_labels())


def final_renders(study: StoredStudy, artifacts: Artifacts, number: int) -> tuple[str, ...]:
    """Return what a trial's renders in the final are called in the store, by held-out item, stored or not."""
    files = artifacts.of_final(study.key)
    return tuple(map(files.name, render_names(study.spec.held_out, number)))


def stored_final_renders(
    study: StoredStudy, artifacts: Artifacts, numbers: Iterable[int]
) -> dict[tuple[int, int], str]:
    """Map (trial, held-out item) to the name in the store, for those of some trials' renders that are stored.

    Raises:
        ArtifactError: the store cannot be listed.
    """
    files = artifacts.of_final(study.key)
    present = files.files()
    return {
        (number, item): files.name(name)
        for number in numbers
        for item, name in enumerate(render_names(study.spec.held_out, number))
        if name in present
    }


def documented_renders(
    study: StoredStudy,
    suite: SuiteSettings,
    images: Iterable[tuple[SuiteItem, NDArray[np.uint8]]],
    *,
    number: int,
    origin: Origin,
    recipe: Recipe,
) -> list[RenderFile]:
    """Return a trial's renders as the files that are to be stored, with the texts that say what they show.

    Args:
        suite: what the items belong to: the search's or the final's.
        images: items with their pixels, [3, h, w].
        number, origin, recipe: of the trial.
    """
    names, model = render_names(suite, number), merge_name(study.name, number)
    return [
        RenderFile(file=names[item.index], pixels=pixels, texts=render_texts(item, suite, recipe, model, origin.parent))
        for item, pixels in images
    ]
