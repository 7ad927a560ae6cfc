"""A path at which nothing is, is told before anything heavy is imported: counted in modules, not in seconds.

Each command runs as a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import VARIABLES
from demo_study import DEMO, SMALL, short_spec
from safetensors.numpy import save_file
from test_documentation import every_command

from studies.records.database import open_database

ROOT = Path(__file__).parents[2]
HEAVY = frozenset({"torch", "diffusers", "transformers", "open_clip", "timm", "torchvision"}) | frozenset(
    {"scipy", "sklearn", "pandas", "matplotlib", "plotly", "ray", "optuna_dashboard"}
)
STORAGE = frozenset({"optuna", "alembic"})  # by which a database is opened

# Words of each command -> what is behind them, so that a path leads nowhere.
PATHS: Mapping[str, tuple[str, ...]] = {
    "init": ("lost.safetensors", "other.safetensors"),
    "study check": ("lost.yaml",),
    "study start": ("lost.yaml",),
    "study resume": ("somebody",),
    "study finish": ("somebody",),
    "study list": (),
    "study show": ("somebody",),
    "study migrate": ("--storage", "nowhere/study.db"),
    "study report": ("somebody",),
    "study importance": ("somebody",),
    "study compare": ("somebody", "another"),
    "study rescore": ("somebody", "lost.yaml"),
    "study doctor": (),
    "study prune-artifacts": ("somebody",),
    "study delete": ("somebody", "--yes"),
    "study rename": ("somebody", "another"),
    "study clone": ("somebody", "another"),
    "study vote": ("somebody",),
    "study votes": ("somebody",),
    "study train-personal": ("-o", "taste.safetensors"),
    "study stop": ("somebody",),
    "study pause": ("somebody",),
    "study priority": ("somebody", "1"),
    "worker": ("--until-done",),
    "cluster start": ("--address", "127.0.0.1:1"),
    "dashboard": (),
    "export": ("somebody",),
    "plot": ("lost.yaml",),
    "bracket": ("lost.safetensors", "a.safetensors"),
    "merge": ("lost.yaml", "-o", "merged.safetensors"),
    "inspect": ("lost.safetensors",),
    "diff": ("lost.safetensors", "other.safetensors"),
    "lora extract": ("lost.safetensors", "other.safetensors", "-o", "lora.safetensors"),
    "lora bake": ("lost.safetensors", "lora.safetensors", "-o", "baked.safetensors"),
    "suite import": ("nowhere", "-o", "suite.yaml"),
}
WITHOUT_PATHS = {"demo", "scorers", "spaces", "cluster status", "cluster stop"}  # of files that must be there

# Commands with a path that is not the first thing they look at.
LATER_PATHS = [
    ("init", "a.safetensors", "lost.safetensors", "--refs", "nowhere"),
    ("init", "a.safetensors", "merge-lost-lora.yaml", "--prompts", "lost.txt"),
    ("bracket", "a.safetensors", "merge-lost-lora.yaml", "--suite", "lost.yaml"),
    ("bracket", "a.safetensors", "merge-lost-lora.yaml", "--suite", "lost-weights.yaml"),
    ("study", "check", "lost-parent.yaml"),
    ("study", "check", "lost-lora.yaml"),
    ("study", "check", "lost-vae.yaml"),
    ("study", "check", "lost-reference.yaml"),
    ("study", "check", "lost-weights.yaml"),
    ("study", "check", "lost-architecture.yaml"),
    ("study", "check", "lost-embeddings.yaml"),
    ("study", "check", "lost-recipe.yaml"),
    ("study", "start", "lost-parent.yaml"),
    ("study", "resume", "somebody", "--models", "nowhere"),
    ("export", "somebody", "--models", "nowhere"),
    ("worker", "--models", "nowhere", "--storage", "empty.db"),
    ("merge", "merge-lost-parent.yaml", "-o", "merged.safetensors"),
    ("merge", "merge-lost-lora.yaml", "-o", "merged.safetensors"),
    ("merge", "merge-lost-by-hash.yaml", "--show"),
    ("merge", "a.safetensors", "--parent", "A=lost.safetensors", "-o", "merged.safetensors"),
    ("diff", "a.safetensors", "lost.safetensors"),
    ("lora", "extract", "a.safetensors", "lost.safetensors", "-o", "lora.safetensors"),
    ("lora", "bake", "a.safetensors", "lost.safetensors:0.5", "-o", "baked.safetensors"),
]


@dataclass(frozen=True)
class Answer:
    """What a process said, and which packages it had imported by its end."""

    code: int
    err: str
    packages: frozenset[str]


# For each line of arguments a process is forked that has imported what every command needs, and nothing heavy.
FORKING = """
import importlib, json, os, sys, traceback
for name in ("optimizer.cli.__main__", "optimizer.cli.main", "studies.spec.study"):
    importlib.import_module(name)
for line in sys.stdin:
    if os.fork():
        print(os.wait()[1], flush=True)
        continue
    code, sys.argv = 1, ["mergetune", *json.loads(line)]
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(os.open("err.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(0, 1)
    try:
        sys.modules["optimizer.cli.__main__"].run()
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    with open("modules.json", "w") as report:
        json.dump([code, sorted(sys.modules)], report)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def forking(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that forks another for each command, in the folder of what is lost."""
    with subprocess.Popen(
        [sys.executable, "-c", FORKING],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in VARIABLES} | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def answer(folder: Path, forking: subprocess.Popen[str]) -> Callable[..., Answer]:
    """Run `mergetune ARGUMENTS` as a process of its own."""

    def run(*arguments: str) -> Answer:
        assert forking.stdin is not None
        assert forking.stdout is not None
        forking.stdin.write(json.dumps(arguments) + "\n")
        forking.stdin.flush()
        assert forking.stdout.readline() == "0\n"
        code, modules = json.loads((folder / "modules.json").read_text())
        return Answer(code, (folder / "err.txt").read_text(), frozenset(name.split(".")[0] for name in modules))

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of specs and recipes, each of which names one thing that is not there."""
    made = tmp_path_factory.mktemp("lost")
    save_file({}, made / "a.safetensors")
    lost = str(made / "lost")
    parents = [str(DEMO / "animals.safetensors"), str(DEMO / "foods.safetensors")]
    clip = {"model": "tiny", "pretrained": str(DEMO / "clip.safetensors"), "config_dir": str(DEMO)}
    network = {"kind": "frechet", "network": "test_resnet", "reference": str(DEMO / "reference")}
    specs: dict[str, dict[str, Any]] = {
        "parent": {"parents": [parents[0], f"{lost}.safetensors"]},
        "lora": {"loras": {"style": {"path": f"{lost}.safetensors", "weight": [0, 1]}}},
        "vae": {"vae": f"{lost}.safetensors"},
        "reference": {"scorers": {"d": network | {"weights": str(DEMO / "features.safetensors"), "reference": lost}}},
        "weights": {"scorers": {"d": network | {"weights": f"{lost}.safetensors"}}},
        "architecture": {"scorers": {"clip_score": {"clip": clip}}},
        "embeddings": {"suite": {**SMALL["suite"], "embeddings": lost}},
        "recipe": {"probes": {"recipes": [f"{lost}.yaml"]}},
    }
    for name, changes in specs.items():
        plain = {"objective": None} if "scorers" in changes else {}
        (made / f"lost-{name}.yaml").write_text(yaml.safe_dump(short_spec(**{**SMALL, **plain, **changes})))
    merges: dict[str, dict[str, Any]] = {
        "parent": {"parents": {"A": parents[0], "B": f"{lost}.safetensors"}},
        "lora": {"parents": dict(zip("AB", parents, strict=True)), "loras": [f"{lost}.safetensors"]},
        "by-hash": {"parents": {"A": parents[0], "B": {"path": f"{lost}.safetensors", "sha256": "0" * 64}}},
    }
    for name, files in merges.items():
        recipe = {"method": "weighted_sum", "ratio": 0.5} | files
        (made / f"merge-lost-{name}.yaml").write_text(yaml.safe_dump(recipe))
    open_database(f"sqlite:///{made}/empty.db").close()
    return made


def refused_without(packages: frozenset[str], given: Answer) -> None:
    """Check that a command refused its arguments in one line, and imported none of these packages."""
    assert given.code == 2, given.err
    assert given.err.startswith("error: "), given.err
    assert given.err.count("\n") == 1, given.err
    assert given.packages & packages == set()


def test_every_command_that_reads_files_has_a_budget() -> None:
    assert set(PATHS) | WITHOUT_PATHS == {words for words, _ in every_command()}


@pytest.mark.parametrize("words", PATHS)
def test_a_path_that_leads_nowhere_is_told_before_anything_heavy_is_imported(
    words: str, answer: Callable[..., Answer]
) -> None:
    refused_without(HEAVY | STORAGE, answer(*words.split(), *PATHS[words]))


@pytest.mark.parametrize("arguments", LATER_PATHS, ids=" ".join)
def test_so_is_one_that_a_file_or_a_later_argument_names(
    arguments: tuple[str, ...], answer: Callable[..., Answer]
) -> None:
    refused_without(HEAVY | STORAGE, answer(*arguments))


OF_STUDIES = [words for words, behind in PATHS.items() if "somebody" in behind and "lost.yaml" not in behind]
FEW = {"study show", "export"}


@pytest.mark.parametrize(
    "words", [pytest.param(words, marks=[] if words in FEW else [pytest.mark.slow]) for words in OF_STUDIES]
)
def test_a_study_that_is_not_in_the_database_is_told_by_what_opens_it_alone(
    words: str, answer: Callable[..., Answer]
) -> None:
    refused_without(HEAVY, answer(*words.split(), *PATHS[words], "--storage", "empty.db"))


@pytest.mark.parametrize("words", ["scorers", "spaces"])
def test_lists_need_nothing_heavy(words: str, answer: Callable[..., Answer]) -> None:
    given = answer(words)
    assert given.code == 0, given.err
    assert given.packages & (HEAVY | STORAGE) == set()
