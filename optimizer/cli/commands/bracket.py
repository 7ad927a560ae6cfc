"""`mergetune bracket`: pit many checkpoints against each other, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from basics.names import typed_path
from optimizer.cli.common import (
    CacheFolder,
    cache_folder,
    console,
    errors,
    escaped,
    fail,
    loading_libraries,
    output_option,
    print_notes,
    yaml_target,
)
from optimizer.cli.workers.model_folders import digest_cache

if TYPE_CHECKING:
    from optimizer.bracket.contestants import FoundCheckpoints
    from optimizer.bracket.judging import Judge
    from optimizer.bracket.rendering import ContestantRenderer
    from optimizer.bracket.results import WrittenResults
    from optimizer.bracket.setup import BracketPlan
    from optimizer.cli.views.bracket import BracketView
    from studies.spec.rounds import BracketSpec

WINNERS: Final = 4


class JudgeChoice(StrEnum):
    """Who judges the matches."""

    SCORERS = "scorers"
    EYE = "eye"


def bracket(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            parser=typed_path,
            metavar="FOLDER|FILE...",
            help="The checkpoints that compete: files, diffusers folders, or folders of them.",
            show_default=False,
        ),
    ],
    suite: Annotated[
        Path | None,
        typer.Option(
            parser=typed_path,
            metavar="SPEC",
            help="A spec with the suite, the scorers and perhaps `rounds`. [default: a suite of eight prompts]",
            show_default=False,
        ),
    ] = None,
    by: Annotated[JudgeChoice, typer.Option(help="Who judges: the spec's scorers, or you.")] = JudgeChoice.SCORERS,
    winners: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"How many of the best are the parents of the search. [default: {WINNERS}]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_option(
            "FILE.yaml", "The spec of the search among the winners to write. [default: winners.yaml in the folder]"
        ),
    ] = None,
    folder: Annotated[
        Path,
        typer.Option(
            parser=typed_path, metavar="FOLDER", help="Folder of the bracket: its pictures, results and page."
        ),
    ] = Path("bracket"),
    anew: Annotated[
        bool, typer.Option("--anew", help="Forget what the folder's bracket has decided; pictures that fit are kept.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of -o.")] = False,
    cache: CacheFolder = None,
) -> None:
    """Pit many checkpoints against each other, round by round, and write the spec of a search among the winners."""
    from optimizer.bracket.candidate_files import candidate_files

    files = candidate_files(checkpoints)
    target = output or folder / "winners.yaml"
    _require_targets(folder, target, explicit=output is not None, force=force)
    count = min(WINNERS, len(files)) if winners is None else winners
    given = None if suite is None else _read(suite, [file.path for file in files[: max(2, count)]], by)
    with loading_libraries():
        from optimizer.bracket.contestants import open_checkpoints, require_alike
        from optimizer.bracket.record import only_one
        from optimizer.bracket.usual_suite import usual_bracket

    found = open_checkpoints(files)
    for line in found.left_out:
        errors.print(f"[yellow]left out:[/] {escaped(line)}")
    require_alike(found.checkpoints)
    first = [each.path for each in found.checkpoints]
    count = min(WINNERS, len(first)) if winners is None else winners
    spec = given or usual_bracket(found.checkpoints[0].architecture, first[: max(2, count)])
    plan = _plan(found, spec, count, cache_folder(cache))
    print_notes(plan.notes)
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder):
        _play(plan, folder, by, target, count, cache_folder(cache), anew=anew)


def _read(file: Path, parents: Sequence[Path], by: JudgeChoice) -> BracketSpec:
    """Read the spec, and refuse one that names files which are not there, before the libraries are loaded."""
    from optimizer.runtime.named_files import require_files_of
    from studies.spec.rounds import read_bracket

    found = read_bracket(file, parents)
    read_here = found.spec if by is JudgeChoice.SCORERS else found.spec.model_copy(update={"scorers": {}})
    require_files_of(read_here)
    return found


def _require_targets(folder: Path, target: Path, *, explicit: bool, force: bool) -> None:
    """Refuse a folder that is not a bracket's, and a file that cannot be written."""
    yaml_target(target)
    if folder.exists() and not folder.is_dir():
        fail(f"--folder: {folder} is not a folder")
    from optimizer.bracket.candidate_files import FILE

    strange = folder.is_dir() and not (folder / FILE).exists()
    if strange and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        fail(f"{folder} has files and no bracket: name a new or an empty folder with --folder")
    if explicit:
        from optimizer.merging.files.targets import refuse_target

        refuse_target(target, overwrite=force)


def _plan(found: FoundCheckpoints, spec: BracketSpec, winners: int, caches: Path) -> BracketPlan:
    """Check and hash everything, with a progress bar."""
    from optimizer.bracket.setup import make_bracket
    from optimizer.cli.workers.loading import bytes_progress

    total = sum(each.size_bytes for each in found.checkpoints)
    with bytes_progress("hashing checkpoints", total) as advance:
        return make_bracket(found, spec, winners, digest_cache(caches), advance)


def _play(
    plan: BracketPlan, folder: Path, by: JudgeChoice, target: Path, winners: int, caches: Path, *, anew: bool
) -> None:
    from optimizer.bracket.by_eye import EYE
    from optimizer.bracket.by_scorers import identity_of, require_one_number
    from optimizer.bracket.kept import KeptRenders
    from optimizer.bracket.play import Player
    from optimizer.bracket.record import BracketIdentity, begin
    from optimizer.bracket.rendering import ContestantRenderer
    from optimizer.bracket.results import write_results
    from optimizer.cli.views.bracket import BracketView

    spec = plan.bracket.spec
    if by is JudgeChoice.SCORERS:
        require_one_number(spec)
    renderer = ContestantRenderer(plan, KeptRenders(folder / "renders"))
    identity = BracketIdentity(
        checkpoints=tuple(contestant.sha256 for contestant in plan.contestants),
        rounds=renderer.keys,
        judge=EYE if by is JudgeChoice.EYE else identity_of(spec),
    )
    record = begin(folder, identity, [contestant.name for contestant in plan.contestants], anew=anew)
    if record.results:
        console.print(f"going on: {len(record.results)} of {len(plan.contestants) - 1} matches are decided")
    if record.open_matches:
        judge = None if by is JudgeChoice.EYE else _scorers(plan, renderer, caches)
        with BracketView.shown(plan) as view:
            Player(
                plan=plan, record=record, renderer=renderer, judge=judge or _eye(folder, view), watch=view.watch
            ).play()
    _print_results(write_results(plan, record, renderer, folder, target, winners), target, winners)


def _scorers(plan: BracketPlan, renderer: ContestantRenderer, caches: Path) -> Judge:
    from optimizer.bracket.by_scorers import ScorerJudge

    with console.status("loading scorers"):
        return ScorerJudge.load(plan.bracket.spec, renderer.device, caches)


def _eye(folder: Path, view: BracketView) -> Judge:
    from optimizer.bracket.by_eye import EyeJudge

    return EyeJudge(folder=folder / "sheets", ask=view.ask)


def _print_results(written: WrittenResults, target: Path, winners: int) -> None:
    """Say who won, and where the results are."""
    for place, name in enumerate(written.ranking[: max(WINNERS, winners)], start=1):
        console.print(f"{place}. {escaped(name)}")
    for path in written.files:
        console.print(f"wrote {escaped(str(path))}")
    console.print(f"next: mergetune study check {escaped(str(target))}")
