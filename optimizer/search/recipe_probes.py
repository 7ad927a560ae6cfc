"""Recipe files among the probes: they are read once, when the study begins, and stored with its spec.

Every file that a recipe names must be one of the study's. It is identified by its sha256 if the recipe gives one, or
else by its path. If nothing exists at that path, because the recipe comes from another machine, its name decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.merging.files.names import model_name
from search_spaces.blocks import Architecture
from studies.errors import RecipeError, StudyChangedError
from studies.recipe.adoption import adopt
from studies.recipe.blueprint import Blueprint
from studies.recipe.file import FileEntry, RecipeFile, load_recipe_file
from studies.recipe.recipe import BakedVae, Parent, Recipe
from studies.spec.search import RecipeProbe
from studies.spec.study import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFile:
    """A file of the study."""

    path: Path
    name: str
    sha256: str


def check_recipe_files(spec: StudySpec, architecture: Architecture) -> None:
    """Refuse recipe files that are wrong on their own, before the study's checkpoints are hashed.

    Raises:
        RecipeError: a recipe file is missing or misspelt, or has numbers that are not allowed.
    """
    for entry in spec.probes.recipes:
        if entry.recipe is None:
            file = load_recipe_file(entry.path)
            try:
                file.chain(architecture)
                file.lora_weights(architecture)
                if unusual := file.unusual(architecture):
                    raise RecipeError(unusual[0])
            except RecipeError as error:
                raise _in_entry(entry, error) from error


def with_recipes(spec: StudySpec, blueprint: Blueprint) -> StudySpec:
    """Read the recipe files that were not read yet into the spec.

    Raises:
        RecipeError: a recipe file cannot be read, or merges something other than the study's files.
    """
    recipes = tuple(
        entry if entry.recipe is not None else entry.model_copy(update={"recipe": _read(entry, spec, blueprint)})
        for entry in spec.probes.recipes
    )
    return spec.model_copy(update={"probes": spec.probes.model_copy(update={"recipes": recipes})})


def refuse_changed_recipes(spec: StudySpec, asked: Sequence[RecipeProbe], blueprint: Blueprint) -> None:
    """Refuse recipe files that say something else than when the study began; those that are gone are not needed.

    Args:
        spec: the stored one, with the paths of this machine.
        asked: the recipe files as the spec file names them now.

    Raises:
        StudyChangedError: a recipe has changed.
        RecipeError: a recipe file cannot be read.
    """
    for stored, entry in zip(spec.probes.recipes, asked, strict=True):
        if stored.recipe is None or not entry.path.exists():
            continue
        if Recipe.from_json(_read(entry, spec, blueprint)) != Recipe.from_json(stored.recipe):
            raise StudyChangedError(
                f"the recipe {entry.path} has changed since the study began: undo the change, start a new study, or "
                "resume this one by its name"
            )


def _read(entry: RecipeProbe, spec: StudySpec, blueprint: Blueprint) -> str:
    file = load_recipe_file(entry.path)
    try:
        if file.dtype not in {None, blueprint.dtype}:
            raise RecipeError(
                f"expected the dtype that the study saves in, {blueprint.dtype or 'as in parent A'}, got {file.dtype}: "
                "leave `dtype` out, or set the study's `export`"
            )
        return adopt(_recipe(file, spec, blueprint), blueprint).to_json()
    except RecipeError as error:
        raise _in_entry(entry, error) from error


def _in_entry(entry: RecipeProbe, error: RecipeError) -> RecipeError:
    """Say in which recipe the error is."""
    return RecipeError(f"probes, recipe {entry.path.name}: {error}")


def _recipe(file: RecipeFile, spec: StudySpec, blueprint: Blueprint) -> Recipe:
    """Return the file's recipe with the hashes of the study's files."""
    parents = [
        StudyFile(path=path, name=parent.name, sha256=parent.sha256)
        for path, parent in zip(spec.parents, blueprint.parents, strict=True)
    ]
    loras = [
        StudyFile(path=lora.path, name=hashed.name, sha256=hashed.sha256)
        for lora, hashed in zip(spec.loras.values(), blueprint.loras, strict=True)
    ]
    vaes = (
        [StudyFile(path=spec.vae, name=blueprint.vae.name, sha256=blueprint.vae.sha256)]
        if spec.vae is not None and blueprint.vae is not None
        else []
    )
    recipe_parents = {letter: _study_file(f"parent {letter}", entry, parents) for letter, entry in file.parents.items()}
    recipe_loras = [_study_file("the LoRA", entry, loras) for entry in file.loras]
    baked = None if file.vae is None else _study_file("the VAE", file.vae, vaes)
    return file.recipe(
        blueprint.architecture,
        [Parent(letter=letter, name=parent.name, sha256=parent.sha256) for letter, parent in recipe_parents.items()],
        [(lora.name, lora.sha256) for lora in recipe_loras],
        None if baked is None else BakedVae(name=baked.name, sha256=baked.sha256),
    )


def _study_file(what: str, entry: FileEntry, files: Sequence[StudyFile]) -> StudyFile:
    """Find the file of the study that an entry of the recipe means.

    Raises:
        RecipeError: none of the study's files is meant.
    """
    if entry.sha256 is not None:
        matching = [file for file in files if file.sha256 == entry.sha256]
    elif entry.path.exists():
        matching = [file for file in files if file.path.exists() and file.path.samefile(entry.path)]
    else:
        matching = [file for file in files if model_name(file.path) == model_name(entry.path)]
        matching = matching if len(matching) == 1 else []
    if not matching:
        names = ", ".join(str(file.path) for file in files) or "none"
        copy = "" if entry.sha256 is not None else "; if it is a copy of one, give its `sha256`"
        raise RecipeError(f"{what} ({entry.path}) is not among the study's files ({names}){copy}")
    return matching[0]
