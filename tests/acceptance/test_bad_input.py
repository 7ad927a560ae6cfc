"""What bad input gets: one clear line on stderr, exit code 2, and nothing half written."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from checkpoints import random_tensors, write_checkpoint
from command_line import Call, enter
from safetensors.torch import save_file
from slow_cases import first_fast

from search_spaces.blocks import Architecture, places
from studies.recipe.recipe import Operation, Parent, Recipe, Step, canonical_values
from studies.records import stored_studies, stored_trials
from studies.records.control import set_status
from studies.records.database import Database, open_database
from studies.records.origins import Origin
from studies.records.values import ParentFile, TrialResult
from studies.spec.final import FinalSettings
from studies.spec.study import StudySpec, load_spec

SPEC: Mapping[str, Any] = {
    "study": "portraits",
    "parents": ["a.safetensors", "b.safetensors"],
    "suite": {"prompts": ["a cat", "a dog"], "sizes": [64], "steps": 1},
    "scorers": {"sharpness": None},
    "render": {"device": "cpu"},
}


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints, good and bad; read only."""
    folder = tmp_path_factory.mktemp("parents")
    whole = write_checkpoint(folder / "a.safetensors", seed=1)
    write_checkpoint(folder / "b.safetensors", seed=2)
    write_checkpoint(folder / "xl.safetensors", "sdxl")
    (folder / "truncated.safetensors").write_bytes(whole.read_bytes()[:-1000])
    (folder / "header.safetensors").write_bytes(whole.read_bytes()[:100])
    (folder / "empty.safetensors").touch()
    (folder / "text.safetensors").write_text("this is no checkpoint, whatever it is called\n" * 10)
    (folder / "folder.safetensors").mkdir()
    tensors = random_tensors("sd15", 3)
    save_file({f"lora.{key}": tensors[key] for key in list(tensors)[:3]}, folder / "lora.safetensors")
    for key in sorted(key for key, tensor in tensors.items() if tensor.ndim > 1 and "diffusion_model" in key)[:5]:
        tensors[key] = tensors[key].repeat(2, *[1] * (tensors[key].ndim - 1))
    save_file(tensors, folder / "shapes.safetensors")
    return folder


@pytest.fixture
def folder(parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the checkpoints linked in."""
    return enter(tmp_path, monkeypatch, parents)


@pytest.fixture
def refused(call: Call, folder: Path) -> Callable[..., str]:
    """The one line a command is refused with; nothing may be left behind."""

    def names() -> list[str]:
        """SQLite's own files beside an open database come and go."""
        return sorted(path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm")))

    def run(*arguments: str) -> str:
        before = names()
        outcome = call(*arguments)
        assert outcome.code == 2, outcome
        assert outcome.err.startswith("error: "), outcome
        assert outcome.err.count("\n") == 1, outcome
        assert "Traceback" not in outcome.out + outcome.err
        assert names() == before
        return outcome.err

    return run


def write_spec(folder: Path, **changes: Any) -> str:
    """Written to spec.yaml; a change of None takes the key out."""
    data = {key: value for key, value in (dict(SPEC) | changes).items() if value is not None}
    (folder / "spec.yaml").write_text(yaml.safe_dump(data))
    return "spec.yaml"


@pytest.fixture
def database(folder: Path) -> Database:
    """With study "portraits": trial 0 complete, trial 1 still running."""
    spec = load_spec(folder / write_spec(folder))
    opened = open_database(f"sqlite:///{folder}/mergetune.db")
    files = []
    for letter, path in zip("AB", spec.parents, strict=True):
        stat = path.stat()
        digest = sha256_of(path)
        files.append(ParentFile(letter=letter, path=path, sha256=digest, bytes=stat.st_size, mtime_ns=stat.st_mtime_ns))
    records = stored_studies.create_study(opened, spec, files, ["maximize"], ["objective"])
    sums = Operation(method="weighted_sum", inputs=("A", "B"))
    rows = dict.fromkeys(places(Architecture.SD15), (0.5,))
    recipe = Recipe(
        architecture="sd15",
        parents=tuple(Parent(letter=file.letter, name=file.path.stem, sha256=file.sha256) for file in files),
        steps=(Step(operation=sums, values=canonical_values(rows)),),
    )
    for number in (0, 1):
        stored_trials.start_trial(records, number, Origin("uniform", "0.5"), recipe, "nobody")
    result = TrialResult(
        objectives={"objective": 1.0},
        image_scores={"sharpness": (1.0, 2.0)},
        set_scores={},
        pixels_sha256=("0" * 64, "1" * 64),
        seconds={"merge": 0.1},
        machine={"device": "cpu", "threads": "1", "torch": "0"},
    )
    stored_trials.finish_trial(records, 0, "nobody", result)
    opened.close()
    return opened


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --------------------------------------------------------------------------------------------- specs


def test_a_good_spec_is_fine_and_leaves_nothing_behind(call: Call, folder: Path) -> None:
    spec = write_spec(folder)
    before = sorted(folder.iterdir())
    outcome = call("study", "check", spec)
    assert outcome.code == 0, outcome
    assert "The spec is fine" in outcome.out
    assert "26 numbers" in outcome.out
    assert outcome.err == ""
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("command", ["check", "start"])
def test_a_missing_spec_is_named(command: str, refused: Callable[..., str]) -> None:
    assert "no spec at absent.yaml" in refused("study", command, "absent.yaml")


@pytest.mark.parametrize("command", ["check", "start"])
@pytest.mark.parametrize("file", ["a.safetensors", "folder.safetensors", "text.safetensors"])
def test_what_is_no_spec_is_refused(command: str, file: str, refused: Callable[..., str]) -> None:
    assert file in refused("study", command, file)


BAD_SPECS: list[tuple[dict[str, Any], list[str]]] = [
    ({"parnets": 1}, ["`parnets`", "did you mean `parents`?"]),
    ({"suite": SPEC["suite"] | {"shedule": "karras"}}, ["`suite.shedule`", "did you mean `schedule`?"]),
    ({"suite": {"prompts": []}}, ["suite is empty"]),
    ({"suite": SPEC["suite"] | {"sizes": [100]}}, ["100x100", "multiples of 64"]),
    ({"space": {"bounds": {"IN*": [0.9, 0.1]}}}, ["IN*", "0.9", "0.1"]),
    ({"space": {"frozen": {"IN99": 0}}}, ["IN99"]),
    ({"space": {"preset": "blokcs"}}, ["'blokcs'", "'blocks'"]),
    ({"space": {"frozen": {"*": 0}}}, ["frozen"]),
    ({"scorers": {"sharpnes": None}}, ["'sharpnes'", "'sharpness'"]),
    ({"scorers": None}, ["`scorers` is missing"]),
    ({"method": "add_difference"}, ["add_difference", "takes 3 inputs", "A, B"]),
    ({"parents": ["a.safetensors"]}, ["a study takes 2 to 26 parents", "names 1"]),
    ({"objective": {"fid": None}}, ["'fid'", "sharpness"]),
    ({"final": {"seeds": [3, 0]}}, ["final", "seed 0", "is one of the suite's"]),
    ({"final": {"prompts": [{"prompt": "a cat", "seeds": [0]}]}}, ["final", "seed 0"]),
    ({"final": {"prompts": []}}, ["`final.prompts`", "at least 1"]),
    ({"final": {"seeds": []}}, ["`final.seeds`", "at least 1"]),
    ({"final": {"prompts": ["a fox", "a fox"]}}, ["final", "same render twice"]),
    ({"final": {"top": -1}}, ["`final.top`", "greater than or equal to 0"]),
    ({"final": {"tpo": 1}}, ["`final.tpo`", "did you mean `top`?"]),
    ({"sampler": {"options": {"n_startup_trails": 1}}}, ["n_startup_trails"]),
    ({"racing": {"batch": 16}}, ["`racing`", "every 16 images", "the suite has"]),
    ({"racing": {"bach": 4}}, ["`racing.bach`", "did you mean `batch`?"]),
    ({"racing": {"batch": 2}}, ["`racing.batch`", "greater than or equal to 4"]),
    ({"racing": {"confidence": 1}}, ["`racing.confidence`", "less than 1"]),
    ({"racing": "fast"}, ["`racing`", "mapping"]),
    (
        {"scorers": {"sharpness": None, "contrast": None}, "objectives": ["sharpness", "contrast"], "racing": True},
        ["`racing` needs a single-number `objective`"],
    ),
    ({"probes": {"presets": ["GRAD_W"]}}, ["'GRAD_W' is unknown", "GRAD_V"]),
    ({"probes": {"recipes": ["absent.yaml"]}}, ["no recipe at", "absent.yaml"]),
    ({"probes": {"recipes": ["text.safetensors"]}}, ["text.safetensors", "contains no recipe"]),
    ({"warm_start": "portraits-0"}, ["warm_start", "no study database at"]),
    ({"warm_start": {"study": "x", "storage": "absent.db"}}, ["warm_start", "absent.db"]),
    ({"warm_start": {"study": "x", "tpo": 3}}, ["`warm_start.tpo`", "did you mean `top`?"]),
    ({"warm_start": {"study": "x", "top": 0}}, ["`warm_start.top`", "greater than or equal to 1"]),
    (
        {"scorers": {"sharpness": None, "contrast": None}, "objectives": ["sharpness", "contrast"],
         "sampler": {"name": "cmaes"}},
        ["cmaes", "single objective"],
    ),
    ({"space": {"granularity": "auto"}, "sampler": {"name": "tpe"}}, ["granularity auto", "depth", "tpe"]),
    ({"budget": {"patience": 5}, "sampler": {"name": "gp"}}, ["patience", "depth", "gp"]),
    ({"render": {"device": "cuda:99"}}, ["'cuda:99'", "cannot be used"]),
    ({"render": {"device": "abacus"}}, ["'abacus'", "cannot be used"]),
    ({"render": {"device": "cpu", "dtype": "fp16"}}, ["CPU renders in fp32"]),
]  # fmt: skip


RECIPES: list[tuple[dict[str, Any], str]] = [
    ({"parents": ["a.safetensors", "header.safetensors"], "ratio": 0.5}, "is not among the study's files"),
    ({"parents": ["a.safetensors", {"path": "b.safetensors", "sha256": "0" * 64}], "ratio": 0.5}, "parent B"),
    ({"parents": ["a.safetensors", "b.safetensors"], "ratio": {"IN99": 1}}, "'IN99'"),
    ({"parents": ["a.safetensors", "b.safetensors"], "ratio": 0.5, "dtype": "bf16"}, "got bf16: leave `dtype` out"),
]


@pytest.mark.parametrize(("recipe", "words"), first_fast(2, RECIPES))
def test_a_recipe_that_is_no_merge_of_the_parents_is_refused(
    recipe: dict[str, Any], words: str, folder: Path, refused: Callable[..., str]
) -> None:
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))
    message = refused("study", "check", write_spec(folder, probes={"recipes": ["mine.yaml"]}))
    assert "mine.yaml: " in message
    assert words in message


@pytest.mark.parametrize("command", first_fast(1, ["check", "start"]))
def test_a_study_to_begin_with_that_cannot_be_used_is_told_in_one_line(
    command: str, database: Database, folder: Path, refused: Callable[..., str]
) -> None:
    changes: dict[str, Any] = {"study": "more", "warm_start": "portrait"}
    message = refused("study", command, write_spec(folder, **changes))
    assert "warm_start: no study named 'portrait'" in message
    assert "there are: portraits" in message
    write_checkpoint(folder / "c.safetensors", seed=3)
    changes = {"study": "more", "warm_start": "portraits", "parents": ["a.safetensors", "c.safetensors"]}
    message = refused("study", command, write_spec(folder, **changes))
    assert "'portraits' merges a.safetensors + b.safetensors, this one a.safetensors + c.safetensors (sd15)" in message


def test_a_check_tells_what_would_be_copied(database: Database, folder: Path, call: Call) -> None:
    outcome = call("study", "check", write_spec(folder, study="more", warm_start="portraits"))
    assert outcome.code == 0, outcome
    assert "the best merge is rendered anew, because the scores do not hold here (another machine" in outcome.out


@pytest.mark.parametrize("command", first_fast(1, ["check", "start"]))
@pytest.mark.parametrize(("changes", "words"), BAD_SPECS, ids=[str(words[0]) for _, words in BAD_SPECS])
def test_a_spec_that_cannot_be_run_is_refused(
    command: str, changes: dict[str, Any], words: list[str], folder: Path, refused: Callable[..., str]
) -> None:
    message = refused("study", command, write_spec(folder, **changes))
    for word in words:
        assert word in message


# ------------------------------------------------------------------------------------------- parents


BAD_PARENTS = [
    ("absent.safetensors", ["no checkpoint at", "absent.safetensors"]),
    ("truncated.safetensors", ["truncated.safetensors", "cut off"]),
    ("header.safetensors", ["header.safetensors", "cut off"]),
    ("empty.safetensors", ["empty.safetensors", "is empty"]),
    ("text.safetensors", ["text.safetensors", "not a .safetensors file"]),
    ("folder.safetensors", ["folder.safetensors", "is a folder"]),
    ("lora.safetensors", ["lora.safetensors"]),
]


@pytest.mark.parametrize("command", first_fast(1, ["start", "check"]))
@pytest.mark.parametrize(("file", "words"), BAD_PARENTS)
def test_a_parent_that_is_no_whole_checkpoint_is_named(
    command: str, file: str, words: list[str], folder: Path, refused: Callable[..., str]
) -> None:
    message = refused("study", command, write_spec(folder, parents=["a.safetensors", file]))
    for word in words:
        assert word in message


@pytest.mark.parametrize(("file", "words"), BAD_PARENTS)
def test_inspecting_what_is_no_whole_checkpoint_is_refused(
    file: str, words: list[str], refused: Callable[..., str]
) -> None:
    message = refused("inspect", file)
    for word in words:
        assert word in message


@pytest.mark.parametrize(("file", "architecture"), [("a.safetensors", "sd15"), ("xl.safetensors", "sdxl")])
def test_inspecting_a_checkpoint_tells_what_it_is(file: str, architecture: str, call: Call, folder: Path) -> None:
    outcome = call("inspect", file)
    assert (outcome.code, outcome.err) == (0, "")
    assert architecture in outcome.out
    assert sha256_of(folder / file)[:10] in outcome.out
    assert "IN00" in outcome.out


@pytest.mark.parametrize("command", ["check", "start"])
def test_parents_of_two_families_are_refused(command: str, folder: Path, refused: Callable[..., str]) -> None:
    message = refused("study", command, write_spec(folder, parents=["a.safetensors", "xl.safetensors"]))
    assert "a.safetensors) is sd15" in message
    assert "xl.safetensors) is sdxl" in message


def test_parents_of_other_shapes_are_refused_with_three_keys(folder: Path, refused: Callable[..., str]) -> None:
    message = refused("study", "check", write_spec(folder, parents=["a.safetensors", "shapes.safetensors"]))
    assert "5 tensors" in message
    assert message.count("model.diffusion_model.") == 3
    assert message.count(" in A and ") == 3


# ------------------------------------------------------------------------------------------- scorers


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server answers, whether or not this machine has a network."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # made anew, it reads the variables


@pytest.mark.parametrize("command", ["check", "start"])
@pytest.mark.usefixtures("offline")
def test_a_scorer_without_weights_says_within_seconds_where_to_put_them(command: str, folder: Path, call: Call) -> None:
    start = time.process_time()
    outcome = call("study", command, write_spec(folder, scorers={"aesthetic": None}), "--cache", "cache")
    assert time.process_time() - start < 30  # seconds of computing: waiting for a network would show in the time-out
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: scorer 'aesthetic': LAION aesthetic head v2")
    assert f"at {folder}/cache/sac+logos+ava1-l14-linearMSE.pth" in outcome.err
    assert "option 'head'" in outcome.err
    if (folder / "mergetune.db").exists():  # `start` may open its database first, but begins nothing
        database = open_database(f"sqlite:///{folder}/mergetune.db")
        assert stored_studies.list_studies(database) == []
        database.close()


@pytest.mark.parametrize(
    ("scorers", "words"),
    [
        ({"clip_score": {"clip": {"model": "ViT-B-32", "pretrained": "gone.pt", "trained_as": "openai"}}}, ["gone.pt"]),
        ({"fid": {"reference": "photos", "weights": "gone.pth"}}, ["gone.pth"]),
    ],
)
def test_a_weight_file_that_is_named_and_not_there_is_named_again(
    scorers: dict[str, Any], words: list[str], folder: Path, refused: Callable[..., str]
) -> None:
    suite = SPEC["suite"] | {"seeds": list(range(16))}
    message = refused("study", "check", write_spec(folder, scorers=scorers, suite=suite), "--cache", str(folder))
    for word in [*words, str(folder)]:
        assert word in message


def test_fewer_reference_images_than_needed_are_refused(folder: Path, refused: Callable[..., str]) -> None:
    import timm
    from PIL import Image

    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), folder / "net.safetensors")
    (folder / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "photos" / "only.png")
    scorers = {"frechet": {"reference": "photos", "network": "test_resnet", "weights": "net.safetensors"}}
    suite = SPEC["suite"] | {"seeds": list(range(16))}
    message = refused("study", "check", write_spec(folder, scorers=scorers, suite=suite), "--cache", str(folder))
    assert "photos holds 1: add images" in message
    assert "at least" in message


def test_a_suite_too_small_for_a_set_score_is_refused(folder: Path, refused: Callable[..., str]) -> None:
    (folder / "photos").mkdir()
    suite = {"prompts": ["a cat"], "sizes": [64]}
    message = refused("study", "check", write_spec(folder, scorers={"fid": {"reference": "photos"}}, suite=suite))
    assert "needs at least" in message
    assert "got 1" in message


def test_a_final_too_small_for_a_set_score_is_refused(folder: Path, refused: Callable[..., str]) -> None:
    (folder / "photos").mkdir()
    suite = {"prompts": ["a cat"], "sizes": [64], "seeds": list(range(10))}
    final = {"seeds": [100, 101, 102]}
    scorers = {"fid": {"reference": "photos"}}
    message = refused("study", "check", write_spec(folder, scorers=scorers, suite=suite, final=final))
    assert "final: scorer 'fid' needs at least" in message
    assert "got 3" in message


def test_a_first_look_too_early_for_a_set_score_is_refused(folder: Path, refused: Callable[..., str]) -> None:
    (folder / "photos").mkdir()
    changes = {
        "suite": {"prompts": ["a cat"], "sizes": [64], "seeds": list(range(10))},
        "scorers": {"fid": {"reference": "photos"}},
        "racing": {"batch": 4},
    }
    message = refused("study", "check", write_spec(folder, **changes))
    assert "racing: scorer 'fid' needs at least 8 images, and the first check is after 4" in message


def test_racing_is_not_switched_on_under_way(database: Database, folder: Path, refused: Callable[..., str]) -> None:
    suite = SPEC["suite"] | {"seeds": list(range(20))}
    message = refused("study", "resume", write_spec(folder, suite=suite, racing=True))
    assert "`racing` of the spec changed" in message or "`suite`, `racing` of the spec changed" in message


# ------------------------------------------------------------------------------------------ databases

READERS = [
    ("study", "list"),
    ("study", "show", "portraits"),
    ("study", "stop", "portraits"),
    ("study", "resume", "portraits"),
    ("study", "finish", "portraits"),
    ("worker", "--study", "portraits"),
    ("export", "portraits"),
    ("dashboard", "--port", "0"),
]
reader = pytest.mark.parametrize("command", READERS, ids=" ".join)


@reader
def test_a_missing_database_is_named_and_not_made(command: tuple[str, ...], refused: Callable[..., str]) -> None:
    message = refused(*command, "--storage", "absent.db")
    assert "no study database at" in message
    assert "absent.db" in message


@reader
@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("text.safetensors", "is not a study database"),
        ("folder.safetensors", "is a folder"),
        ("nowhere/study.db", "nowhere does not exist"),
        ("mysql://me:s3cret@host/merges", "not a database URL"),
        ("sqlite://", "outlives the program"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(
    command: tuple[str, ...], storage: str, words: str, refused: Callable[..., str]
) -> None:
    message = refused(*command, "--storage", storage)
    assert words in message
    assert "s3cret" not in message


@reader
def test_a_server_that_does_not_answer_is_named_without_its_password(
    command: tuple[str, ...], call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGETUNE_PATIENCE_SECONDS", "0")
    waits = command[:2] in {("study", "resume"), ("study", "finish")} or command[0] in {"worker", "dashboard"}
    outcome = call(*command, "--storage", "postgresql+psycopg://me:s3cret@127.0.0.1:1/merges", code=3 if waits else 2)
    assert "me:***@127.0.0.1:1" in outcome.err
    assert outcome.err.startswith("error: "), outcome
    assert outcome.err.count("\n") == 1, outcome
    assert "s3cret" not in outcome.out + outcome.err


@reader
def test_a_database_of_a_newer_version_is_refused(
    command: tuple[str, ...], database: Database, folder: Path, refused: Callable[..., str]
) -> None:
    engine = sa.create_engine(database.url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE mergetune_version SET version_num = '9999'"))
    engine.dispose()
    assert "newer mergetune" in refused(*command)


def test_a_new_study_in_a_folder_that_is_not_there_is_refused(folder: Path, refused: Callable[..., str]) -> None:
    assert "nowhere does not exist" in refused("study", "start", write_spec(folder), "--storage", "nowhere/study.db")


# -------------------------------------------------------------------------------------------- studies


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("command", [row for row in READERS if "portraits" in row], ids=" ".join)
def test_an_unknown_study_is_told_with_those_there_are(command: tuple[str, ...], refused: Callable[..., str]) -> None:
    message = refused(*["landscapes" if word == "portraits" else word for word in command])
    assert "no study named 'landscapes'" in message
    assert "portraits" in message


@pytest.mark.usefixtures("database")
def test_starting_a_study_that_exists_offers_to_resume_it(folder: Path, refused: Callable[..., str]) -> None:
    message = refused("study", "start", write_spec(folder))
    assert "'portraits' exists" in message
    assert 'mergetune study resume "portraits"' in message


def stored_budget(database: Database) -> tuple[int, str]:
    opened = open_database(database.url)
    records = stored_studies.open_study(opened, "portraits")
    opened.close()
    return records.study.spec.budget.trials, records.study.status


@pytest.mark.parametrize("change", first_fast(1, ["content", "gone"]))
@pytest.mark.parametrize(
    "command",
    [
        ("study", "resume", "portraits", "--trials", "7"),
        ("worker", "--study", "portraits", "--until-done"),
        ("export", "portraits"),
    ],
    ids=" ".join,
)
def test_a_study_whose_parent_has_changed_is_not_touched(
    command: tuple[str, ...], change: str, database: Database, folder: Path, call: Call
) -> None:
    opened = open_database(database.url)
    if command[0] != "worker":  # which would leave a stopped study alone
        set_status(stored_studies.open_study(opened, "portraits"), "stopped")
    opened.close()
    before = stored_budget(database)
    (folder / "b.safetensors").unlink()
    if change == "content":
        shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    outcome = call(*command)
    assert outcome.code == 2, outcome
    assert outcome.err.count("\n") == 1
    assert "parent B" in outcome.err
    assert change == "content" or "--models FOLDER" in outcome.err
    assert "b.safetensors" in outcome.err
    assert stored_budget(database) == before
    assert not list(folder.glob("portraits-*"))


def test_a_study_whose_suite_has_changed_is_not_resumed(
    database: Database, folder: Path, refused: Callable[..., str]
) -> None:
    spec = write_spec(folder, suite=SPEC["suite"] | {"steps": 2})
    assert "`suite` of the spec changed since the study began" in refused("study", "resume", spec, "--trials", "7")
    assert stored_budget(database)[0] == 100


def test_a_study_is_listed_shown_and_stopped(database: Database, call: Call) -> None:
    listed = call("study", "list")
    assert (listed.code, listed.err) == (0, "")
    assert "portraits" in listed.out
    assert "1/100" in listed.out
    shown = call("study", "show", "portraits", "--trials")
    assert (shown.code, shown.err) == (0, "")
    assert "1 trial complete, 0 failed, 1 in progress" in shown.out
    stopped = call("study", "stop", "portraits")
    assert (stopped.code, stopped.err) == (0, "")
    assert 'mergetune study resume "portraits"' in stopped.out
    assert stored_budget(database)[1]


def test_an_empty_database_lists_no_study(folder: Path, call: Call) -> None:
    open_database(f"sqlite:///{folder}/mergetune.db").close()
    outcome = call("study", "list")
    assert (outcome.code, outcome.err) == (0, "")


# --------------------------------------------------------------------------------------------- export


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("trial", ["2", "99999999999999999999", "007123"])
def test_a_trial_that_does_not_exist_is_not_exported(trial: str, refused: Callable[..., str]) -> None:
    assert f"no trial {trial}" in refused("export", "portraits", "--trial", trial)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("trial", first_fast(2, ["first", "-1", "1.5", "", "²"]))
def test_what_is_no_trial_number_is_refused(trial: str, refused: Callable[..., str]) -> None:
    assert "--trial takes a number or best" in refused("export", "portraits", f"--trial={trial}")


@pytest.mark.usefixtures("database")
def test_a_trial_that_is_not_complete_is_not_exported(call: Call, folder: Path) -> None:
    outcome = call("export", "portraits", "--trial", "1")
    assert outcome.code == 2
    assert "trial 1 is running" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not list(folder.glob("*portraits-trial*"))


@pytest.mark.usefixtures("database")
def test_an_existing_file_is_not_replaced(folder: Path, refused: Callable[..., str]) -> None:
    target = folder / "portraits-trial-0.safetensors"
    target.write_bytes(b"mine")
    for arguments in ([], ["-o", str(target)], ["-o", target.name]):
        message = refused("export", "portraits", *arguments)
        assert "portraits-trial-0.safetensors exists" in message
        assert "--force" in message
    assert target.read_bytes() == b"mine"


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("arguments", [["-o", "nowhere/x.safetensors"], ["-o", "place.safetensors", "--force"]])
def test_a_place_that_cannot_be_written_is_named(arguments: list[str], call: Call, folder: Path) -> None:
    (folder / "place.safetensors").mkdir()
    outcome = call("export", "portraits", *arguments)
    assert outcome.code == 2, outcome
    assert outcome.err.startswith(f"error: cannot write {arguments[1]}")
    assert outcome.err.count("\n") == 1
    assert not (folder / "nowhere").exists()
    assert not list(folder.glob("**/*.part"))


def test_a_study_without_a_finished_parent_cannot_be_finished(
    folder: Path, database: Database, refused: Callable[..., str]
) -> None:
    assert "no parent's trial is finished" in refused("study", "finish", "portraits")


def test_a_study_that_has_no_final_says_so(folder: Path, database: Database, refused: Callable[..., str]) -> None:
    with database.write() as connection:
        (text,) = connection.exec_driver_sql("SELECT spec FROM mergetune_studies").one()
        spec = StudySpec.from_json(text).model_copy(update={"final": FinalSettings(top=0)})
        connection.execute(sa.text("UPDATE mergetune_studies SET spec = :spec"), {"spec": spec.to_json()})
    database.close()
    assert "final: {top: 0}" in refused("study", "finish", "portraits")


def test_a_study_too_large_for_the_memory_is_told_what_fits_and_that_is_accepted(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said by `check`, for which the spec is fine all the same, and by `start`, which refuses."""
    monkeypatch.setattr("optimizer.runtime.fitting.available_host_bytes", lambda: 700_000_000)
    suite = {"prompts": [f"{count} cats" for count in range(8)], "sizes": [512], "steps": 1}
    spec = write_spec(folder, suite=suite)
    told = call("study", "check", spec, code=0).out
    advice = re.search(
        r"it cannot start here now: not enough memory: .*write `batch_size: ([1-7])` under `render`", told
    )
    assert advice, told
    assert f"write `batch_size: {advice[1]}` under `render`" in call("study", "start", spec, code=2).err
    fitting = write_spec(folder, suite=suite, render={"device": "cpu", "batch_size": int(advice[1])})
    assert "not enough memory" not in call("study", "check", fitting, code=0).out
