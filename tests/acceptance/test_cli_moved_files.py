"""A study whose files have moved since it began: commands find them by their content, and refuse other content."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
import yaml
from command_line import Call, enter, run_in
from demo_study import DEMO, PROMPTS, SMALL, short_spec, write_spec
from diffusers_pipelines import small_pipeline
from safetensors.torch import load_file, save_file

from optimizer.runtime.model_files import ModelFolders
from search_spaces.blocks import Architecture
from studies.records.database import open_database
from studies.records.stored_studies import open_study
from studies.spec.paths import paths_of

KINDS = {  # what a study reads -> its file in the project
    "parent A": "animals.safetensors",
    "parent B": "foods/unet/diffusion_pytorch_model.safetensors",
    "the LoRA 'style'": "style.safetensors",
    "the VAE": "vae.safetensors",
    "scorer 'clip_score'": "clip.safetensors",
    "scorer 'likeness'": "reference",
}
SOME_KINDS = [  # the others are found and refused by the same code
    pytest.param(kind, marks=() if kind in {"parent B", "the VAE", "scorer 'likeness'"} else pytest.mark.slow)
    for kind in KINDS
]
LAYER = "lora_unet_mid_block_attentions_0_proj_in"


def write_lora(path: Path) -> None:
    width = load_file(DEMO / "animals.safetensors")["model.diffusion_model.middle_block.1.proj_in.weight"].shape[0]
    factors = {f"{LAYER}.lora_down.weight": torch.full((1, width, 1, 1), 0.1)}
    save_file(factors | {f"{LAYER}.lora_up.weight": torch.full((width, 1, 1, 1), 0.1)}, path)


def write_pipeline(folder: Path) -> None:
    """Write the demo's second parent as a diffusers folder; its VAE is all zeros, because A's is used."""
    pipeline = small_pipeline(Architecture.SD15, load_file(DEMO / "foods.safetensors"))
    pipeline.vae.to_empty(device="cpu")
    for parameter in pipeline.vae.parameters():
        torch.nn.init.zeros_(parameter)
    pipeline.save_pretrained(folder)


def write_project(folder: Path) -> Path:
    """Write all kinds of files that a study reads, and its spec with paths relative to it."""
    folder.mkdir()
    for name in ("animals.safetensors", "clip.safetensors", "features.safetensors", "tiny-clip.json"):
        shutil.copy(DEMO / name, folder / name)
    shutil.copytree(DEMO / "reference", folder / "reference")
    shutil.copy(DEMO / "foods.safetensors", folder / "vae.safetensors")
    write_pipeline(folder / "foods")
    write_lora(folder / "style.safetensors")
    (folder / "half.yaml").write_text(yaml.safe_dump({"parents": ["animals.safetensors", "foods"], "ratio": 0.5,
                                                      "method": "weighted_sum"}))  # fmt: skip
    spec = short_spec(
        study="moved",
        parents=["animals.safetensors", "foods"],
        loras={"style": {"path": "style.safetensors"}},
        vae="vae.safetensors",
        suite={"prompts": PROMPTS, "seeds": [1], "sizes": [64], "steps": 1},
        probes={"uniform": [], "profiles": 0, "recipes": ["half.yaml"]},
        budget={"trials": 3},
        final={"top": 1},
    )
    spec["scorers"]["clip_score"]["clip"] |= {"pretrained": "clip.safetensors", "config_dir": "."}
    spec["scorers"]["likeness"] |= {"reference": "reference", "weights": "features.safetensors"}
    (folder / "study.yaml").write_text(yaml.safe_dump(spec))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project and the database of its study, of which no trial has run."""
    place = tmp_path_factory.mktemp("place")
    write_project(place / "project")
    run_in(place, "study", "start", "project/study.yaml", "--detach")
    return place


@pytest.fixture
def relocated(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a copy of the database; the project has moved to `new` below it, and is put back afterwards."""
    databases = [sqlite3.connect(folder / "mergetune.db") for folder in (place, tmp_path)]
    with closing(databases[0]) as source, closing(databases[1]) as copy:
        source.backup(copy)
    shutil.copytree(place / "project", tmp_path / "new")
    (place / "project").rename(place / "hidden")
    yield enter(tmp_path, monkeypatch)
    shutil.rmtree(place / "project", ignore_errors=True)
    (place / "hidden").rename(place / "project")


def locate(folder: Path, *folders: Path) -> list[Path]:
    """Where the study's files are found, if only these folders are searched."""
    database = open_database(f"sqlite:///{folder}/mergetune.db", create=False)
    stored = open_study(database, "moved").study
    database.close()
    return list(paths_of(ModelFolders(folders=folders, exclusive=False).locate(stored).spec))


def rename_all(new: Path) -> None:
    """Give every file and folder of a project another name in another folder, but the one that is found by its name."""
    (new / "deep").mkdir()
    for index, path in enumerate(sorted(new.iterdir())):
        if path.name not in {"deep", "tiny-clip.json"}:
            path.rename(new / "deep" / f"{index}{path.suffix}")


@pytest.mark.slow
def test_each_command_names_the_option_and_takes_it(relocated: Path, call: Call) -> None:
    for command in (("study", "resume", "moved"), ("worker", "--study", "moved", "--until-done")):
        refused = call(*command, code=2)
        assert re.search(r"parent A \(animals.safetensors, sha256 \w{10}...\) is not at .*--models FOLDER", refused.err)
        assert refused.err.count("\n") == 1
    resumed = call("study", "resume", "moved", "--models", "new", code=0)
    assert "3 trials complete, 0 failed" in resumed.out
    again = call("study", "resume", "moved", "--models", "new", code=0)  # it has ended: nothing is opened
    assert 'study resume "moved" --models new --trials N' in again.out
    assert "held-out gain" in call("study", "finish", "moved", "--models", "new", code=0).out
    for command in (("study", "finish", "moved"), ("export", "moved", "-o", "out.safetensors")):
        assert "--models FOLDER" in call(*command, code=2).err
    shutil.rmtree(relocated / "new" / "reference")  # an export needs no scorer
    exported = call("export", "moved", "-o", "out.safetensors", "--models", "new", code=0)
    assert "identical, to the bit" in " ".join(exported.out.split())
    call("export", "moved", "--recipe", "best.yaml", "--models", "new", code=0)
    recipe = yaml.safe_load(Path("best.yaml").read_text())
    assert recipe["parents"]["A"]["path"] == str(relocated / "new" / "animals.safetensors")


def test_a_whole_folder_under_other_names_is_found_by_its_content(relocated: Path) -> None:
    new = relocated / "new"
    rename_all(new)
    found = locate(relocated, new)
    assert all(path.is_relative_to(new) and path.exists() for path in found)
    assert len(found) == 8
    assert len(set(found)) == 8


@pytest.mark.parametrize(
    ("variable", "workers"),
    [(True, "1"), pytest.param(True, "2", marks=pytest.mark.slow), pytest.param(False, "2", marks=pytest.mark.slow)],
)
def test_a_study_goes_on_with_files_that_lie_elsewhere_under_other_names(
    variable: bool, workers: str, relocated: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename_all(relocated / "new")
    if variable:
        monkeypatch.setenv("MERGETUNE_MODELS", str(relocated / "new"))
    models = () if variable else ("--models", "new")
    resumed = call("study", "resume", "moved", "--workers", workers, "--trials", "4", *models, code=0)
    assert "4 trials complete, 0 failed" in resumed.out
    assert "worker 2" not in resumed.err


@pytest.mark.parametrize("what", SOME_KINDS)
def test_one_file_that_moved_is_named_and_found_beside_those_that_did_not(
    what: str, place: Path, relocated: Path
) -> None:
    shutil.copytree(place / "hidden", place / "project")
    name = KINDS[what].split("/")[0]
    (place / "project" / name).rename(relocated / name)
    with pytest.raises(Exception, match=rf"{re.escape(what)} .*--models FOLDER"):
        locate(relocated)
    moved = [path for path in locate(relocated, relocated) if path.is_relative_to(relocated)]
    assert [path.name for path in moved] == [name]


@pytest.mark.parametrize("what", SOME_KINDS)
def test_other_content_of_the_same_name_is_refused(what: str, relocated: Path, call: Call) -> None:
    file = relocated / "new" / KINDS[what]
    file = next(path for path in sorted(file.iterdir())) if file.is_dir() else file
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refused = call("study", "resume", "moved", "--models", "new", code=2)
    assert what in refused.err
    assert "another content" in refused.err
    assert refused.err.count("\n") == 1


def test_what_replaced_a_file_at_its_old_path_is_not_taken_for_it(place: Path, relocated: Path) -> None:
    shutil.copytree(place / "hidden", place / "project")
    (place / "project" / "animals.safetensors").write_bytes((DEMO / "foods.safetensors").read_bytes())
    (place / "project" / "clip.safetensors").write_bytes(b"other")
    found = locate(relocated, relocated / "new")
    assert found[0] == relocated / "new" / "animals.safetensors"
    assert relocated / "new" / "clip.safetensors" in found
    assert place / "project" / "style.safetensors" in found


class TestASpecFileThatMovedWithItsProject:
    @pytest.mark.slow
    @pytest.mark.usefixtures("relocated")
    def test_resumes_the_study(self, call: Call) -> None:
        assert "3 trials complete, 0 failed" in call("study", "resume", "new/study.yaml", code=0).out

    @pytest.mark.usefixtures("relocated")
    def test_resumes_it_for_other_workers(self, call: Call) -> None:
        assert "is active" in call("study", "resume", "new/study.yaml", "--detach", code=0).out

    @pytest.mark.parametrize("detach", [(), ("--detach",)])
    def test_is_refused_where_a_file_is_another(self, detach: tuple[str, ...], relocated: Path, call: Call) -> None:
        shutil.copy(relocated / "new" / "vae.safetensors", relocated / "new" / "animals.safetensors")
        refused = call("study", "resume", "new/study.yaml", *detach, code=2)
        assert "parent A" in refused.err
        assert "is not the file the study began with" in refused.err

    def test_is_refused_where_the_right_file_lies_elsewhere(self, relocated: Path, call: Call) -> None:
        (relocated / "new" / "animals.safetensors").rename(relocated / "right.safetensors")
        shutil.copy(relocated / "new" / "vae.safetensors", relocated / "new" / "animals.safetensors")
        refused = call("study", "resume", "new/study.yaml", "--models", ".", code=2)
        assert "correct the path in the spec" in refused.err

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda spec: spec | {"parents": spec["parents"][::-1]}, "parent A"),
            (lambda spec: spec | {"vae": None}, "`vae` of the spec changed"),
            (lambda spec: spec | {"loras": {"style": {"path": "style.safetensors", "weight": 0.5}}}, "`loras`"),
        ],
    )
    def test_is_refused_where_it_asks_for_something_else(
        self, change: Callable[[dict[str, object]], dict[str, object]], told: str, relocated: Path, call: Call
    ) -> None:
        file = relocated / "new" / "study.yaml"
        file.write_text(yaml.safe_dump(change(yaml.safe_load(file.read_text()))))
        assert told in call("study", "resume", file, code=2).err

    @pytest.mark.slow
    def test_is_refused_where_a_recipe_says_something_else(self, relocated: Path, call: Call) -> None:
        recipe = relocated / "new" / "half.yaml"
        recipe.write_text(recipe.read_text().replace("0.5", "0.25"))
        refused = call("study", "resume", "new/study.yaml", code=2)
        assert re.search(r"the recipe .*half.yaml has changed since the study began", refused.err)
        recipe.unlink()  # the study has it
        call("study", "resume", "new/study.yaml", code=0)


@pytest.mark.slow
def test_images_are_scored_again_though_the_parents_have_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    enter(tmp_path, monkeypatch)
    (tmp_path / "old").mkdir()
    for name in ("animals", "foods"):
        shutil.copy(DEMO / f"{name}.safetensors", tmp_path / "old")
    changes = {
        **SMALL,
        "parents": [str(tmp_path / "old" / f"{name}.safetensors") for name in ("animals", "foods")],
        "budget": {"trials": 3},
        "probes": {"uniform": [0.5], "profiles": 0},
        "render": {"degenerate_limit": 8, "keep": "all"},
    }
    call("study", "start", write_spec(tmp_path / "first.yaml", **changes, study="first"), code=0)
    (tmp_path / "old").rename(tmp_path / "new")
    again = write_spec(
        tmp_path / "again.yaml", **changes | {"scorers": {"contrast": None}, "objective": None}, study="b"
    )
    assert "--models FOLDER" in call("study", "rescore", "first", again, code=2).err
    scored = call("study", "rescore", "first", again, "--models", "new", code=0)
    assert "3 of 3 trials of first are scored anew" in scored.out
    assert "no files" not in call("study", "resume", "b", "--trials", "4", code=0).out  # it knows where they are now
