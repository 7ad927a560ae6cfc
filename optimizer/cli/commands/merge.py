"""`mergetune merge`: merge without a study, from a recipe file or from a merged file, which is made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basics.names import is_same, plain, typed_path
from optimizer.cli.commands.inspection import AUTOV2_DIGITS, reading
from optimizer.cli.commands.lora import DtypeChoice, Insist, refuse_early, rounding_notes
from optimizer.cli.common import (
    console,
    escaped,
    fail,
    loading_libraries,
    output_option,
    print_error,
    require_usual,
    safetensors_target,
)
from optimizer.cli.workers.model_folders import require_folders

if TYPE_CHECKING:
    import torch

    from optimizer.merging.engine.export import Exported
    from optimizer.merging.engine.ingredients import Ingredients
    from optimizer.merging.files.change_guard import OpenedFiles
    from optimizer.merging.files.hash_lookup import Candidate
    from optimizer.runtime.digest_cache import DigestCache
    from studies.recipe.file import FileEntry, RecipeFile, RecipePaths
    from studies.recipe.recipe import Recipe

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")
MERGED_SUFFIX = ".safetensors"


class DeviceChoice(StrEnum):
    """Devices that can compute a merge."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class MergeJob:
    """A checked merge; only headers and hashes have been read yet."""

    recipe: Recipe
    paths: RecipePaths
    opened: OpenedFiles  # the files at `paths` as they were before they were hashed
    original: Mapping[str, str]  # metadata of the file that is made again; empty for a recipe file


@dataclass(frozen=True, kw_only=True)
class GivenPaths:
    """Where the files of a recipe are, according to the user's options."""

    parents: Sequence[str]  # A=PATH
    loras: Sequence[str]  # NAME=PATH
    vae: Path | None
    models: Sequence[Path]  # folders

    @property
    def names_files(self) -> bool:
        """Whether a file is named, and not just folders."""
        return bool(self.parents or self.loras or self.vae)


def merge(
    source: Annotated[
        Path,
        typer.Argument(
            parser=typed_path,
            metavar="SOURCE",
            help="A recipe (.yaml, .json), or a .safetensors file by mergetune to make again.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        output_option("FILE", "The .safetensors file to write."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Only print the complete recipe, as YAML.")] = False,
    dtype: Annotated[
        DtypeChoice | None,
        typer.Option(help="Save weights in this dtype. [default: the recipe's, else that of A]", show_default=False),
    ] = None,
    device: Annotated[
        DeviceChoice | None,
        typer.Option(help="Where to compute. [default: as for the file to make again, else cpu]", show_default=False),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option(
            parser=plain,
            metavar="TEXT",
            help="The model's title in the metadata. [default: FILE's name]",
            show_default=False,
        ),
    ] = None,
    parent: Annotated[
        list[str] | None,
        typer.Option(metavar="A=PATH", help="Path of a parent of the file to make again.", show_default=False),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Path of a LoRA of the file to make again.", show_default=False),
    ] = None,
    vae: Annotated[
        Path | None,
        typer.Option(
            parser=typed_path, metavar="PATH", help="Path of the VAE of the file to make again.", show_default=False
        ),
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            parser=typed_path,
            metavar="FOLDER",
            help="Folder in which to find the merge's files by their content, if they are not where the recipe names "
            "them; may be repeated.",
            show_default=False,
        ),
    ] = None,
    force: Insist = False,
) -> None:
    """Merge checkpoints as a recipe file says, or make a merged file again from its parents."""
    if show == (output is not None):
        fail("give either -o FILE to merge, or --show to print the recipe")
    if show and (title is not None or device is not None or force):
        fail("--show prints the recipe and writes nothing: leave out --title, --device and --force")
    target = None if output is None else safetensors_target(output)
    require_folders(models or ())
    given = GivenPaths(parents=parent or (), loras=lora or (), vae=vae, models=models or ())
    if target is not None:
        refuse_early(target, force=force)
    file = _recipe_file(source, given)
    with loading_libraries():
        from optimizer.merging.engine.export import refuse_sources

    if target is not None:
        refuse_sources(target, {"SOURCE": [source]})
    if file is None:
        job = _from_merged_file(source, given, complete=target is not None)
    else:
        job = _from_recipe_file(file, given.models, force=force or show)
    recipe = job.recipe if dtype is None else replace(job.recipe, dtype=dtype.value)
    if target is None:
        _show(source, replace(job, recipe=recipe))
        return
    _write(source, replace(job, recipe=recipe), target, title, _device(device, job.original, source), force=force)


def _recipe_file(source: Path, given: GivenPaths) -> RecipeFile | None:
    """Read the source if it is a recipe; None for a merged file, which is only looked for. No tensor is read.

    Raises:
        RecipeError: the recipe cannot be read.
        CheckpointError: a file that it names by its path alone is not there.
    """
    suffix = source.suffix.lower()
    if suffix not in {*RECIPE_SUFFIXES, MERGED_SUFFIX}:
        fail(f"{source} is neither a recipe ({', '.join(RECIPE_SUFFIXES)}) nor a {MERGED_SUFFIX} file by mergetune")
    if suffix == MERGED_SUFFIX:
        if not source.is_file():
            fail(f"no file at {source}: give a recipe, or a {MERGED_SUFFIX} file that mergetune wrote")
        _require_given(given)
        return None
    if given.names_files:
        fail(
            f"{source.name} names its own files: --parent, --lora and --vae are for {MERGED_SUFFIX} files; --models "
            "FOLDER finds files that have moved"
        )
    from studies.recipe.file import load_recipe_file

    file = load_recipe_file(source)
    if not given.models:
        _require_named_files(file)
    return file


def _require_given(given: GivenPaths) -> None:
    """Refuse a path of the user's options at which nothing is; a name with `=` in it is told from its path later."""
    from optimizer.merging.files.presence import require_checkpoint_at

    named = [text.partition("=")[2] for text in (*given.parents, *given.loras) if text.count("=") == 1]
    for path in (*map(typed_path, named), *([] if given.vae is None else [given.vae])):
        require_checkpoint_at(path)


def _require_named_files(file: RecipeFile) -> None:
    """Refuse a recipe with a file that is not at its path, where no folder is given in which to look for it."""
    from optimizer.merging.files.presence import require_checkpoint_at, require_lora_at

    for what, entry in _entries(file):
        if entry.sha256 is None:
            (require_lora_at if what.startswith("LoRA") else require_checkpoint_at)(entry.path)
    _require_found(_to_look_for(file, ()), {}, ())


# -------------------------------------------------------------------------------- from a recipe file


def _from_recipe_file(recipe_file: RecipeFile, models: Sequence[Path], *, force: bool) -> MergeJob:
    from optimizer.merging.files.change_guard import OpenedFiles
    from optimizer.merging.files.checkpoint import Checkpoint
    from optimizer.merging.files.hash_lookup import Candidate
    from optimizer.merging.files.vae import VaeFile
    from optimizer.merging.lora.file import Lora
    from optimizer.runtime.digest_cache import DigestCache
    from studies.recipe.file import RecipePaths
    from studies.recipe.recipe import BakedVae, Parent

    digests = DigestCache()  # what was hashed to find a file is not hashed again
    file = _with_moved_files(recipe_file, models, digests)
    checkpoints = {letter: Checkpoint.open(entry.path) for letter, entry in file.parents.items()}
    loras = [Lora.open(entry.path) for entry in file.loras]
    vae = None if file.vae is None else VaeFile.open(file.vae.path)
    architecture = checkpoints["A"].architecture
    file.chain(architecture)  # errors in the numbers are reported before gigabytes are hashed
    file.lora_weights(architecture)
    require_usual(file.unusual(architecture), force=force)
    opened = OpenedFiles.now(
        {f"parent {letter}": checkpoint.files for letter, checkpoint in checkpoints.items()}
        | {"a LoRA": tuple(path for lora in loras for path in lora.files), "the VAE": () if vae is None else vae.files}
    )
    models_of = {letter: Candidate(each.path, each.files, {}) for letter, each in checkpoints.items()}
    with _hashing("hashing parents", list(models_of.values())) as advance:
        parents = [
            Parent(letter=letter, name=checkpoint.name, sha256=digests.of(models_of[letter], advance))
            for letter, checkpoint in checkpoints.items()
        ]
    others: list[Lora | VaeFile] = [*loras, *([] if vae is None else [vae])]
    hashed = {each.files[0]: each.sha256 for each in others if len(each.files) == 1}
    opened.remember(lambda path: hashed.get(path) or digests.of_file(path))
    recipe = file.recipe(
        architecture,
        parents,
        [(lora.name, lora.sha256) for lora in loras],
        None if vae is None else BakedVae(name=vae.name, sha256=vae.sha256),
    )
    paths = RecipePaths(
        parents={letter: entry.path for letter, entry in file.parents.items()},
        loras=[entry.path for entry in file.loras],
        vae=None if file.vae is None else file.vae.path,
    )
    return MergeJob(recipe=recipe, paths=paths, opened=opened, original={})


def _with_moved_files(file: RecipeFile, models: Sequence[Path], digests: DigestCache) -> RecipeFile:
    """Return the recipe with the paths of those of its files that are elsewhere now.

    A file with a sha256 is looked for by it where nothing is at its path or, with `--models`, another file is. One
    without is looked for by its name.
    """
    required = _to_look_for(file, models)
    found = _find_files(required, models, digests, insist=False)
    _require_found(required, found, models)
    paths = {sha256: candidate.path.absolute() for sha256, candidate in found.items()}
    moved = {what: _moved(what, entry, paths, models) for what, entry in _entries(file)}
    return file.model_copy(
        update={
            "parents": {letter: moved[f"parent {letter}"] for letter in file.letters},
            "loras": tuple(moved[f"LoRA {number}"] for number, _ in enumerate(file.loras, start=1)),
            "vae": moved.get("the VAE"),
        }
    )


def _to_look_for(file: RecipeFile, models: Sequence[Path]) -> list[RequiredFile]:
    """List those of a recipe's files that are known by their sha256, and may be elsewhere than at their path."""
    from optimizer.merging.files.names import model_name

    folder = "the VAE" if file.vae is not None and file.vae.path.is_dir() else None  # taken from where it is
    return [
        RequiredFile(
            what=what,
            remedy=f"correct its path in the recipe, {entry.path}",
            name=model_name(entry.path),
            sha256=entry.sha256,
            given=entry.path if models and entry.path.exists() else None,
        )
        for what, entry in _entries(file)
        if entry.sha256 is not None and what != folder and (models or not entry.path.exists())
    ]


def _entries(file: RecipeFile) -> Iterator[tuple[str, FileEntry]]:
    """Yield every file of a recipe with what it is."""
    yield from ((f"parent {letter}", entry) for letter, entry in file.parents.items())
    yield from ((f"LoRA {number}", entry) for number, entry in enumerate(file.loras, start=1))
    if file.vae is not None:
        yield "the VAE", file.vae


def _moved(what: str, entry: FileEntry, paths: Mapping[str, Path], models: Sequence[Path]) -> FileEntry:
    if entry.sha256 is not None:
        return entry.model_copy(update={"path": paths.get(entry.sha256, entry.path)})
    if entry.path.exists() or not models:
        return entry
    path = _find_by_name(what, entry.path, models)
    print_error("note", f"{what} is taken to be {path}, by its name: the recipe gives no sha256")
    return entry.model_copy(update={"path": path})


def _find_by_name(what: str, path: Path, models: Sequence[Path]) -> Path:
    """Return the one model in the folders that has the name of a path."""
    from optimizer.merging.files.hash_lookup import candidates
    from optimizer.merging.files.names import model_name

    name, folders = model_name(path), ", ".join(map(str, models))
    every = [candidate.path for folder in models for candidate in candidates(folder, {name})]
    alike = dict.fromkeys(found.absolute() for found in every if is_same(model_name(found), name))
    if not alike:
        fail(f"not found in {folders}: {what} ({path.name}); the recipe gives no sha256, so it must have this name")
    if len(alike) > 1:
        fail(f"{what} may be any of {', '.join(map(str, alike))}: give its sha256 or its path in the recipe")
    return next(iter(alike))


# -------------------------------------------------------------------------------- from a merged file


@dataclass(frozen=True, kw_only=True)
class RequiredFile:
    """A file that a recipe needs."""

    what: str
    remedy: str  # with which the user says where it is
    name: str
    sha256: str
    given: Path | None


def _from_merged_file(path: Path, given: GivenPaths, *, complete: bool) -> MergeJob:
    """Open the files of a merged file's recipe.

    Args:
        complete: whether every file must be found; to print a recipe, none is needed.
    """
    from basics.stamps import Stamp
    from optimizer.merging.engine.metadata import RECIPE_FIELD
    from optimizer.merging.files.change_guard import OpenedFiles
    from optimizer.merging.files.checkpoint import read_header
    from optimizer.runtime.digest_cache import DigestCache
    from studies.recipe.file import RecipePaths
    from studies.recipe.recipe import Recipe

    _, metadata = read_header(path)
    if RECIPE_FIELD not in metadata:
        fail(f"{path} has no {RECIPE_FIELD} in its metadata, so it was not merged by mergetune: give a recipe file")
    recipe = Recipe.from_json(metadata[RECIPE_FIELD])
    required = list(_required_files(recipe, given))
    digests = DigestCache()
    found = _find_files(required, given.models, digests)
    if complete:
        _require_found(required, found, given.models)
    candidates = [(file, found.get(file.sha256)) for file in required]
    located = [
        candidate.path.absolute() if candidate else Path(f"{file.name}{MERGED_SUFFIX}")
        for file, candidate in candidates
    ]
    stamps: dict[str, dict[Path, Stamp | None]] = {}
    for file, candidate in candidates:  # two LoRAs may have the same name
        stamps.setdefault(file.what, {}).update(candidate.stamps if candidate else {})
    count = len(recipe.parents)
    paths = RecipePaths(
        parents={parent.letter: path for parent, path in zip(recipe.parents, located, strict=False)},
        loras=located[count : count + len(recipe.loras)],
        vae=None if recipe.vae is None else located[-1],
    )
    opened = OpenedFiles(stamps)
    opened.remember(digests.of_file)
    return MergeJob(recipe=recipe, paths=paths, opened=opened, original=metadata)


def _require_found(required: Sequence[RequiredFile], found: Mapping[str, Candidate], models: Sequence[Path]) -> None:
    """Refuse to go on without a file."""
    if missing := [file for file in required if file.sha256 not in found]:
        named = ", ".join(f"{file.what} ({file.name}, sha256 {file.sha256})" for file in missing)
        folders = f" in {', '.join(map(str, models))}" if models else ""
        fail(f"not found{folders}: {named}; {missing[0].remedy}, or give a folder with --models")


def _required_files(recipe: Recipe, given: GivenPaths) -> Iterator[RequiredFile]:
    """Yield the recipe's parents, LoRAs and VAE, in this order."""
    parents = _by_name("--parent", given.parents, [parent.letter for parent in recipe.parents])
    loras = _by_name("--lora", given.loras, [lora.name for lora in recipe.loras])
    if given.vae is not None and recipe.vae is None:
        fail("--vae: the recipe bakes no VAE; leave it out")
    for parent in recipe.parents:
        yield RequiredFile(
            what=f"parent {parent.letter}",
            remedy=f"give its path with --parent {parent.letter}=PATH",
            name=parent.name,
            sha256=parent.sha256,
            given=parents.get(parent.letter),
        )
    for lora in recipe.loras:
        yield RequiredFile(
            what=f"LoRA {lora.name}",
            remedy=f"give its path with --lora {lora.name}=PATH",
            name=lora.name,
            sha256=lora.sha256,
            given=loras.get(lora.name),
        )
    if recipe.vae is not None:
        vae = recipe.vae
        yield RequiredFile(
            what="the VAE", remedy="give its path with --vae PATH", name=vae.name, sha256=vae.sha256, given=given.vae
        )


def _by_name(option: str, texts: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """Parse `NAME=PATH` of every use of an option; names may contain an equals sign themselves."""
    paths: dict[str, Path] = {}
    for text in texts:
        name = max((name for name in names if _value(text, name) is not None), key=len, default=None)
        if name is None:
            fail(f"{option} {text}: expected NAME=PATH with one of the recipe's names: {', '.join(names) or 'none'}")
        if name in paths:
            fail(f"{option} {name} is given twice")
        paths[name] = typed_path(_value(text, name) or "")
    return paths


def _value(text: str, name: str) -> str | None:
    """Return what stands behind `NAME=`, in whatever form the name is typed; None if it is another name."""
    count = name.count("=") + 1
    typed, value = "=".join(text.split("=")[:count]), text.split("=", count)[count:]
    return value[0] if value and is_same(typed, name) else None


def _find_files(
    required: Sequence[RequiredFile], models: Sequence[Path], digests: DigestCache, *, insist: bool = True
) -> dict[str, Candidate]:
    """Return sha256 -> file for every required file that is found.

    Args:
        insist: whether to refuse a given file with another sha256, instead of looking in the folders.
    """
    from optimizer.merging.files.hash_lookup import Candidate, candidates, find_by_sha256

    found: dict[str, Candidate] = {}
    given = [(file, Candidate.of(file.given)) for file in required if file.given is not None]
    with _hashing("hashing", [candidate for _, candidate in given]) as advance:
        for file, candidate in given:
            sha256 = digests.of(candidate, advance)
            if sha256 == file.sha256:
                found[sha256] = candidate
            elif insist:
                fail(f"{file.what}: {candidate.path} has the sha256 {sha256}, expected {file.sha256} ({file.name})")
    for folder in models:
        missing = {file.sha256: file.name for file in required if file.sha256 not in found}
        if missing:
            named_alike = candidates(folder, set(missing.values()))
            with _hashing(f"searching {folder}", named_alike) as advance:
                found |= find_by_sha256(missing, named_alike, partial(digests.of, progress=advance))
    return found


def _hashing(what: str, files: Sequence[Candidate]) -> AbstractContextManager[Callable[[int], None]]:
    return reading(what, sum(file.size_bytes for file in files))


# ---------------------------------------------------------------------------------------- the result


def _show(source: Path, job: MergeJob) -> None:
    from studies.recipe.file import recipe_text

    typer.echo(recipe_text(job.recipe, job.paths, f"the merge of {source.name}"), nl=False)


def _write(source: Path, job: MergeJob, target: Path, title: str | None, device: torch.device, *, force: bool) -> None:
    from optimizer.merging.engine.export import atomic_file, export_layout, refuse_sources, write_merge
    from optimizer.merging.files.checkpoint import total_bytes

    ingredients = _open_ingredients(job.paths, job.opened)
    refuse_sources(target, ingredients.files)
    for note in (*ingredients.notes, *_notes(job, ingredients)):
        console.print(escaped(note), soft_wrap=True)
    metadata = _metadata(job, ingredients, title, target, device)
    size = total_bytes(export_layout(ingredients, job.recipe.dtype).values())
    with atomic_file(target, overwrite=force) as temporary, reading("writing the merge", size) as advance:
        written = write_merge(temporary, job.recipe, ingredients, metadata, device, advance)
    for note in (*written.notes, *rounding_notes(job.recipe, ingredients, device)):
        console.print(escaped(note), soft_wrap=True)
    if job.original and title is None and _is_unchanged(job):
        _compare(source, written)
    console.print(f"AutoV2 hash {written.sha256[:AUTOV2_DIGITS]}, {written.bytes / 1e6:,.1f} MB")
    console.print(f"wrote {escaped(str(target))} ({escaped(job.recipe.method)})", soft_wrap=True)


def _open_ingredients(paths: RecipePaths, before: OpenedFiles) -> Ingredients:
    from optimizer.merging.engine.ingredients import Ingredients
    from optimizer.merging.files.checkpoint import Checkpoint
    from optimizer.merging.files.parents import Parents
    from optimizer.merging.files.vae import VaeFile
    from optimizer.merging.lora.file import Lora

    return Ingredients(
        Parents.of([Checkpoint.open(path) for path in paths.parents.values()]),
        tuple(Lora.open(path) for path in paths.loras),
        None if paths.vae is None else VaeFile.open(paths.vae),
        before,
    )


def _notes(job: MergeJob, ingredients: Ingredients) -> Iterator[str]:
    from optimizer.rendering.prediction import prediction_or_problem, unmarked_flow_note

    recipe = job.recipe
    used = {name for step in recipe.steps for name in step.operation.inputs} or {"A"}
    idle = [parent.letter for parent in recipe.parents if parent.letter not in used]
    if idle:
        yield f"parent {', '.join(idle)} is not used by any step"
    if job.original:  # decided when the original was made, perhaps by the study's spec
        return
    predictions = [prediction_or_problem(checkpoint) for checkpoint in ingredients.parents.checkpoints]
    first = predictions[0]
    yield from filter(None, map(unmarked_flow_note, ingredients.parents.checkpoints))
    for parent, other in zip(recipe.parents, predictions, strict=True):
        if isinstance(other, str):
            yield f"it is not known what {parent.letter} predicts: {other}"
        elif not isinstance(first, str) and other.name != first.name:
            yield (
                f"A predicts {first.name} but {parent.letter} predicts {other.name}: a merge of both rarely gives good "
                "images"
            )


def _device(choice: DeviceChoice | None, original: Mapping[str, str], source: Path) -> torch.device:
    """Choose where to compute; warn if the file to make again was computed on another device."""
    import torch

    from optimizer.merging.engine.metadata import DEVICE_FIELD, THREADS_FIELD

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    before = original.get(DEVICE_FIELD)
    if choice is DeviceChoice.CUDA and not available["cuda"]:
        fail("--device cuda: there is no CUDA device; use cpu or auto")
    if choice is DeviceChoice.AUTO:
        chosen = "cuda" if available["cuda"] else "cpu"
    elif choice is not None:
        chosen = choice.value
    else:
        chosen = before if before is not None and available.get(before, False) else "cpu"
    if before is not None and before != chosen:
        devices = f"{source.name} was computed on {before}, this merge is computed on {chosen}"
        print_error("warning", f"{devices}: some numbers may be rounded differently, and then the sha256 differs")
    if chosen == "cpu" and (threads := original.get(THREADS_FIELD, "")).isdecimal():
        torch.set_num_threads(max(1, int(threads)))
    return torch.device(chosen)


def _is_unchanged(job: MergeJob) -> bool:
    from optimizer.merging.engine.metadata import RECIPE_FIELD

    return job.recipe.to_json() == job.original.get(RECIPE_FIELD)


def _metadata(
    job: MergeJob, ingredients: Ingredients, title: str | None, target: Path, device: torch.device
) -> dict[str, str]:
    """Return the header's metadata; for the same merge, that of the file to make again."""
    from optimizer.merging.engine.export import HASH_FIELD
    from optimizer.merging.engine.metadata import DEVICE_FIELD, MARKERS_FIELD, THREADS_FIELD, merge_metadata
    from optimizer.rendering.prediction import header_fields_of_merge, stated_fields

    fresh = merge_metadata(
        job.recipe,
        ingredients,
        title=title or job.original.get("modelspec.title") or target.stem,
        prediction=stated_fields(job.original) or header_fields_of_merge(ingredients.parents.first),
        device=device,
    )
    if not job.original or not _is_unchanged(job):
        return fresh | {key: value for key, value in job.original.items() if key == MARKERS_FIELD}
    machine = {DEVICE_FIELD, THREADS_FIELD}
    dropped = {HASH_FIELD} | (machine - fresh.keys())
    unchanged = {key: value for key, value in job.original.items() if key not in dropped}
    renewed = {key: fresh[key] for key in (*machine, "modelspec.title") if key in fresh}
    return unchanged | renewed


def _compare(source: Path, written: Exported) -> None:
    """Print whether the file equals the original."""
    from basics.files import sha256_of

    if source.stat().st_size == written.bytes and sha256_of(source) == written.sha256:
        console.print(f"the file is equal to {escaped(source.name)}, bit for bit", soft_wrap=True)
    else:
        print_error("warning", f"the file is not equal to {source.name}, bit for bit")
