"""`mergetune init`: look at the files and at this machine, and write a first spec with comments."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basics.names import typed_path
from optimizer.cli.commands.inspection import reading
from optimizer.cli.common import (
    CacheFolder,
    cache_folder,
    console,
    escaped,
    fail,
    interactive,
    loading_libraries,
    output_option,
    print_notes,
    yaml_target,
)
from optimizer.cli.views.questions import answer, folder_there, number_between, or_nothing, something_there
from optimizer.cli.workers.loading import hash_with_progress
from optimizer.cli.workers.model_folders import digest_cache

if TYPE_CHECKING:
    from optimizer.drafting.draft import Draft

USUAL_HOURS = 8.0
LEAST_HOURS, MOST_HOURS = 0.01, 10_000.0
USUAL_FILE = Path("first.yaml")
PROMPT_FILE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user wants, from options or answers."""

    parents: tuple[Path, ...]
    loras: tuple[Path, ...] = ()
    refs: Path | None = None  # folder of reference images
    prompts: Path | None = None  # text file
    hours: float = USUAL_HOURS
    output: Path = USUAL_FILE


def init(
    parents: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=typed_path, metavar="CHECKPOINT", help="The checkpoints to merge: A, B, ...", show_default=False
        ),
    ] = None,
    loras: Annotated[
        list[Path] | None,
        typer.Option(
            parser=typed_path,
            metavar="FILE",
            help="A LoRA whose weight is searched; may be repeated.",
            show_default=False,
        ),
    ] = None,
    refs: Annotated[
        Path | None,
        typer.Option(parser=typed_path, metavar="DIR", help="Folder of pictures as you want them.", show_default=False),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(parser=typed_path, metavar="FILE", help="Text file with one prompt a line.", show_default=False),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            min=LEAST_HOURS,
            max=MOST_HOURS,
            help=f"Hours that the study may take. [default: {USUAL_HOURS:g}]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_option("FILE", f"The YAML file to write. [default: {USUAL_FILE}]"),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Render a few images to learn how long they take here.")
    ] = True,
    cache: CacheFolder = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Look at checkpoints and this machine, and write a first spec with comments; in a terminal, it asks."""
    given = tuple(parents or ())
    has_options = bool(loras) or any(each is not None for each in (refs, prompts, hours, output))
    if not has_options and interactive() and sys.stdin.isatty():
        wishes = _asked(given)
    else:
        wishes = Wishes(
            parents=given,
            loras=tuple(loras or ()),
            refs=refs,
            prompts=prompts,
            hours=USUAL_HOURS if hours is None else hours,
            output=output or USUAL_FILE,
        )
    texts = _require_usable(wishes, force=force)
    draft = _drafted(wishes, texts, cache_folder(cache), measure=measure)
    _write(draft, wishes.output, force=force)


# ---------------------------------------------------------------------------------------- what is wanted


def _asked(parents: Sequence[Path]) -> Wishes:
    """Ask for everything but the parents that are given."""
    wanted = list(parents)
    while len(wanted) < 2:
        wanted.append(answer(f"Checkpoint {'AB'[len(wanted)]}", something_there))
    prompts = answer("Text file with one prompt a line (Enter: examples)", or_nothing(something_there))
    refs = answer("Folder of pictures as you want them (Enter: none)", or_nothing(folder_there))
    loras: list[Path] = []
    while lora := answer("A LoRA whose weight is searched (Enter: no more)", or_nothing(something_there)):
        loras.append(lora)
    hours = number_between(LEAST_HOURS, MOST_HOURS, USUAL_HOURS)
    return Wishes(
        parents=tuple(wanted),
        loras=tuple(loras),
        refs=refs,
        prompts=prompts,
        hours=answer(f"Hours that the study may take (Enter: {USUAL_HOURS:g})", hours),
        output=answer(f"File to write (Enter: {USUAL_FILE})", or_nothing(typed_path)) or USUAL_FILE,
    )


def _require_usable(wishes: Wishes, *, force: bool) -> tuple[str, ...]:
    """Refuse paths and numbers that cannot be used, before anything is loaded; return the user's prompts, if any."""
    from optimizer.merging.files.presence import require_checkpoint_at, require_lora_at
    from optimizer.merging.files.targets import refuse_target
    from studies.recipe.recipe import LETTERS

    if not 2 <= len(wishes.parents) <= len(LETTERS):
        fail(f"a study takes 2 to {len(LETTERS)} checkpoints, got {len(wishes.parents)}: mergetune init A B ...")
    for path in wishes.parents:
        require_checkpoint_at(path)
    if len({path.resolve() for path in wishes.parents}) < len(wishes.parents):
        fail("a checkpoint is named twice: merging it with itself changes nothing")
    for path in wishes.loras:
        require_lora_at(path)
    if wishes.refs is not None and not wishes.refs.is_dir():
        fail(f"--refs: {wishes.refs} is not a folder: give the folder of your reference pictures")
    refuse_target(yaml_target(wishes.output), overwrite=force)
    return () if wishes.prompts is None else _prompts_in(wishes.prompts)


def _prompts_in(file: Path) -> tuple[str, ...]:
    """Read a file of prompts."""
    from basics.foreign import read_bytes
    from optimizer.drafting.prompts import prompts_of

    kind = "give a text file in UTF-8 with one prompt a line"
    try:
        text = read_bytes(file, PROMPT_FILE_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        fail(f"--prompts: there is nothing at {file}: {kind}")
    except (OSError, ValueError) as error:
        fail(f"--prompts: {file} cannot be read ({error}): {kind}")
    prompts = prompts_of(text.splitlines())
    if not prompts:
        fail(f"--prompts: {file} has no prompt: {kind}")
    return prompts


# ---------------------------------------------------------------------------------------- the draft


def _drafted(wishes: Wishes, prompts: tuple[str, ...], cache: Path, *, measure: bool) -> Draft:
    """Look at files, device and scorers, and choose what the spec says.

    Args:
        prompts: the user's.
        measure: whether images are rendered to learn how long they take.
    """
    with loading_libraries():
        from optimizer.cli.views.drafting import print_found
        from optimizer.drafting.draft import Draft
        from optimizer.drafting.findings import bytes_to_read, findings
        from optimizer.drafting.names import study_name
        from optimizer.drafting.prompts import EXAMPLE_PROMPTS
        from optimizer.drafting.sizing import unmeasured
        from optimizer.merging.files.checkpoint import Checkpoint
        from scorers.registry import kinds_here

    checkpoints = [Checkpoint.open(path) for path in wishes.parents]
    with reading("comparing the parents", bytes_to_read(checkpoints)) as advance:
        found = findings(checkpoints, wishes.loras, advance)
    draft = Draft(
        study=study_name(wishes.output.stem),
        folder=wishes.output.absolute().parent,
        parents=wishes.parents,
        loras=wishes.loras,
        refs=wishes.refs,
        own_prompts=prompts,
        kinds=kinds_here(cache),
        found=found,
        hours=wishes.hours,
        sizing=unmeasured(len(prompts or EXAMPLE_PROMPTS)),
    )
    print_found(draft)
    return _measured(draft, cache) if measure else _checked(draft)


def _checked(draft: Draft) -> Draft:
    """Check that a study can be made of the draft."""
    from optimizer.drafting.measuring import plan_to_measure

    plan_to_measure(draft)
    return draft


def _measured(draft: Draft, cache: Path) -> Draft:
    """Check that a study can be made of the draft, and give it the size that fits into its hours."""
    from optimizer.drafting.measuring import measure, plan_to_measure
    from optimizer.errors import NoMemoryError

    plan = plan_to_measure(draft)
    parents = hash_with_progress(plan, digests=digest_cache(cache))
    try:
        with console.status("rendering a few images, to learn how long they take here"):
            return measure(draft, plan, parents, cache)
    except NoMemoryError as error:  # of this machine, now: the study may run elsewhere
        print_notes([f"nothing was measured: {error}"])
        return draft


def _write(draft: Draft, output: Path, *, force: bool) -> None:
    """Write the spec, and say what comes next."""
    from optimizer.cli.views.drafting import print_size
    from optimizer.drafting.spec_text import spec_text
    from optimizer.merging.engine.export import write_file
    from studies.system.advice import quoted

    write_file(output, spec_text(draft).encode(), overwrite=force)
    print_size(draft)
    command = f"mergetune study check {quoted(str(output))}"
    console.print(f"[green]wrote {escaped(str(output))}.[/] Read it, change it, then: {escaped(command)}")
