"""Names in any script, and what in a name cannot be seen."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from basics.names import as_on_disk, from_home, in_words, is_same, typed_path, unseen, with_plain_keys

SEEN = {
    "Hindi": "हिन्दी शैली",
    "Hindi with a joiner": "क्\u200dष",
    "Persian with a non-joiner": "می\u200cخواهم",
    "Arabic with vowels": "مُحَمَّد",
    "Thai": "ภาพถ่ายที่สวย",
    "decomposed": unicodedata.normalize("NFD", "Ünïcödé"),
    "Vietnamese": unicodedata.normalize("NFD", "Tiếng Việt"),
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a red heart": "\u2764\ufe0f",
    "a thumb of some colour": "\U0001f44d\U0001f3fd",
}
UNSEEN = {
    "a\u202egnp": "U+202E RIGHT-TO-LEFT OVERRIDE",
    "a\u2066b": "U+2066 LEFT-TO-RIGHT ISOLATE",
    "a\u200db": "U+200D ZERO WIDTH JOINER",
    "می\u200c": "U+200C ZERO WIDTH NON-JOINER",
    "\u200dक": "U+200D ZERO WIDTH JOINER",
    "a\u200bb": "U+200B ZERO WIDTH SPACE",
    "\ufeffa": "U+FEFF ZERO WIDTH NO-BREAK SPACE",
    "a\u00adb": "U+00AD SOFT HYPHEN",
    "a\u3164": "U+3164 HANGUL FILLER",
    "a\u00a0b": "U+00A0 NO-BREAK SPACE",
    "a\ufe0f": "U+FE0F VARIATION SELECTOR-16",
    "a\x1b[0m": "U+001B",
    "a\ue000": "U+E000",
}


@pytest.mark.parametrize("name", SEEN.values(), ids=SEEN)
def test_names_of_all_scripts_can_be_seen(name: str) -> None:
    assert unseen(name) is None
    assert is_same(name, unicodedata.normalize("NFD", name))


@pytest.mark.parametrize(("name", "told"), UNSEEN.items(), ids=UNSEEN.values())
def test_what_cannot_be_seen_is_named_by_its_code_point(name: str, told: str) -> None:
    assert unseen(name) == told


def test_a_character_that_can_be_seen_is_shown_beside_its_code_point() -> None:
    assert in_words("\U0001f981") == "'\U0001f981', U+1F981 LION FACE"


def test_keys_that_differ_in_how_accents_are_stored_are_the_same() -> None:
    composed, decomposed = (unicodedata.normalize(form, "schärfe") for form in ("NFC", "NFD"))
    assert with_plain_keys({"scorers": {decomposed: [{decomposed: decomposed}]}}) == {
        "scorers": {composed: [{composed: decomposed}]}
    }
    with pytest.raises(ValueError, match="'schärfe' is named twice, with its accents stored in two ways"):
        with_plain_keys({composed: 1, decomposed: 2})


def test_a_path_is_found_however_the_disk_spells_it(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Modèles été") for form in ("NFC", "NFD"))
    file = tmp_path / decomposed / f"{composed}.safetensors"
    file.parent.mkdir()
    file.touch()
    assert as_on_disk(tmp_path / composed / f"{decomposed}.safetensors") == file
    assert as_on_disk(file) == file
    (tmp_path / composed).mkdir()  # now both are there, and each is itself
    assert as_on_disk(tmp_path / composed) == tmp_path / composed
    missing = tmp_path / composed / "other.safetensors"
    assert as_on_disk(missing) == missing


def test_what_is_typed_is_found_and_what_is_new_gets_the_stored_form(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Modèles été") for form in ("NFC", "NFD"))
    (tmp_path / decomposed).mkdir()
    (tmp_path / decomposed / f"{decomposed}.db").touch()
    assert typed_path(f"{tmp_path}/{composed}/{composed}.db") == tmp_path / decomposed / f"{decomposed}.db"
    assert typed_path(f"{tmp_path}/{composed}/ä {decomposed}") == tmp_path / decomposed / f"ä {composed}"
    for path in ("", ".", "/", "..", "a\udcff"):
        assert typed_path(path) == Path(path)


def test_only_a_tilde_alone_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert from_home(Path("~")) == tmp_path
    assert from_home(Path("~/a/~")) == tmp_path / "a" / "~"
    for path in ("~root", "~root/a", "a/~", "./~x", "/~/a"):
        assert from_home(Path(path)) == Path(path)
