"""Names that people give to studies, scorers and files, in whatever script: how they are spelt, compared and refused.

What looks the same may be stored as other characters: an e with an accent is one character or two (Unicode's forms NFC
and NFD; macOS hands out the latter). Names are kept in NFC, and compared in it. All that is in a name can be seen.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ZERO_WIDTH_NON_JOINER, ZERO_WIDTH_JOINER = "\u200c", "\u200d"
JOINERS = frozenset({ZERO_WIDTH_NON_JOINER, ZERO_WIDTH_JOINER})
EMOJI_STYLE = "\ufe0f"  # says that the symbol before it is to be drawn as an emoji
VIRAMA = 9  # the combining class of the signs after which joiners are part of the spelling of Indic scripts
JOINING_SCRIPTS = frozenset({"ARABIC", "SYRIAC", "MANDAIC", "NKO", "MONGOLIAN", "ADLAM"})  # letters that join
INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})  # general categories; but a space is seen
# Letters, marks and symbols that Unicode wants drawn as nothing (Default_Ignorable_Code_Point), or as a blank.
BLANKS = frozenset(map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0))) | frozenset(
    map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)


def plain(name: str) -> str:
    """Return a name in Unicode's form NFC, in which all names are stored and compared."""
    return unicodedata.normalize("NFC", name)


def is_same(one: str, other: str) -> bool:
    """Return whether two names are the same to people."""
    return plain(one) == plain(other)


def the_same(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is the same: the one of the same characters if it is there; None if there is none."""
    names = list(known)
    return name if name in names else next((each for each in names if is_same(each, name)), None)


def in_words(character: str) -> str:
    """Describe a character by its code point and Unicode's name, for messages."""
    shown = f"{character!r}, " if character.isprintable() and character not in BLANKS else ""
    return f"{shown}U+{ord(character):04X} {unicodedata.name(character, '')}".strip()


def unseen(name: str) -> str | None:
    """Return the first character that nobody can see, in words; None if all can be seen.

    Joiners are allowed where a script is spelt with them, and in emoji.
    """
    for index, character in enumerate(name):
        before, after = name[:index][-1:], name[index + 1 :][:1]
        if character in JOINERS:
            seen = _joins(before, after)
        elif character == EMOJI_STYLE:
            seen = _is_symbol(before)
        else:
            seen = character == " " or not (unicodedata.category(character) in INVISIBLE or character in BLANKS)
        if not seen:
            return in_words(character)
    return None


def _joins(before: str, after: str) -> bool:
    """Return whether a joiner between two characters is part of how they are spelt."""
    if not before:
        return False
    if unicodedata.combining(before) == VIRAMA:
        return True
    if _is_symbol(after):
        return _is_symbol(before) or before == EMOJI_STYLE
    return bool(after) and all(unicodedata.name(each, "").split(" ")[0] in JOINING_SCRIPTS for each in (before, after))


def _is_symbol(character: str) -> bool:
    return bool(character) and unicodedata.category(character) in {"So", "Sk"}


def is_word(character: str) -> bool:
    """Return whether a character is a letter, a digit, a mark upon one, or an underscore."""
    if character in BLANKS:
        return False
    return character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")


def with_plain_keys(data: Any) -> Any:
    """Return a document with the keys of all its mappings in NFC.

    Raises:
        ValueError: two keys of a mapping are the same but for that.
    """
    if isinstance(data, Mapping):
        keys = [plain(key) if isinstance(key, str) else key for key in data]
        if len(set(keys)) < len(keys):
            double = next(key for key in keys if keys.count(key) > 1)
            msg = f"{double!r} is named twice, with its accents stored in two ways: rename one of them"
            raise ValueError(msg)
        return {key: with_plain_keys(value) for key, value in zip(keys, data.values(), strict=True)}
    return [with_plain_keys(each) for each in data] if isinstance(data, list) else data


def as_on_disk(path: Path) -> Path:
    """Return a path as the disk spells it, where that differs in nothing but Unicode's form; else the path as it is."""
    if path.parent == path or path.exists():
        return path
    folder = as_on_disk(path.parent)
    try:
        name = the_same(path.name, sorted(entry.name for entry in folder.iterdir()))
    except OSError:
        return path
    return folder / (path.name if name is None else name)


def from_home(path: Path) -> Path:
    """Expand `~/`, and `~` alone, to the home folder; `~name` is a name like any other, wherever a path is given."""
    if path.parts[:1] != ("~",):
        return path
    try:
        return Path.home().joinpath(*path.parts[1:])
    except RuntimeError:  # there is none
        return path


def typed_path(path: str | Path) -> Path:
    """Return the path that somebody typed: `~/` is the home folder, and what is there is found in any form of its name.

    What is not there yet gets a name in NFC.
    """
    found = as_on_disk(from_home(Path(path)))
    return found if found.exists() or not found.name else found.with_name(plain(found.name))
