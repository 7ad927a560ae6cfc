"""Sides of a bracket's match, with pictures that a test makes."""

from __future__ import annotations

from small_files import small_parents
from torch import Tensor

from optimizer.bracket.contestants import Contestant
from optimizer.bracket.judging import MatchSide
from optimizer.merging.files.change_guard import OpenedFiles


def match_side(number: int, images: tuple[Tensor, ...], failure: str | None = None) -> MatchSide:
    """Return the side of a contestant `model-NUMBER`; its file is a small checkpoint, which nobody reads.

    Args:
        images: uint8 [3, h, w] each.
        failure: why there are none.
    """
    contestant = Contestant(
        number=number,
        name=f"model-{number}",
        checkpoint=small_parents("sd15")[0],
        sha256=f"{number:064x}",
        opened=OpenedFiles.now({}),
    )
    return MatchSide(contestant=contestant, images=images, failure=failure)
