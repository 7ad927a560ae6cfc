"""Recipe files among the probes: read once, when the study begins, and stored with its spec.

Files are those of the study: by their sha256 where the recipe names it, else by their path, or, where the recipe comes
from another machine and nothing lies at its path, by their name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.merging.files.checkpoint import model_name
from search_spaces.blocks import Architecture
from studies.errors import RecipeError
from studies.recipe.adoption import adopt
from studies.recipe.blueprint import Blueprint
from studies.recipe.file import FileEntry, RecipeFile, load_recipe_file
from studies.recipe.recipe import BakedVae, Parent, Recipe
from studies.spec.search import RecipeProbe
from studies.spec.study import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFile:
    """A file of the study."""

    path: Path
    name: str
    sha256: str


def check_recipe_files(spec: StudySpec, architecture: Architecture) -> None:
    """What can be said of the recipe files before the study's own files are hashed.

    Raises:
        RecipeError: missing, misspelt, or numbers that are not allowed.
    """
    for entry in spec.probes.recipes:
        if entry.recipe is None:
            file = load_recipe_file(entry.path)
            try:
                file.chain(architecture)
                file.lora_weights(architecture)
            except RecipeError as error:
                raise _told(entry, error) from error


def with_recipes(spec: StudySpec, blueprint: Blueprint) -> StudySpec:
    """The spec with the recipe of every file that was not read yet.

    Raises:
        RecipeError: a recipe file cannot be read, or merges something other than the study's files.
    """
    recipes = tuple(
        row if row.recipe is not None else row.model_copy(update={"recipe": _read(row, spec, blueprint)})
        for row in spec.probes.recipes
    )
    return spec.model_copy(update={"probes": spec.probes.model_copy(update={"recipes": recipes})})


def _read(entry: RecipeProbe, spec: StudySpec, blueprint: Blueprint) -> str:
    file = load_recipe_file(entry.path)
    try:
        if file.dtype not in {None, blueprint.dtype}:
            raise RecipeError(
                f"it saves in {file.dtype}, the study in {blueprint.dtype or 'the dtypes of parent A'}: leave `dtype` "
                "out, or set the study's `export`"
            )
        return adopt(_recipe(file, spec, blueprint), blueprint).to_json()
    except RecipeError as error:
        raise _told(entry, error) from error


def _told(entry: RecipeProbe, error: RecipeError) -> RecipeError:
    return RecipeError(f"probes, recipe {entry.path.name}: {error}")


def _recipe(file: RecipeFile, spec: StudySpec, blueprint: Blueprint) -> Recipe:
    """The file's recipe with the hashes of the study's files."""
    parents = [
        KnownFile(path=path, name=parent.name, sha256=parent.sha256)
        for path, parent in zip(spec.parents, blueprint.parents, strict=True)
    ]
    loras = [
        KnownFile(path=lora.path, name=known.name, sha256=known.sha256)
        for lora, known in zip(spec.loras.values(), blueprint.loras, strict=True)
    ]
    vaes = (
        [KnownFile(path=spec.vae, name=blueprint.vae.name, sha256=blueprint.vae.sha256)]
        if spec.vae is not None and blueprint.vae is not None
        else []
    )
    found = {letter: _known(f"parent {letter}", each, parents) for letter, each in file.parents.items()}
    weighed = [_known("the LoRA", each, loras) for each in file.loras]
    baked = None if file.vae is None else _known("the VAE", file.vae, vaes)
    return file.recipe(
        blueprint.architecture,
        [Parent(letter=letter, name=row.name, sha256=row.sha256) for letter, row in found.items()],
        [(row.name, row.sha256) for row in weighed],
        None if baked is None else BakedVae(name=baked.name, sha256=baked.sha256),
    )


def _known(what: str, entry: FileEntry, files: Sequence[KnownFile]) -> KnownFile:
    """The study's file that an entry of the recipe means."""
    if entry.sha256 is not None:
        same = [row for row in files if row.sha256 == entry.sha256]
    elif entry.path.exists():
        same = [row for row in files if row.path.exists() and row.path.samefile(entry.path)]
    else:
        same = [row for row in files if model_name(row.path) == model_name(entry.path)]
        same = same if len(same) == 1 else []
    if not same:
        known = ", ".join(str(row.path) for row in files) or "none"
        copy = "" if entry.sha256 is not None else "; of a copy give the `sha256`"
        raise RecipeError(f"{what} ({entry.path}) is not among the study's files ({known}){copy}")
    return same[0]
