"""The texts in the files of kept renders: every program's reader, and ours, gets back what was rendered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search_spaces.blocks import Architecture, places
from studies.files.artifacts import Artifacts, RenderFile
from studies.recipe.recipe import BakedVae, Operation, Parent, Recipe, Step, canonical_values
from studies.records.kept_renders import render_name
from studies.spec.published.files import read_published
from studies.spec.published.render_texts import RECIPE, merge_name, model_names, render_texts
from studies.spec.published.suites import prompt_settings
from studies.spec.suite import SuiteSettings

SUITE = SuiteSettings.model_validate(
    {
        "prompts": ["a (red:1.2) lion,\nbig", {"prompt": "a fox", "seeds": [7], "sizes": [[64, 128], [128, 64]]}],
        "negative": "dark",
        "seeds": [1, 4294967297],
        "sizes": [64],
    }
)
PARENTS = (Parent(letter="A", name="cats, v2: final", sha256="ab" * 32), Parent(letter="B", name="b", sha256="cd" * 32))


def recipe_of(ratio: float, vae: BakedVae | None = None) -> Recipe:
    values = canonical_values(dict.fromkeys(places(Architecture.SD15), (ratio,)))
    step = Step(operation=Operation(method="weighted_sum", inputs=("A", "B")), values=values)
    return Recipe(architecture="sd15", parents=PARENTS, steps=(step,), vae=vae)


def test_every_picture_of_a_suite_has_a_name_that_says_what_it_shows() -> None:
    assert SUITE.render_labels() == (
        "prompt-01-seed-1",
        "prompt-01-seed-4294967297",
        "prompt-02-seed-7-64x128",
        "prompt-02-seed-7-128x64",
    )
    assert render_name(12, SUITE.render_labels()[0]) == "trial-12-prompt-01-seed-1.png"


def test_a_stored_render_gives_back_its_settings_and_its_recipe(tmp_path: Path) -> None:
    recipe = recipe_of(0.3)
    files = Artifacts.beside("", tmp_path).of_trial("key", 12, "w")
    renders = [
        RenderFile(
            file=render_name(12, label),
            pixels=np.full((3, item.height, item.width), 9, np.uint8),
            texts=render_texts(item, SUITE, recipe, merge_name("cats", 12), None),
        )
        for label, item in zip(SUITE.render_labels(), SUITE.items(), strict=True)
    ]
    for name, item in zip(files.save_renders(renders), SUITE.items(), strict=True):
        found = read_published(tmp_path / name)
        assert found.notes == ()
        again = SuiteSettings.model_validate({**SUITE.model_dump(), "prompts": [prompt_settings(found)]}).items()[0]
        assert (again.prompt, again.negative, again.seed, again.width, again.height, again.sampling) == (
            item.prompt, item.negative, item.seed, item.width, item.height, item.sampling,
        )  # fmt: skip
        with Image.open(tmp_path / name) as picture:
            assert Recipe.from_json(picture.info[RECIPE]) == recipe
            assert f"Model: cats-trial-12, Recipe hash: {recipe.digest[:10]}" in picture.info["parameters"]
            assert "Model hash" not in picture.info["parameters"]


@pytest.mark.parametrize(("letter", "ratio"), [("A", 0.0), ("B", 1.0)])
def test_a_parent_is_named_as_its_file_with_the_hash_by_which_others_find_it(letter: str, ratio: float) -> None:
    file = next(parent for parent in PARENTS if parent.letter == letter)
    names = model_names(recipe_of(ratio), "cats-trial-0", letter)
    assert (names.name, names.sha256, names.recipe) == (file.name, file.sha256[:10], None)


def test_a_parent_with_another_vae_is_no_longer_its_file() -> None:
    recipe = recipe_of(0.0, BakedVae(name="v", sha256="ef" * 32))
    names = model_names(recipe, "cats-trial-0", "A")
    assert (names.name, names.sha256, names.recipe) == ("cats-trial-0", None, recipe.digest[:10])
