"""`mergetune merge`: a merge without a study, from a recipe file or made again from a merged file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optimizer.cli.commands.inspection import AUTOV2_DIGITS, reading
from optimizer.cli.commands.lora import DtypeChoice, Force
from optimizer.cli.common import console, escaped, fail, print_error, safetensors_target

if TYPE_CHECKING:
    import torch

    from optimizer.merging.engine.export import Exported
    from optimizer.merging.engine.ingredients import Ingredients
    from optimizer.merging.files.change_guard import OpenedFiles
    from optimizer.merging.files.hash_lookup import Candidate
    from studies.recipe.file import RecipePaths
    from studies.recipe.recipe import Recipe

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")
MERGED_SUFFIX = ".safetensors"


class DeviceChoice(StrEnum):
    """Where the arithmetic is done."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A merge that is understood; nothing is read yet but headers and hashes."""

    recipe: Recipe
    paths: RecipePaths
    opened: OpenedFiles  # the files at `paths` as they were before they were hashed
    made: Mapping[str, str]  # metadata of the file that is made again; empty for a recipe file


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the user says the files of a merged file's recipe are."""

    parents: Sequence[str]  # A=PATH
    loras: Sequence[str]  # NAME=PATH
    vae: Path | None
    models: Sequence[Path]  # folders

    @property
    def given(self) -> bool:
        return bool(self.parents or self.loras or self.vae or self.models)


def merge(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A recipe (.yaml, .json), or a .safetensors file of mergetune to make again.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The .safetensors file to write.", show_default=False),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the complete recipe as YAML instead of merging.")] = False,
    dtype: Annotated[
        DtypeChoice | None,
        typer.Option(help="Save weights in this dtype. [default: the recipe's, else as in A]", show_default=False),
    ] = None,
    device: Annotated[
        DeviceChoice | None,
        typer.Option(help="Where to compute. [default: as the file to make again, else cpu]", show_default=False),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="The model's title in the metadata. [default: FILE's name]", show_default=False)
    ] = None,
    parent: Annotated[
        list[str] | None,
        typer.Option(metavar="A=PATH", help="Where a parent of the file to make again is.", show_default=False),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Where a LoRA of the file to make again is.", show_default=False),
    ] = None,
    vae: Annotated[
        Path | None, typer.Option(help="Where the VAE of the file to make again is.", show_default=False)
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Where its files are searched, by sha256; may be given several times.",
            show_default=False,
            file_okay=False,
            exists=True,
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Merge checkpoints after a recipe file, or make a merged file again from its parents."""
    from optimizer.merging.engine.export import refuse_sources, refuse_target

    if show == (output is not None):
        fail("give either -o FILE to merge or --show to print the recipe")
    if show and (title is not None or device is not None or force):
        fail("--show prints the recipe and writes nothing: leave out --title, --device and --force")
    target = None if output is None else safetensors_target(output)
    where = Places(parents=parent or (), loras=lora or (), vae=vae, models=models or ())
    if target is not None:
        refuse_target(target, overwrite=force)  # said before gigabytes are hashed
        refuse_sources(target, {"SOURCE": [source]})
    job = _job(source, where, complete=target is not None)
    recipe = job.recipe if dtype is None else replace(job.recipe, dtype=dtype.value)
    if target is None:
        _show(source, replace(job, recipe=recipe))
        return
    _write(source, replace(job, recipe=recipe), target, title, _device(device, job.made, source), force=force)


def _job(source: Path, where: Places, *, complete: bool) -> Job:
    suffix = source.suffix.lower()
    if suffix not in {*RECIPE_SUFFIXES, MERGED_SUFFIX}:
        fail(f"{source} is neither a recipe ({', '.join(RECIPE_SUFFIXES)}) nor a {MERGED_SUFFIX} file of mergetune")
    if suffix == MERGED_SUFFIX:
        return _from_merged_file(source, where, complete=complete)
    if where.given:
        fail(f"{source.name} names its own files: --parent, --lora, --vae and --models are for {MERGED_SUFFIX} files")
    return _from_recipe_file(source)


# -------------------------------------------------------------------------------- from a recipe file


def _from_recipe_file(path: Path) -> Job:
    from optimizer.merging.files.change_guard import OpenedFiles
    from optimizer.merging.files.checkpoint import Checkpoint
    from optimizer.merging.files.vae import VaeFile
    from optimizer.merging.lora.file import Lora
    from studies.recipe.file import RecipePaths, load_recipe_file
    from studies.recipe.recipe import BakedVae, Parent

    file = load_recipe_file(path)
    checkpoints = {letter: Checkpoint.open(entry.path) for letter, entry in file.parents.items()}
    loras = [Lora.open(entry.path) for entry in file.loras]
    vae = None if file.vae is None else VaeFile.open(file.vae.path)
    architecture = checkpoints["A"].architecture
    file.chain(architecture)  # what is wrong with the numbers is said before gigabytes are hashed
    file.lora_weights(architecture)
    opened = OpenedFiles.now(
        {f"parent {letter}": checkpoint.files for letter, checkpoint in checkpoints.items()}
        | {"a LoRA": tuple(lora.path for lora in loras), "the VAE": () if vae is None else vae.files}
    )
    with reading("hashing parents", sum(checkpoint.size_bytes for checkpoint in checkpoints.values())) as advance:
        parents = [
            Parent(letter=letter, name=checkpoint.name, sha256=checkpoint.hash(advance))
            for letter, checkpoint in checkpoints.items()
        ]
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
    return Job(recipe=recipe, paths=paths, opened=opened, made={})


# -------------------------------------------------------------------------------- from a merged file


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file that a recipe names."""

    what: str
    option: str  # that says where it is
    name: str
    sha256: str
    given: Path | None


def _from_merged_file(path: Path, where: Places, *, complete: bool) -> Job:
    from optimizer.merging.engine.metadata import RECIPE_FIELD
    from optimizer.merging.files.change_guard import OpenedFiles, Stamp
    from optimizer.merging.files.checkpoint import read_header
    from studies.recipe.file import RecipePaths
    from studies.recipe.recipe import Recipe

    if not path.is_file():
        fail(f"no file at {path}: give a recipe, or a {MERGED_SUFFIX} file that mergetune wrote")
    _, metadata = read_header(path)
    if RECIPE_FIELD not in metadata:
        fail(f"{path} has no {RECIPE_FIELD} in its metadata, so it was not merged by mergetune: give a recipe file")
    recipe = Recipe.from_json(metadata[RECIPE_FIELD])
    wanted = list(_wanted(recipe, where))
    found = _found(wanted, where.models)
    if complete and (missing := [row for row in wanted if row.sha256 not in found]):
        named = ", ".join(f"{row.what} ({row.name}, sha256 {row.sha256})" for row in missing)
        place = f" in {', '.join(map(str, where.models))}" if where.models else ""
        fail(f"not found{place}: {named}; say where with {missing[0].option}, or search a folder with --models")
    there = [(row, found.get(row.sha256)) for row in wanted]
    placed = [file.path.absolute() if file else Path(f"{row.name}{MERGED_SUFFIX}") for row, file in there]
    stamps: dict[str, dict[Path, Stamp | None]] = {}
    for row, file in there:  # two LoRAs may have one name
        stamps.setdefault(row.what, {}).update(file.stamps if file else {})
    count = len(recipe.parents)
    paths = RecipePaths(
        parents={row.letter: file for row, file in zip(recipe.parents, placed, strict=False)},
        loras=placed[count : count + len(recipe.loras)],
        vae=None if recipe.vae is None else placed[-1],
    )
    return Job(recipe=recipe, paths=paths, opened=OpenedFiles(stamps), made=metadata)


def _wanted(recipe: Recipe, where: Places) -> Iterator[Wanted]:
    """The recipe's parents, LoRAs and VAE, in this order."""
    parents = _by_name("--parent", where.parents, [row.letter for row in recipe.parents])
    loras = _by_name("--lora", where.loras, [row.name for row in recipe.loras])
    if where.vae is not None and recipe.vae is None:
        fail("--vae: the recipe bakes no VAE; leave it out")
    for parent in recipe.parents:
        yield Wanted(
            what=f"parent {parent.letter}",
            option=f"--parent {parent.letter}=PATH",
            name=parent.name,
            sha256=parent.sha256,
            given=parents.get(parent.letter),
        )
    for lora in recipe.loras:
        option = f"--lora {lora.name}=PATH"
        given = loras.get(lora.name)
        yield Wanted(what=f"LoRA {lora.name}", option=option, name=lora.name, sha256=lora.sha256, given=given)
    if recipe.vae is not None:
        vae = recipe.vae
        yield Wanted(what="the VAE", option="--vae PATH", name=vae.name, sha256=vae.sha256, given=where.vae)


def _by_name(option: str, texts: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """`NAME=PATH` of every use of an option; names may hold an equals sign themselves."""
    found: dict[str, Path] = {}
    for text in texts:
        name = max((name for name in names if text.startswith(f"{name}=")), key=len, default=None)
        if name is None:
            fail(f"{option} {text}: expected NAME=PATH, the recipe has {', '.join(names) or 'none'}")
        if name in found:
            fail(f"{option} {name} is given twice")
        found[name] = Path(text.removeprefix(f"{name}=")).expanduser()
    return found


def _found(wanted: Sequence[Wanted], models: Sequence[Path]) -> dict[str, Candidate]:
    """sha256 -> what is there; fails when a file is not what the user says."""
    from optimizer.merging.files.hash_lookup import Candidate, candidates, find_by_sha256

    found: dict[str, Candidate] = {}
    given = [(row, Candidate.of(row.given)) for row in wanted if row.given is not None]
    with _hashing("hashing", [candidate for _, candidate in given]) as advance:
        for row, candidate in given:
            sha256 = candidate.sha256(advance)
            if sha256 != row.sha256:
                fail(f"{row.what}: {candidate.path} has the sha256 {sha256}, expected {row.sha256} ({row.name})")
            found[sha256] = candidate
    for folder in models:
        missing = {row.sha256: row.name for row in wanted if row.sha256 not in found}
        if missing:
            among = candidates(folder, set(missing.values()))
            with _hashing(f"searching {folder}", among) as advance:
                found |= find_by_sha256(missing, among, advance)
    return found


def _hashing(what: str, files: Sequence[Candidate]) -> AbstractContextManager[Callable[[int], None]]:
    return reading(what, sum(file.size_bytes for file in files))


# ---------------------------------------------------------------------------------------- the result


def _show(source: Path, job: Job) -> None:
    from studies.recipe.file import recipe_text

    typer.echo(recipe_text(job.recipe, job.paths, f"the merge of {source.name}"), nl=False)


def _write(source: Path, job: Job, target: Path, title: str | None, device: torch.device, *, force: bool) -> None:
    from optimizer.merging.engine.export import atomic_file, export_layout, refuse_sources, write_merge
    from optimizer.merging.files.checkpoint import total_bytes

    ingredients = _opened(job.paths, job.opened)
    refuse_sources(target, ingredients.files)
    for note in (*ingredients.notes, *_notes(job, ingredients)):
        console.print(escaped(note), soft_wrap=True)
    metadata = _metadata(job, ingredients, title, target, device)
    size = total_bytes(export_layout(ingredients, job.recipe.dtype).values())
    with atomic_file(target, overwrite=force) as temporary, reading("writing the merge", size) as advance:
        written = write_merge(temporary, job.recipe, ingredients, metadata, device, advance)
    if job.made and title is None and _is_unchanged(job):
        _compare(source, written)
    console.print(f"AutoV2 hash {written.sha256[:AUTOV2_DIGITS]}, {written.bytes / 1e6:,.1f} MB")
    console.print(f"wrote {escaped(str(target))} ({escaped(job.recipe.method)})", soft_wrap=True)


def _opened(paths: RecipePaths, before: OpenedFiles) -> Ingredients:
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


def _notes(job: Job, ingredients: Ingredients) -> Iterator[str]:
    from optimizer.rendering.prediction import prediction_or_problem

    recipe = job.recipe
    used = {name for step in recipe.steps for name in step.operation.inputs} or {"A"}
    idle = [parent.letter for parent in recipe.parents if parent.letter not in used]
    if idle:
        yield f"parent {', '.join(idle)} is not used by any step"
    if job.made:  # settled when it was made, perhaps by the study's own word
        return
    found = [prediction_or_problem(checkpoint) for checkpoint in ingredients.parents.checkpoints]
    first = found[0]
    for parent, other in zip(recipe.parents, found, strict=True):
        if isinstance(other, str):
            yield f"it is not known what {parent.letter} predicts: {other}"
        elif not isinstance(first, str) and other.name != first.name:
            yield f"A predicts {first.name} and {parent.letter} {other.name}: a merge of both rarely gives good images"


def _device(choice: DeviceChoice | None, made: Mapping[str, str], source: Path) -> torch.device:
    """Where to compute; a warning where the file to make again was computed elsewhere."""
    import torch

    from optimizer.merging.engine.metadata import DEVICE_FIELD, THREADS_FIELD

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    before = made.get(DEVICE_FIELD)
    if choice is DeviceChoice.CUDA and not there["cuda"]:
        fail("--device cuda: there is no CUDA device; use cpu or auto")
    if choice is DeviceChoice.AUTO:
        chosen = "cuda" if there["cuda"] else "cpu"
    elif choice is not None:
        chosen = choice.value
    else:
        chosen = before if before is not None and there.get(before, False) else "cpu"
    if before is not None and before != chosen:
        told = f"{source.name} was computed on {before}, this merge is on {chosen}"
        print_error("warning", f"{told}: some numbers may be rounded otherwise, and the sha256 differ")
    if chosen == "cpu" and (threads := made.get(THREADS_FIELD, "")).isdecimal():
        torch.set_num_threads(max(1, int(threads)))
    return torch.device(chosen)


def _is_unchanged(job: Job) -> bool:
    from optimizer.merging.engine.metadata import RECIPE_FIELD

    return job.recipe.to_json() == job.made.get(RECIPE_FIELD)


def _metadata(
    job: Job, ingredients: Ingredients, title: str | None, target: Path, device: torch.device
) -> dict[str, str]:
    """The header's metadata; that of the file to make again, where the merge is the same."""
    from optimizer.merging.engine.export import HASH_FIELD
    from optimizer.merging.engine.metadata import DEVICE_FIELD, MARKERS_FIELD, THREADS_FIELD, merge_metadata
    from optimizer.rendering.prediction import modelspec_kind

    stated = job.made.get("modelspec.prediction_type")
    fresh = merge_metadata(
        job.recipe,
        ingredients,
        title=title or job.made.get("modelspec.title") or target.stem,
        prediction_type=stated or modelspec_kind(ingredients.parents.first),
        device=device,
    )
    if not job.made or not _is_unchanged(job):
        return fresh | {key: value for key, value in job.made.items() if key == MARKERS_FIELD}
    machine = {DEVICE_FIELD, THREADS_FIELD}
    kept = {key: value for key, value in job.made.items() if key != HASH_FIELD and key not in machine - fresh.keys()}
    renewed = {key: fresh[key] for key in (*machine, "modelspec.title") if key in fresh}
    return kept | renewed


def _compare(source: Path, written: Exported) -> None:
    """Say whether the same file came out."""
    from basics.files import sha256_of

    if source.stat().st_size == written.bytes and sha256_of(source) == written.sha256:
        console.print(f"the file is equal to {escaped(source.name)}, bit for bit", soft_wrap=True)
    else:
        print_error("warning", f"the file is not equal to {source.name}, bit for bit")
