"""A family of models is added by its two modules and a line of the registry: nothing else of the program changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from command_line import caller, enter
from demo_study import DEMO, SMALL, write_spec
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from studies.records.database import open_database
from studies.records.stored_renders import load_scores
from studies.records.stored_studies import open_study
from studies.records.stored_trials import load_trials

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "tests" / "data" / "third_family"
PACKAGES = ("basics", "search_spaces", "scorers", "studies", "optimizer")
RENAMED = {"model.diffusion_model.": "net.", "first_stage_model.": "vae.", "cond_stage_model.": "text."}
TRIALS = 13  # both parents, a uniform merge, and ten proposals of the sampler: what importance needs
UNIFORM = 2  # number of the uniform merge's trial


def third_name(key: str) -> str:
    """What the made-up family's files call a tensor of SD1.5."""
    old = next(prefix for prefix in RENAMED if key.startswith(prefix))
    return RENAMED[old] + key.removeprefix(old)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with a third family."""
    copy = tmp_path_factory.mktemp("program")
    for package in PACKAGES:
        leave_out = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.png", "training")
        shutil.copytree(ROOT / package, copy / package, ignore=leave_out)
    shutil.copy(MODULES / "third_blocks.py", copy / "search_spaces" / "families" / "third.py")
    shutil.copy(MODULES / "third_models.py", copy / "optimizer" / "families" / "third.py")
    registry = copy / "search_spaces" / "families" / "registry.py"
    last = '    SDXL = "sdxl"\n'
    text = registry.read_text()
    assert text.count(last) == 1
    registry.write_text(text.replace(last, f'{last}    THIRD = "third"\n'))
    return copy


def run_in(program: Path, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a copy of the program in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "optimizer.cli", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(program), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def mergetune(program: Path, folder: Path, *arguments: str | Path) -> str:
    """What a copy of the program says in a folder; it must succeed."""
    done = run_in(program, folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def study_in(run: Callable[..., object], folder: Path, parents: list[Path]) -> Path:
    """Run a small study to its end and export its uniform merge; the exported file."""
    changes = {
        **SMALL,
        "parents": [str(path) for path in parents],
        "space": {"granularity": "blocks"},
        "probes": {"uniform": [0.5], "profiles": 0},
        "budget": {"trials": TRIALS},
        "vae": str(DEMO / "foods.safetensors"),  # under SD1.5's names, for both
    }
    run("study", "start", write_spec(folder / "spec.yaml", **changes))
    run("export", "short", "--trial", str(UNIFORM), "--output", folder / "out.safetensors")
    return folder / "out.safetensors"


def scores_of(folder: Path) -> list[tuple[str, tuple[float, ...]]]:
    """(origin, each image's score) of the trials that do not depend on the space's parameters."""
    database = open_database(f"sqlite:///{folder}/mergetune.db", create=False)
    records = open_study(database, "short")
    trials = load_trials(records)
    assert [trial.state for trial in trials] == ["complete"] * TRIALS
    return [(str(trial.origin), load_scores(records, trial)[0]["sharpness"]) for trial in trials[: UNIFORM + 1]]


@pytest.mark.slow
def test_a_study_of_a_third_family_renders_and_exports_what_it_would_under_the_names_of_sd15(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known, third = tmp_path / "sd15", tmp_path / "third"
    known.mkdir()
    third.mkdir()
    originals = [DEMO / "animals.safetensors", DEMO / "foods.safetensors"]
    renamed = [third / path.name for path in originals]
    for original, copy in zip(originals, renamed, strict=True):
        save_file({third_name(key): row for key, row in load_file(original).items()}, copy)

    enter(known, monkeypatch)
    expected = load_file(study_in(caller(monkeypatch, capsys), known, originals))
    written = study_in(partial(mergetune, program, third), third, renamed)

    mergetune(program, third, "study", "importance", "short", "--plot", "importance.png")
    assert (third / "importance.png").stat().st_size > 0

    found = load_file(written)
    assert found.keys() == {third_name(key) for key in expected}
    assert all(torch.equal(found[third_name(key)], row) for key, row in expected.items())
    assert scores_of(third) == scores_of(known)
    with safe_open(written, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.architecture"] == "third-v1"
    recipe = json.loads(metadata["mergetune.recipe"])
    assert recipe["architecture"] == "third"


def test_a_third_family_is_told_and_drawn_as_the_others_are(program: Path, tmp_path: Path) -> None:
    assert "ratios, Third" in mergetune(program, tmp_path, "spaces")
    parent = tmp_path / "a.safetensors"
    save_file({third_name(key): row for key, row in load_file(DEMO / "animals.safetensors").items()}, parent)
    shown = json.loads(mergetune(program, tmp_path, "inspect", parent, "--json"))
    assert shown["architecture"] == "third"
    mergetune(program, tmp_path, "diff", parent, parent, "--plot", "difference.png")
    assert (tmp_path / "difference.png").stat().st_size > 0


@pytest.mark.slow
def test_a_family_without_published_levels_is_refused_align_your_steps(program: Path, tmp_path: Path) -> None:
    parents = [tmp_path / name for name in ("animals.safetensors", "foods.safetensors")]
    for parent in parents:
        save_file({third_name(key): row for key, row in load_file(DEMO / parent.name).items()}, parent)
    suite = {**SMALL["suite"], "schedule": "align_your_steps"}
    spec = write_spec(tmp_path / "spec.yaml", **{**SMALL, "parents": [str(path) for path in parents], "suite": suite})
    done = run_in(program, tmp_path, "study", "check", spec)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "align_your_steps has no published levels for Third: use another schedule" in done.stderr
    assert "Traceback" not in done.stderr
