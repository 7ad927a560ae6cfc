"""Texts on pictures are drawn in letters, not in the boxes of a font that lacks them."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from optimizer.rendering.contact_sheet import contact_sheet, to_tensor
from optimizer.rendering.fonts import font_of, mean_width

BOX = "\uffff"  # no font has it, so each draws its box for it


def drawn(text: str, like: str) -> bytes:
    """Return the pixels of a text in the font of another one."""
    picture = Image.new("L", (200, 40))
    ImageDraw.Draw(picture).text((4, 4), text, fill=255, font=font_of(like, 20))
    return picture.tobytes()


@pytest.mark.parametrize("letter", ["é", "ü", "ß", "Ж", "α", "–", "·", "…", "×"])
def test_letters_beyond_ascii_are_no_boxes(letter: str) -> None:
    text = f"a {letter} b"
    assert drawn(text, text) != drawn(f"a {BOX} b", text)


def test_plain_texts_keep_the_font_that_they_have() -> None:
    assert drawn("a lion", "a lion") != drawn("a lion", "ä lion")


def test_a_letter_that_no_font_has_does_not_take_the_others_theirs() -> None:
    text = f"é{chr(0x10FFFD)}"
    assert drawn("é", text) != drawn(BOX, text)


@pytest.mark.parametrize("text", ["a lion in the snow", "ÄÖÜ ЖЖЖЖ ωωωω", "WWWW–WWWW"])
def test_lines_are_wrapped_by_the_width_that_they_have(text: str) -> None:
    assert mean_width(text, 20) * len(text) >= 0.9 * font_of(text, 20).getlength(text)


def test_a_sheet_with_captions_in_any_letters_is_drawn() -> None:
    image = to_tensor(Image.new("RGB", (64, 64)))
    plain, other = (contact_sheet("a sheet", [image], [caption]) for caption in ("eine Loewin", "eine Löwin"))
    assert plain.size == other.size
    assert plain.tobytes() != other.tobytes()
