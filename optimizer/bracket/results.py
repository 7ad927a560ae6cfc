"""The files of a bracket that is over: its picture, its page, and the spec of the search among the winners."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from basics.files import replace_file
from optimizer.bracket.board import board_of
from optimizer.bracket.contestants import Contestant
from optimizer.bracket.page import bracket_page
from optimizer.bracket.picture import bracket_picture
from optimizer.bracket.record import BracketRecord
from optimizer.bracket.rendering import ContestantRenderer
from optimizer.bracket.setup import BracketPlan
from optimizer.bracket.winners import is_edited, winners_spec, write_winners
from studies.files.png import picture_png

PICTURE, PAGE = "bracket.png", "bracket.html"


@dataclass(frozen=True, kw_only=True)
class WrittenResults:
    """What was written of a bracket that is over."""

    ranking: tuple[str, ...]  # names, best first
    files: tuple[Path, ...]
    left: Path | None  # the spec of the winners that was left as it is, because somebody has edited it


def write_results(
    plan: BracketPlan,
    record: BracketRecord,
    renderer: ContestantRenderer,
    folder: Path,
    target: Path,
    winners: int,
    *,
    keep_edited: bool,
) -> WrittenResults:
    """Write the files of a bracket that is over; pictures that are lost by now are rendered again.

    Args:
        folder: of the picture and the page.
        target: the file of the spec.
        winners: how many are its parents.
        keep_edited: whether a spec that somebody has edited since it was written stays.

    Raises:
        SpecError: the spec's steps are of another number of parents.
        CheckpointError, NoMemoryError, UnscorableTrial: lost pictures cannot be rendered again.
        OSError: a file cannot be written.
    """

    def images(number: int, contestant: Contestant) -> tuple[Tensor, ...]:
        return renderer.rendered(number, contestant, lambda _: None).images

    board = board_of(record, plan.contestants, plan.suites, images)
    spec = winners_spec(plan.bracket, [plan.contestant(number) for number in record.ranking[:winners]])
    replace_file(folder / PICTURE, picture_png(bracket_picture(board)))
    replace_file(folder / PAGE, bracket_page(board, plan.notes).encode())
    files = [folder / PICTURE, folder / PAGE]
    left = target if keep_edited and is_edited(target, spec) else None
    if left is None:
        write_winners(target, spec)
        files.append(target)
    return WrittenResults(ranking=board.ranking, files=tuple(files), left=left)
