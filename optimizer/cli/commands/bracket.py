"""`mergetune bracket`: pit many checkpoints against each other, round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from basics.names import typed_path
from optimizer.cli.commands.serving import (
    LOOPBACK,
    VOTE_PORT,
    Host,
    PasswordFile,
    Port,
    VotingPage,
    password_for,
    served,
)
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
    from optimizer.bracket.by_vote import VoteJudge
    from optimizer.bracket.contestants import FoundCheckpoints
    from optimizer.bracket.identity import BracketIdentity, People
    from optimizer.bracket.judging import Judge
    from optimizer.bracket.record import BracketRecord
    from optimizer.bracket.rendering import ContestantRenderer
    from optimizer.bracket.setup import BracketPlan
    from optimizer.cli.views.bracket import BracketView
    from studies.spec.rounds import BracketSpec

WINNERS: Final = 4
WINNERS_FILE: Final = "winners.yaml"  # in the folder


class JudgeChoice(StrEnum):
    """Who judges the matches."""

    SCORERS = "scorers"
    EYE = "eye"
    VOTE = "vote"


PEOPLE: Final[Mapping[JudgeChoice, People]] = {JudgeChoice.EYE: "eye", JudgeChoice.VOTE: "vote"}


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
            help="A spec with the suite, the scorers and perhaps `rounds`. [default: a suite of sixteen prompts]",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        JudgeChoice,
        typer.Option(help="Who judges: the spec's scorers, you, or people on a page."),
    ] = JudgeChoice.SCORERS,
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
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file of -o, and a winners.yaml that you have edited.")
    ] = False,
    cache: CacheFolder = None,
    host: Host = LOOPBACK,
    port: Port = VOTE_PORT,
    password_file: PasswordFile = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page of votes in the browser.")] = False,
) -> None:
    """Pit many checkpoints against each other, round by round, and write the spec of a search among the winners."""
    from optimizer.bracket.checkpoint_files import checkpoint_files, require_count

    page = _page(by, host, port, password_file, show=show)
    files = checkpoint_files(checkpoints)
    target = output or folder / WINNERS_FILE
    _require_targets(folder, target, explicit=output is not None, force=force)
    count = min(WINNERS, len(files)) if winners is None else winners
    require_count(count, len(files))
    given = None if suite is None else _read(suite, [file.path for file in files[: max(2, count)]], by)
    with loading_libraries():
        from optimizer.bracket.contestants import open_checkpoints, require_alike
        from optimizer.bracket.record import bracket_lock
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
    with bracket_lock(folder):
        record, renderer = _played(plan, folder, by, cache_folder(cache), page, anew=anew)
        _write(plan, record, renderer, folder, target, count, keep_edited=output is None and not force)


def _read(file: Path, parents: Sequence[Path], by: JudgeChoice) -> BracketSpec:
    """Read the spec, and refuse one that names files which are not there, before the libraries are loaded."""
    from optimizer.runtime.named_files import require_files_of
    from studies.spec.rounds import read_bracket

    found = read_bracket(file, parents)
    if by is JudgeChoice.SCORERS:
        found.require_one_number()
    read_here = found.spec if by is JudgeChoice.SCORERS else found.spec.model_copy(update={"scorers": {}})
    require_files_of(read_here)
    return found


def _require_targets(folder: Path, target: Path, *, explicit: bool, force: bool) -> None:
    """Refuse a folder that is not a bracket's, and a file that cannot be written."""
    yaml_target(target)
    if folder.exists() and not folder.is_dir():
        fail(f"--folder: {folder} is not a folder")
    from optimizer.bracket.checkpoint_files import FILE
    from optimizer.merging.files.targets import refuse_target, refuse_unwritable

    strange = folder.is_dir() and not (folder / FILE).exists()
    if strange and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        fail(f"{folder} has files and no bracket: name a new or an empty folder with --folder")
    refuse_unwritable(folder, "--folder")
    if explicit:
        refuse_target(target, overwrite=force)
        refuse_unwritable(target.parent)


def _plan(found: FoundCheckpoints, spec: BracketSpec, winners: int, caches: Path) -> BracketPlan:
    """Check and hash everything, with a progress bar."""
    from optimizer.bracket.setup import make_bracket
    from optimizer.cli.workers.loading import bytes_progress

    total = sum(each.size_bytes for each in found.checkpoints)
    with bytes_progress("hashing checkpoints", total) as advance:
        return make_bracket(found, spec, winners, digest_cache(caches), advance)


def _played(
    plan: BracketPlan, folder: Path, by: JudgeChoice, caches: Path, page: VotingPage | None, *, anew: bool
) -> tuple[BracketRecord, ContestantRenderer]:
    """Play the bracket, or what is left of it."""
    from optimizer.bracket.identity import bracket_identity
    from optimizer.bracket.kept import KeptRenders
    from optimizer.bracket.play import play
    from optimizer.bracket.record import begin
    from optimizer.bracket.rendering import ContestantRenderer
    from optimizer.cli.views.bracket import BracketView

    renderer = ContestantRenderer(plan, KeptRenders(folder / "renders"))
    identity = bracket_identity(plan, renderer.keys, people=PEOPLE.get(by))
    record = begin(folder, identity, [contestant.name for contestant in plan.contestants], anew=anew)
    if record.results:
        console.print(f"going on: {len(record.results)} of {len(plan.contestants) - 1} matches are decided")
    if record.open_matches:
        scorers = _scorers(plan, renderer, caches) if by is JudgeChoice.SCORERS else None
        votes = None if page is None else _votes(folder, identity, anew=anew)
        with BracketView.shown(plan) as view, served(votes, page):
            play(plan, record, renderer, scorers or votes or _eye(folder, view), view.watch)
    return record, renderer


def _scorers(plan: BracketPlan, renderer: ContestantRenderer, caches: Path) -> Judge:
    from optimizer.bracket.by_scorers import ScorerJudge

    with console.status("loading scorers"):
        return ScorerJudge.load(plan.bracket.spec, renderer.device, caches)


def _votes(folder: Path, identity: BracketIdentity, *, anew: bool) -> VoteJudge:
    from optimizer.bracket.by_vote import VoteJudge
    from optimizer.bracket.votes_file import read_votes

    return VoteJudge(read_votes(folder, identity, anew=anew))


def _page(by: JudgeChoice, host: str, port: int, password_file: Path | None, *, show: bool) -> VotingPage | None:
    """Return where the page of votes is served; None where nobody votes."""
    if by is JudgeChoice.VOTE:
        return VotingPage(host, port, password_for(host, password_file, danger="the page can vote"), show)
    if (host, port, password_file, show) != (LOOPBACK, VOTE_PORT, None, False):
        fail("--host, --port, --password-file and --open are of the page of votes: add --by vote")
    return None


def _eye(folder: Path, view: BracketView) -> Judge:
    from optimizer.bracket.by_eye import EyeJudge

    return EyeJudge(folder=folder / "sheets", ask=view.ask)


def _write(
    plan: BracketPlan,
    record: BracketRecord,
    renderer: ContestantRenderer,
    folder: Path,
    target: Path,
    winners: int,
    *,
    keep_edited: bool,
) -> None:
    """Write the results, and say who won and where they are."""
    from optimizer.bracket.results import write_results

    written = write_results(plan, record, renderer, folder, target, winners, keep_edited=keep_edited)
    for rank, name in enumerate(written.ranking[: max(WINNERS, winners)], start=1):
        console.print(f"{rank}. {escaped(name)}")
    for path in written.files:
        console.print(f"wrote {escaped(str(path))}")
    if written.left is not None:
        print_notes(
            [f"{written.left} was edited and is left as it is; --force replaces it, -o FILE.yaml writes another"]
        )
    console.print(f"next: mergetune study check {escaped(str(target))}")
