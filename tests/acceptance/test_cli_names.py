"""Names as people give them: long ones, which no table cuts, and names in any script, as files and keyboards have."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest
import yaml
from command_line import Call, caller, enter
from demo_study import DEMO, SMALL, short_spec, write_spec

from studies.errors import SpecError
from studies.records.database import open_database
from studies.records.stored_studies import create_study, open_study
from studies.records.values import ParentFile
from studies.spec.study import StudySpec, parse_spec

LONG = "anime-portraits-and-landscapes-with-ten-loras.second-try.v12"
LONG_SCORER = "sharpness_of_every_picture_as_it_was_measured_on_the_twelfth_of_may"
CHANGES = {**SMALL, "budget": {"trials": 3}, "probes": {"uniform": [0.5], "profiles": 0}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(tmp_path, monkeypatch)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys)


def test_what_is_piped_has_whole_names_on_its_lines(folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    parents = []
    for name in ("animals", "foods"):
        parents.append(folder / f"{name}-pruned-emaonly-fp16-{'x' * 60}.safetensors")
        shutil.copy(DEMO / f"{name}.safetensors", parents[-1])
    changes = {
        **CHANGES,
        "parents": list(map(str, parents)),
        "scorers": {LONG_SCORER: {"kind": "sharpness"}, "contrast": None},
        "objective": None,
        "final": {"top": 1},
    }
    started = call("study", "start", write_spec(folder / "a.yaml", **changes, study=LONG), code=0).out
    assert all(parent.name in started for parent in parents)
    listed = call("study", "list", code=0).out
    row = next(line for line in listed.splitlines() if LONG in line)
    assert f"{parents[0].stem} + {parents[1].stem}" in row
    shown = call("study", "show", LONG, "--trials", code=0).out
    assert LONG_SCORER in shown
    other = {**changes, "objectives": [LONG_SCORER, "contrast"]}
    call("study", "start", write_spec(folder / "b.yaml", **other, study=f"{LONG[:-1]}b"), code=0)
    assert f"{LONG_SCORER} (higher is better)" in call("study", "show", f"{LONG[:-1]}b", code=0).out
    compared = call("study", "compare", LONG, f"{LONG[:-1]}b", code=0).out
    assert any(LONG in line and f"{LONG[:-1]}b" in line for line in compared.splitlines())
    assert "…" not in started + listed + shown + compared
    inspected = call("inspect", parents[0], "--no-check", code=0).out
    assert parents[0].name in inspected


HINDI, PERSIAN, ARABIC, THAI, ACCENTS = "वनराज-चित्र v2", "می\u200cخواهم", "مُحَمَّد", "ภาพที่สวย", "Étude à l été"


def decomposed(text: str) -> str:
    """As macOS hands out file names."""
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("name", [HINDI, PERSIAN, ARABIC, THAI, ACCENTS, decomposed(ACCENTS)])
def test_a_study_is_called_as_people_write(name: str, folder: Path) -> None:
    spec = parse_spec(yaml.safe_dump(short_spec(study=name)), base_dir=folder)
    assert spec.study == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("animals\u202efdp", "U+202E RIGHT-TO-LEFT OVERRIDE is none of them"),
        ("anim\u200dals", "U+200D ZERO WIDTH JOINER"),
        ("lion \U0001f981", "'\U0001f981', U+1F981 LION FACE"),
        ("a/b", "'/', U+002F SOLIDUS"),
        ("\u0301e", "beginning with a letter or digit"),
        ("", "at least 1 character"),
    ],
)
def test_what_a_study_cannot_be_called_is_named(name: str, told: str, folder: Path) -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec(yaml.safe_dump(short_spec(study=name)), base_dir=folder)
    assert told in str(refused.value)


@pytest.mark.parametrize("place", ["scorers", "loras", "parameters", "groups"])
def test_names_in_a_spec_show_all_that_is_in_them(place: str, folder: Path) -> None:
    def changed(name: str) -> dict[str, object]:
        return {
            "scorers": {**SMALL, "scorers": {name: {"kind": "sharpness"}}, "objective": {decomposed(name): None}},
            "loras": {"loras": {name: {"path": "a.safetensors"}}},
            "parameters": {"space": {"parameters": {name: 0.5}}},
            "groups": {"space": {"groups": {name: ["IN*"]}}},
        }[place]

    for name in (HINDI, PERSIAN, THAI, ACCENTS):
        parse_spec(yaml.safe_dump(short_spec(**changed(name))), base_dir=folder)
    with pytest.raises(SpecError, match=r"holds U\+200B ZERO WIDTH SPACE, which nobody can see"):
        parse_spec(yaml.safe_dump(short_spec(**changed("sharp\u200bness"))), base_dir=folder)


def test_files_of_a_mac_and_names_typed_on_one_are_found(folder: Path, call: Call) -> None:
    parents = []
    for name in ("animals", "foods"):
        shutil.copy(DEMO / f"{name}.safetensors", folder / decomposed(f"Modèle {name} été.safetensors"))
        parents.append(f"Modèle {name} été.safetensors")
    changes = {**CHANGES, "scorers": {"schärfe": {"kind": "sharpness"}}, "objective": {decomposed("schärfe"): None}}
    spec = write_spec(folder / "spec.yaml", **changes, parents=parents, study=decomposed(ACCENTS))
    assert "3 trials complete" in call("study", "start", spec, code=0).out
    for name in (ACCENTS, decomposed(ACCENTS)):
        assert "schärfe" in call("study", "show", name, code=0).out
        call("worker", "--study", name, "--until-done", code=0)
    again = call("study", "start", write_spec(spec, **changes, parents=parents, study=ACCENTS), code=2).err
    assert "exists in this database" in again
    for name in ("animals", "foods"):  # and now from a disk that stores it composed
        (folder / decomposed(f"Modèle {name} été.safetensors")).rename(folder / f"Modèle {name} été.safetensors")
    assert "4 trials complete" in call("study", "resume", ACCENTS, "--trials", "4", code=0).out


def test_names_that_were_stored_before_still_open(folder: Path) -> None:
    names = (decomposed("schärfe"), "ze\u3164ro")
    data = short_spec(
        study=decomposed(ACCENTS), scorers={name: {"kind": "sharpness"} for name in names}, objective=None
    )
    spec = StudySpec.model_validate(data)
    database = open_database(f"sqlite:///{folder}/mergetune.db")
    parent = ParentFile(letter="A", path=folder, sha256="0" * 64, bytes=1, mtime_ns=1)
    create_study(database, spec, (parent,), ("maximize",), ("objective",))
    stored = open_study(database, ACCENTS).study
    database.close()
    assert stored.name == decomposed(ACCENTS)
    assert tuple(stored.spec.scorers) == names
