"""Names as people give them: long ones, which no table cuts, and names in any script, as files and keyboards have."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from command_line import Call
from demo_study import DEMO, SMALL, short_spec, write_spec
from safetensors.torch import load_file, save_file

from studies.errors import SpecError
from studies.records.database import open_database
from studies.records.stored_studies import create_study, open_study
from studies.records.values import ParentFile
from studies.spec.study import StudySpec, parse_spec

LONG = "anime-portraits-and-landscapes-with-ten-loras.second-try.v12"
LONG_SCORER = "sharpness_of_every_picture_as_it_was_measured_on_the_twelfth_of_may"
CHANGES = {**SMALL, "budget": {"trials": 3}, "probes": {"uniform": [0.5], "profiles": 0}}


@pytest.mark.slow
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
    with pytest.raises(SpecError, match=r"it holds U\+200B ZERO WIDTH SPACE, which cannot be seen"):
        parse_spec(yaml.safe_dump(short_spec(**changed("sharp\u200bness"))), base_dir=folder)


@pytest.mark.slow
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


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_kind_of_name_is_understood_in_both_forms(every: bool, folder: Path, call: Call) -> None:
    scorers = {"schärfe": {"kind": "sharpness"}, "kontrast": {"kind": "contrast"}}
    changes = {**CHANGES, "scorers": scorers, "objective": None, "objectives": ["schärfe", "kontrast"]}
    shutil.copy(DEMO / "animals.safetensors", folder / decomposed("éléphants.safetensors"))
    (folder / decomposed("Bücher")).mkdir()
    shutil.move(write_spec(folder / "spec.yaml", **changes, study=ACCENTS), folder / decomposed("Bücher") / "é.yaml")
    stored = ("--storage", "Bücher/été.db", "--artifacts", "Bücher/Bilder")
    call("study", "start", decomposed("Bücher/é.yaml"), *stored, code=0)
    assert (folder / decomposed("Bücher") / "été.db").exists()
    for form in (decomposed, str) if every else (decomposed,):
        typed = tuple(map(form, stored[:2]))
        assert "schärfe" in call("study", "resume", form("Bücher/é.yaml"), *map(form, stored), code=0).out
        call("study", "show", form(ACCENTS), "--weights", form("schärfe=1"), *typed, code=0)
        call(
            "export", form(ACCENTS), "--weights", form("schärfe=2,kontrast=1"), "--recipe", "r.yaml", "--force", *typed
        )
        call("study", "prune-artifacts", form(ACCENTS), "--dry-run", *map(form, stored), code=0)
        call("inspect", form("éléphants.safetensors"), "--no-check", code=0)
        call("merge", "r.yaml", "-o", form("Bücher/ö.safetensors"), "--force", code=0)
        twice = call("study", "show", ACCENTS, "--weights", f"schärfe=1,{decomposed('schärfe')}=1", *typed, code=2).err
        assert "is given twice" in twice
    assert sorted(path.name for path in (folder / decomposed("Bücher")).glob("ö*")) == ["ö.safetensors"]
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [decomposed("Bücher")]


@pytest.mark.parametrize("form", [pytest.param(str, marks=pytest.mark.slow), decomposed])
def test_a_lora_of_a_merged_file_is_named_in_both_forms(form: Callable[[str], str], folder: Path, call: Call) -> None:
    write_lora(folder / decomposed("schön.safetensors"))
    recipe = {"parents": [str(DEMO / "animals.safetensors")], "steps": [], "loras": ["schön.safetensors"]}
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    call("merge", "r.yaml", "-o", "m.safetensors", code=0)
    (folder / "Stile").mkdir()
    (folder / decomposed("schön.safetensors")).rename(folder / "Stile" / decomposed("übel=x.safetensors"))
    found = ("--lora", form("schön=Stile/übel=x.safetensors"), "--parent", f"A={DEMO / 'animals.safetensors'}")
    assert "bit for bit" in call("merge", "m.safetensors", "-o", "again.safetensors", *found, code=0).out


def write_lora(path: Path) -> None:
    """Write a LoRA for one layer of the demo's text encoder."""
    key = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    size_out, size_in = load_file(DEMO / "animals.safetensors")[key].shape
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    factors = {"lora_up": torch.ones(size_out, 1), "lora_down": torch.ones(1, size_in)}
    save_file({f"{name}.{factor}.weight": tensor * 0.1 for factor, tensor in factors.items()}, path)


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
