"""`mergetune study train-personal`: make the scorer `personal` from people's votes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from basics.messages import counted
from basics.names import plain
from optimizer.cli.common import (
    ArtifactFolder,
    Storage,
    console,
    database_to_read,
    escaped,
    interactive,
    loading_libraries,
    output_option,
    print_notes,
    safetensors_target,
    stored_url,
)
from studies.system.advice import DEFAULT_STORAGE

if TYPE_CHECKING:
    from optimizer.personal.comparisons import Compared
    from optimizer.personal.training import LearnedTaste
    from scorers.config import ClipModelSettings
    from scorers.preference.kinds import PersonalSettings
    from studies.files.artifacts import Artifacts


def train_personal(
    output: Annotated[Path, output_option("FILE.safetensors", "The head to write, which a spec names.")],
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    person: Annotated[
        list[str] | None,
        typer.Option(parser=plain, metavar="NAME", help="Whose votes to learn from; may be given several times."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            parser=plain,
            metavar="YAML",
            help="The CLIP, as in a spec: '{model: ViT-B-32, pretrained: openai}'. [default: that of clip_score]",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of -o.")] = False,
) -> None:
    """Train the scorer `personal` on the votes of all studies of a database, and say how far it agrees with people."""
    from optimizer.merging.files.targets import refuse_target, refuse_unwritable

    refuse_target(safetensors_target(output), overwrite=force)
    refuse_unwritable(output.parent)
    url = stored_url(storage)
    settings = _clip_settings(clip, output)
    database = database_to_read(storage)
    from optimizer.personal.comparisons import load_comparisons
    from studies.files.artifacts import Artifacts
    from studies.records.stored_studies import unreadable_studies

    print_notes(f"study {name} is left out: {why}" for name, why in unreadable_studies(database).items())
    store = Artifacts.existing(url, artifacts)
    learned = _learned(load_comparisons(database, store, person or ()), store, settings)
    from optimizer.personal.training import agreement_text
    from scorers.preference.personal_head import write_head

    write_head(output, learned.head)
    console.print(escaped(f"held-out agreement: {agreement_text(learned.agreement)}"), soft_wrap=True)
    console.print(escaped(f"wrote {output}"), soft_wrap=True)
    console.print(escaped(f"in a spec: {_entry(output, settings)}"), soft_wrap=True)


def _clip_settings(text: str | None, head: Path) -> ClipModelSettings:
    """Read the CLIP of the option, with paths relative to the current folder; the usual one if there is none.

    Raises:
        SpecError: it is not YAML.
        ScorerError: it is no CLIP, or names a file that is not there.
    """
    from scorers.networks.clip.files import ClipNeed
    from scorers.registry import parse_settings
    from studies.errors import SpecError
    from studies.system.documents import parse_yaml

    options = {} if text is None else {"clip": parse_yaml(text, "--clip", SpecError)}
    settings = cast("PersonalSettings", parse_settings("personal", {"head": str(head), **options}, Path.cwd()))
    ClipNeed(settings=settings.clip).require_named()
    return settings.clip


def _learned(compared: Compared, artifacts: Artifacts, clip: ClipModelSettings) -> LearnedTaste:
    """Embed the renders, and train.

    Raises:
        TooFewVotesError: there is nothing to learn.
        ScorerError: the CLIP is missing or wrong.
    """
    with loading_libraries():
        from optimizer.personal.training import embed_renders, learn_taste, require_enough, with_embeddings
        from optimizer.system.devices import usual_device
        from scorers.networks.clip.embedder import load_embedder
        from scorers.networks.clip.files import title_of

    require_enough(compared)
    with console.status("loading CLIP"):
        embedder = load_embedder(clip, str(usual_device()))
    with _progress(len(compared.files)) as advance:
        embeddings = embed_renders(compared, artifacts, embedder, advance)
    usable = with_embeddings(compared, embeddings)
    _print_votes(usable)
    with console.status("training"):
        return learn_taste(usable, embeddings, embedder, title_of(clip))


def _print_votes(compared: Compared) -> None:
    people = ", ".join(compared.people)
    line = f"{counted(len(compared.comparisons), 'vote')} on {counted(compared.items, 'item')} by {people}"
    console.print(escaped(f"{line}; {compared.undecided} of them equal or both bad"), soft_wrap=True)
    if compared.lost:
        print_notes([f"{counted(compared.lost, 'vote')} left out: a render is not stored any more"])


@contextmanager
def _progress(renders: int) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("embedding renders"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not interactive()) as progress:
        task = progress.add_task("", total=renders)
        yield lambda: progress.advance(task)


def _entry(head: Path, clip: ClipModelSettings) -> str:
    """Return the lines of a spec that name the head, as one."""
    from scorers.config import ClipModelSettings

    options: dict[str, object] = {"head": str(head.absolute())}
    if clip != ClipModelSettings():
        options["clip"] = clip.model_dump(mode="json", exclude_defaults=True)
    return f"scorers: {json.dumps({'personal': options}, ensure_ascii=False)}"
