"""A bracket as one picture: rounds from left to right, each match beside the ones that its checkpoints won before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw

from basics.texts import visible
from optimizer.bracket.board import SHOWN_IMAGES, Board, BoardMatch, BoardRound, BoardSide
from optimizer.rendering.contact_sheet import INK, PAPER, scaled_picture
from optimizer.rendering.fonts import font_of

THUMB: Final = 88  # pixels, the longer side
GAP: Final = 6
TEXT: Final = 13  # font size
LINE: Final = 17  # height of a line of text
MARGIN: Final = 16
BETWEEN: Final = 44  # columns
SCORE_LINES: Final = 2
WIDTH: Final = SHOWN_IMAGES * (THUMB + GAP) + 2 * GAP  # of a match
SIDE: Final = THUMB + (1 + SCORE_LINES) * LINE + 2 * GAP  # height
MATCH: Final = 2 * SIDE + LINE + 2 * GAP  # height
HEAD: Final = 116  # height of what stands above the matches
CHAMPION: Final = 2 * THUMB  # pixels
WON, LOST, UNSURE, RULE = "#17703c", "#8a8f98", "#8a5a00", "#c9c6bf"


@dataclass(frozen=True, slots=True)
class _Placed:
    match: BoardMatch
    x: int
    y: int  # of its upper edge

    @property
    def middle(self) -> int:
        return self.y + MATCH // 2


def bracket_picture(board: Board) -> Image.Image:
    """Draw a bracket that is over."""
    columns = _placed(board.rounds)
    bottom = max(placed.y for column in columns for placed in column.values()) + MATCH
    end = MARGIN + len(columns) * (WIDTH + BETWEEN)
    sheet = Image.new("RGB", (end + CHAMPION + MARGIN, max(bottom, HEAD + MATCH + 4 * LINE) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, f"{board.champion.name} wins: {board.title}", (MARGIN, MARGIN), sheet.width - 2 * MARGIN, size=20)
    order = " · ".join(f"{place} {name}" for place, name in enumerate(board.ranking[:4], start=1))
    _write(draw, order, (MARGIN, MARGIN + 28), sheet.width - 2 * MARGIN)
    for index, (each, column) in enumerate(zip(board.rounds, columns, strict=True)):
        x = MARGIN + index * (WIDTH + BETWEEN)
        if column:
            _write(draw, each.title, (x, HEAD - 2 * LINE - GAP), WIDTH, size=15)
            _write(draw, each.settings, (x, HEAD - LINE), WIDTH + BETWEEN - GAP, INK, 11)
        for placed in column.values():
            _draw_lines(draw, placed, columns[index - 1] if index else {})
            _draw_match(sheet, placed)
    _draw_champion(sheet, board.champion, end, columns[-1][0].middle)
    return sheet


def _placed(rounds: Sequence[BoardRound]) -> list[dict[int, _Placed]]:
    """Return where the matches of each round stand, by their index in the round.

    A match stands at the height of the middle of those that lead to it. One that none leads to has a row of its own.
    """
    middles = _middles(rounds)
    return [
        {
            index: _Placed(
                match,
                MARGIN + number * (WIDTH + BETWEEN),
                HEAD + GAP + round(middles[number, index] - MATCH / 2),
            )
            for index, match in enumerate(each.matches)
            if (number, index) in middles
        }
        for number, each in enumerate(rounds)
    ]


def _middles(rounds: Sequence[BoardRound]) -> dict[tuple[int, int], float]:
    """Return the height of the middle of each match, by the index of its round and its own; none of those without."""
    every = [
        (number, index, [feeder for feeder in match.feeders if feeder is not None])
        for number, each in enumerate(rounds)
        for index, match in enumerate(each.matches)
        if len(match.sides) == 2
    ]
    # The matches that none leads to, from top to bottom: of those of a round, each takes up twice as much of the tree
    # as of the round before.
    own_rows = sorted((index << number, number, index) for number, index, feeders in every if not feeders)
    middles = {(number, index): row * (MATCH + MARGIN) + MATCH / 2 for row, (_, number, index) in enumerate(own_rows)}
    for number, index, feeders in every:
        if feeders:
            middles[number, index] = sum(middles[number - 1, feeder] for feeder in feeders) / len(feeders)
    return middles


def _draw_lines(draw: ImageDraw.ImageDraw, placed: _Placed, before: dict[int, _Placed]) -> None:
    """Draw the lines from the matches that lead to this one."""
    for side, feeder in enumerate(placed.match.feeders):
        if feeder is not None:
            origin, turn = before[feeder], placed.x - BETWEEN // 2
            goal = placed.y + side * (SIDE + GAP) + SIDE // 2
            start = (origin.x + WIDTH, origin.middle)
            draw.line([start, (turn, origin.middle), (turn, goal), (placed.x, goal)], fill=RULE, width=2)


def _draw_match(sheet: Image.Image, placed: _Placed) -> None:
    draw = ImageDraw.Draw(sheet)
    for index, side in enumerate(placed.match.sides):
        _draw_side(sheet, side, placed.x, placed.y + index * (SIDE + GAP))
    below = (placed.x + GAP, placed.y + 2 * SIDE + GAP + 2)
    _write(draw, placed.match.verdict, below, WIDTH - GAP, UNSURE if placed.match.unsure else INK)


def _draw_side(sheet: Image.Image, side: BoardSide, x: int, y: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((x, y, x + WIDTH, y + SIDE), outline=RULE)
    draw.rectangle((x, y, x + 3, y + SIDE), fill=WON if side.won else RULE)
    colour = INK if side.won else LOST
    _write(draw, f"{side.number}  {side.name}", (x + 2 * GAP, y + 2), WIDTH - 3 * GAP, colour)
    for index, image in enumerate(side.images):
        picture = scaled_picture(image, THUMB)
        if not side.won:
            picture = Image.blend(picture, Image.new("RGB", picture.size, PAPER), 0.45)
        sheet.paste(picture, (x + 2 * GAP + index * (THUMB + GAP), y + LINE + GAP))
    below = y + LINE + THUMB + 2 * GAP - 2
    for index, line in enumerate(_lines(side.scores)):
        _write(draw, line, (x + 2 * GAP, below + index * (LINE - 2)), WIDTH - 3 * GAP, colour, 11)


def _draw_champion(sheet: Image.Image, side: BoardSide, x: int, middle: int) -> None:
    draw = ImageDraw.Draw(sheet)
    top = middle - CHAMPION // 2
    draw.line([(x - BETWEEN, middle), (x - GAP, middle)], fill=WON, width=2)
    if side.images:
        sheet.paste(scaled_picture(side.images[0], CHAMPION), (x, top))
    _write(draw, side.name, (x, top + CHAMPION + GAP), CHAMPION + MARGIN, WON, 15)
    _write(draw, "wins", (x, top + CHAMPION + GAP + LINE + 2), CHAMPION + MARGIN, WON)


def _lines(scores: Sequence[str]) -> list[str]:
    """Divide scores into the lines that there are."""
    each = -(-len(scores) // SCORE_LINES)
    return [", ".join(scores[start : start + each]) for start in range(0, len(scores), each or 1)]


def _write(
    draw: ImageDraw.ImageDraw, text: str, at: tuple[int, int], width: int, fill: str = INK, size: int = TEXT
) -> None:
    """Write a line of text; what does not fit into the width is left out."""
    shown = visible(text)
    chosen = font_of(shown, size)
    if chosen.getlength(shown) > width:
        while shown and chosen.getlength(f"{shown}...") > width:
            shown = shown[:-1]
        shown = f"{shown}..."
    draw.text(at, shown, fill=fill, font=chosen)
