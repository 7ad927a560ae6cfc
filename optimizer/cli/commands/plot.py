"""`mergetune plot`: tables of pictures over ratios and settings, permutations of parents, ablations of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basics.messages import counted
from basics.names import plain, typed_path
from optimizer.cli.common import (
    YAML_SUFFIXES,
    CacheFolder,
    Storage,
    cache_folder,
    console,
    database_to_read,
    escaped,
    fail,
    loading_libraries,
    output_option,
    print_notes,
    read_spec,
    require_usual,
)
from optimizer.cli.workers.model_folders import Moved, digest_cache, searched_folders
from studies.system.advice import DEFAULT_STORAGE

if TYPE_CHECKING:
    from optimizer.plot.axes import Axis
    from optimizer.plot.planning import PlannedPlot
    from optimizer.plot.request import Kind, PlotRequest
    from optimizer.plot.results import PlotTable
    from optimizer.plot.tables import Cell
    from optimizer.plot.work import OnCell, PlotWork
    from optimizer.runtime.plan import Plan
    from studies.records.study_records import StudyRecords
    from studies.records.values import ParentFile
    from studies.spec.study import StudySpec


@dataclass(frozen=True, kw_only=True)
class PlotSource:
    """Where the models and the suite of a plot come from."""

    spec: StudySpec
    records: StudyRecords | None  # None for a spec


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The files that are written, and the folder of rendered cells beside them."""

    png: Path
    html: Path
    cells: Path


def plot(
    source: Annotated[
        str,
        typer.Argument(metavar="SPEC|STUDY", help="A study's YAML file, or the name of a study.", show_default=False),
    ],
    x: Annotated[
        str | None,
        typer.Option(
            parser=plain,
            metavar="NAME=VALUES",
            help="What varies from column to column: a block, section or pattern (OUT*), a text encoder, a LoRA or a "
            "setting of the suite (cfg, steps, sampler, seed, prompt ...). Values: a list (0,0.5,1), FROM:TO:COUNT, "
            "percentages.",
            show_default=False,
        ),
    ] = None,
    y: Annotated[
        str | None,
        typer.Option(parser=plain, metavar="NAME=VALUES", help="What varies from row to row.", show_default=False),
    ] = None,
    z: Annotated[
        str | None,
        typer.Option(
            parser=plain,
            metavar="NAME[=VALUES]",
            help="What varies from table to table; prompt, seed or size alone: all of the suite.",
            show_default=False,
        ),
    ] = None,
    permute: Annotated[
        bool,
        typer.Option("--permute", help="Every assignment of two parents to the sections, and to the text encoders."),
    ] = False,
    ablate: Annotated[
        bool,
        typer.Option(
            "--ablate",
            help="Each block alone swapped for another parent's, with the distance of the pictures to the base.",
        ),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            parser=plain,
            metavar="BASE",
            help="The merge that varies: A, B ..., a uniform ratio such as 0.5, 'trial N' or best. [default: a study's "
            "best; of a spec the uniform merge, with --ablate A]",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Images of the suite in each cell. [default: 1; with --permute or --ablate up to 4]",
            show_default=False,
        ),
    ] = None,
    score: Annotated[bool, typer.Option("--score", help="Print the spec's scores below each cell.")] = False,
    sort: Annotated[
        bool, typer.Option("--sort", help="Of --ablate: the most different block first, not in the model's order.")
    ] = False,
    output: Annotated[
        Path | None,
        output_option(
            "FILE.png",
            "The picture to write, and beside it FILE.html. [default: STUDY-plot.png, -permutations or -ablation]",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing files, and take ratios beyond -1 to 2.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    cache: CacheFolder = None,
    models: Moved = None,
) -> None:
    """Draw a table of merges: ratios or settings along x, y and z, permutations of parents, or ablated blocks."""
    request = _request(_kind(permute=permute, ablate=ablate), x, y, z, base=base, images=images, sort=sort)
    found = _source(source, storage)
    targets = _targets(output, f"{found.spec.study}-{request.kind}", force=force)
    request.check(found.spec.suite)
    caches = cache_folder(cache)
    plan, parents = _opened(found, models, caches)
    planned = _planned(request, plan, parents, found)
    require_usual(planned.unusual, force=force)
    work = _work(plan, planned, targets)
    tables = _worked(work, planned, request, caches, score=score)
    _write(found.spec.study, request.kind, planned, tables, work, targets, force=force)


def _kind(*, permute: bool, ablate: bool) -> Kind:
    if permute and ablate:
        fail("--permute and --ablate are two plots: give one of them")
    return "permutations" if permute else "ablation" if ablate else "plot"


def _request(
    kind: Kind, x: str | None, y: str | None, z: str | None, *, base: str | None, images: int | None, sort: bool
) -> PlotRequest:
    from optimizer.plot.axes import read_axis
    from optimizer.plot.request import PlotRequest

    def axis(text: str | None, option: str) -> Axis | None:
        return None if text is None else read_axis(plain(text), option)

    return PlotRequest(
        kind=kind,
        x=axis(x, "--x"),
        y=axis(y, "--y"),
        z=axis(z, "--z"),
        base=base,
        images=images,
        sort=sort,
    )


def _source(text: str, storage: str) -> PlotSource:
    """Return the spec of a file, or the study of this name."""
    file = typed_path(text)
    if file.is_file():
        return PlotSource(spec=read_spec(file), records=None)
    if file.suffix.lower() in YAML_SUFFIXES:
        fail(f"there is no spec at {file}: give a study's YAML file, or the name of a study")
    from studies.records.stored_studies import open_study

    records = open_study(database_to_read(storage), plain(text))
    return PlotSource(spec=records.study.spec, records=records)


def _targets(output: Path | None, usual: str, *, force: bool) -> Targets:
    """Return the files to write, which must not exist without `--force`."""
    from optimizer.merging.files.targets import refuse_target

    png = output or Path(f"{usual}.png")
    if png.suffix.lower() not in {".png", ".html"}:
        fail(f"-o writes a .png file and a .html beside it, got {png}: give a name that ends in .png")
    targets = Targets(png=png.with_suffix(".png"), html=png.with_suffix(".html"), cells=png.with_suffix(".cells"))
    for target in (targets.png, targets.html):
        refuse_target(target, overwrite=force)
    if targets.cells.exists() and not targets.cells.is_dir():
        fail(f"{targets.cells} is no folder, and rendered cells are kept there: give another path with -o")
    return targets


def _opened(source: PlotSource, models: Sequence[Path] | None, caches: Path) -> tuple[Plan, tuple[ParentFile, ...]]:
    """Open the files of a spec or of a study, whose files may not have changed."""
    from optimizer.cli.workers.loading import hash_with_progress, open_unchanged_plan

    if source.records is not None:
        stored = source.records.study
        return open_unchanged_plan(stored, searched_folders(models, caches)), stored.parents
    with loading_libraries():
        from optimizer.runtime.plan import make_plan

    plan = make_plan(source.spec)
    return plan, hash_with_progress(plan, digests=digest_cache(caches))


def _planned(request: PlotRequest, plan: Plan, parents: tuple[ParentFile, ...], source: PlotSource) -> PlannedPlot:
    with loading_libraries():
        from optimizer.plot.planning import plan_plot

    return plan_plot(request, plan, plan.blueprint(parents), source.records)


def _work(plan: Plan, planned: PlannedPlot, targets: Targets) -> PlotWork:
    from optimizer.cli.workers.loading import usable_device
    from optimizer.plot.work import PlotWork

    return PlotWork.of(plan, usable_device(plan), targets.cells, planned.tables)


def _worked(
    work: PlotWork, planned: PlannedPlot, request: PlotRequest, caches: Path, *, score: bool
) -> tuple[PlotTable, ...]:
    """Render, score and compare the cells."""
    from optimizer.plot.scoring import usable_scorers

    missing = work.missing()
    console.print(_said_before(work, missing, planned.images))
    with _progress("rendering", len(missing)) as on_start:
        results = work.render(missing, on_start)
    if all(result.failure is not None for result in results.values()):
        fail(f"no cell could be rendered: {next(iter(results.values())).failure}")
    if score:
        spec, notes = usable_scorers(work.plan.spec, tuple(work.cells.values()))
        print_notes(notes)
        with _progress("scoring", len(work.cells)) as on_start:
            results = work.score(results, spec, caches, on_start)
    with console.status("comparing pictures" if request.kind == "ablation" else "drawing"):
        tables = tuple(work.measure(table, results) for table in planned.tables)
    return tuple(table.by_distance() for table in tables) if request.sort else tables


def _said_before(work: PlotWork, missing: Sequence[Cell], images: int) -> str:
    """Say how much is to be rendered."""
    kept = len(work.cells) - len(missing)
    if not missing:
        return f"all {counted(kept, 'cell')} were rendered before"
    known = f"; {counted(kept, 'other')} rendered before" if kept else ""
    new = f"{counted(len(missing), 'cell')} of {counted(images, 'image')} to render"
    return f"{new}, {counted(len({cell.recipe.digest for cell in missing}), 'merge')}{known}"


@contextmanager
def _progress(title: str, total: int) -> Iterator[OnCell]:
    """Show a progress bar, and yield the function that is told of each cell before the work on it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not total) as progress:
        task, begun = progress.add_task("loading", total=total), 0

        def on_start(cell: Cell) -> None:
            nonlocal begun
            progress.update(task, completed=begun, description=escaped(cell.label))
            begun += 1

        yield on_start


def _write(
    study: str,
    kind: Kind,
    planned: PlannedPlot,
    tables: Sequence[PlotTable],
    work: PlotWork,
    targets: Targets,
    *,
    force: bool,
) -> None:
    """Write the picture and the page, and say where they are and which cells failed."""
    from optimizer.merging.engine.export import write_file
    from optimizer.plot.page import PlotFacts, plot_page
    from optimizer.plot.recipes import recipe_writer
    from optimizer.plot.results import failures_of, notes_of
    from optimizer.plot.sheet import plot_sheet
    from studies.files.png import picture_png

    infos = work.plan.infos
    facts = [f"base: {planned.base}"] if planned.base else []
    facts += [counted(len(work.cells), "cell"), f"{counted(planned.images, 'image')} each"]
    said = PlotFacts(title=f"{study}: {kind}", facts=tuple(facts), notes=notes_of(tables))
    sheet = plot_sheet(" · ".join((said.title, *facts)), tables, work.kept, infos)
    page = plot_page(said, tables, work.kept, infos, recipe_writer(work.plan))
    write_file(targets.png, picture_png(sheet), overwrite=force)
    write_file(targets.html, page.encode(), overwrite=force)
    print_notes(failures_of(tables))
    console.print(f"wrote {escaped(str(targets.png))} and {escaped(str(targets.html))}", soft_wrap=True)
    size = f"{work.kept.size_bytes() / 1e6:,.1f} MB"
    console.print(
        f"{escaped(str(targets.cells))} has the rendered cells ({size}); a plot to the same file renders new ones only",
        soft_wrap=True,
    )
