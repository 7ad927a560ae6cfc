"""Input that nobody should have written, through the command line: one line, in bounds, nothing touched."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoints import random_tensors, write_checkpoint
from command_line import Call, caller, enter
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from odd_input import documents, pickle_files, safetensors_files
from safetensors.torch import save, save_file
from stored_study import store_study

from basics.texts import MESSAGE_CHARACTERS, visible
from studies.errors import StudyError
from studies.recipe.recipe import Recipe
from studies.records import stored_trials
from studies.records.database import open_database
from studies.spec.study import StudySpec

SECONDS = 10.0  # of CPU, for one case
BYTES = 2 << 30  # of address space, beyond what the process has

SPEC: Mapping[str, Any] = {
    "study": "portraits",
    "parents": ["a.safetensors", "b.safetensors"],
    "suite": {"prompts": ["a cat", {"prompt": "a dog", "seeds": [1, 2]}], "sizes": [64], "steps": 1, "seeds": [0]},
    "scorers": {"sharpness": None, "edges": {"kind": "contrast"}},
    "space": {"granularity": "sections", "bounds": {"IN*": [0.1, 0.9]}, "frozen": {"OUT": 0.5}},
    "probes": {"profiles": 1, "presets": ["GRAD_V"]},
    "budget": {"trials": 5},
    "final": {"top": 1, "seeds": [7]},
    "render": {"device": "cpu"},
}
STEPS: Mapping[str, Any] = {
    "study": "steps",
    "parents": ["a.safetensors", "b.safetensors"],
    "loras": {"style": {"path": "lora.safetensors", "weight": {"bounds": [0, 1]}}},
    "steps": [{"method": "slerp", "inputs": ["A", "B"]}, {"method": "weighted_sum", "inputs": ["A", "step1"]}],
    "suite": {"prompts": ["a cat"], "sizes": [64], "steps": 1},
    "scorers": {"sharpness": None},
    "objectives": ["sharpness"],
    "probes": {"recipes": ["recipe.yaml"]},
    "render": {"device": "cpu"},
}
RECIPE: Mapping[str, Any] = {
    "parents": ["a.safetensors", {"path": "b.safetensors"}],
    "method": "weighted_sum",
    "ratio": {"preset": "GRAD_V", "base": 0.5, "IN00": 0.25},
    "loras": [{"path": "lora.safetensors", "weight": {"IN*": 0.5}}],
    "dtype": "fp16",
}
CHAIN: Mapping[str, Any] = {
    "parents": {"A": "a.safetensors", "B": "b.safetensors"},
    "steps": [
        {"method": "slerp", "inputs": ["A", "B"], "ratio": 0.5},
        {"method": "weighted_sum", "inputs": ["A", "step1"], "values": {"ratio": 0.5}, "seed": 3},
    ],
    "vae": "b.safetensors",
}
LAYER = "lora_unet_down_blocks_0_attentions_0_proj_in"
KEYS = (
    "model.diffusion_model.input_blocks.0.0.weight",
    "model.diffusion_model.out.2.bias",
    "first_stage_model.decoder.conv_in.bias",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "conditioner.embedders.0.x",
    "__metadata__",
    *(f"{LAYER}.{role}" for role in ("lora_up.weight", "lora_down.weight", "alpha")),
    *(f"unet.x.{role}.weight" for role in ("lora_A", "lora_B")),
)


@dataclass(frozen=True)
class Sandbox:
    """A folder to run commands in, and the folders around it, which stay as they are."""

    root: Path
    call: Call
    outcomes: Counter[tuple[str, int]] = field(default_factory=Counter)  # (command, exit code)

    @property
    def folder(self) -> Path:
        return self.root / "user"

    def state(self) -> dict[str, tuple[int, int, int]]:
        """Everything there is but the output folder, with what changes when it is touched."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                path = Path(folder, name)
                stat = path.lstat()
                if self.folder / "out" not in (path, *path.parents) and not name.startswith("study.db"):
                    size = 0 if path.is_dir() else stat.st_size
                    found[str(path)] = (stat.st_mode, size, 0 if path.is_dir() else stat.st_mtime_ns)
        return found

    def survives(self, *commands: tuple[str, ...]) -> None:
        """Each command ends with 0, or 2 and one line, in bounds, and nothing outside `out` is any different."""
        before = self.state()
        for command in commands:
            start = time.process_time()
            with memory_bound():
                outcome = self.call(*command)
            assert time.process_time() - start < SECONDS
            self.outcomes[command[0], outcome.code] += 1
            assert outcome.code in {0, 2}, outcome
            assert "Traceback" not in outcome.out + outcome.err
            assert visible(outcome.out + outcome.err) == outcome.out + outcome.err  # a terminal carries out nothing
            if outcome.code == 2:
                assert outcome.err.startswith("error: "), outcome
                assert outcome.err.count("\n") == 1, outcome
                assert len(outcome.err) < MESSAGE_CHARACTERS + 100
            for written in (self.folder / "out").iterdir():
                written.unlink()
        assert self.state() == before


class memory_bound:  # noqa: N801 - reads as a function
    """Allocations beyond the bound fail."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_checkpoint(folder / "a.safetensors", seed=1)
    write_checkpoint(folder / "b.safetensors", seed=2)
    save_file(
        {f"{LAYER}.lora_up.weight": torch.ones(32, 2), f"{LAYER}.lora_down.weight": torch.ones(2, 32)},
        folder / "lora.safetensors",
    )
    few = {
        key: tensor for key, tensor in random_tensors("sd15", 1).items() if key.startswith("model.diffusion_model.out")
    }
    save_file(few, folder / "few.safetensors")
    torch.save({"state_dict": few, "epoch": 3}, folder / "a.ckpt")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"parents": ["a.safetensors", "b.safetensors"], "ratio": 0.5}))
    return folder


@pytest.fixture
def sandbox(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Sandbox:
    folder = tmp_path / "user"
    (folder / "out").mkdir(parents=True)
    (folder / "folder.safetensors").mkdir()
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    os.mkfifo(folder / "pipe.safetensors")
    os.mkfifo(folder / "pipe.yaml")
    (tmp_path / "outside.safetensors").write_bytes(b"mine")
    (tmp_path / "home").mkdir()
    enter(folder, monkeypatch, files)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return Sandbox(tmp_path, caller(monkeypatch, capsys))


def many(short: int, long: int) -> pytest.MarkDecorator:
    """How many cases: some in every run, many in `make fuzz`."""
    return pytest.mark.parametrize(
        "cases", [short, pytest.param(long, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
    )


def fuzzing(cases: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    checks = [
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
        HealthCheck.filter_too_much,
    ]
    return settings(max_examples=cases, deadline=None, database=None, suppress_health_check=checks)


# ------------------------------------------------------------------------------------- specs, recipes


@many(25, 700)
def test_specs(cases: int, sandbox: Sandbox) -> None:
    @fuzzing(cases)
    @example(text=yaml.safe_dump(dict(SPEC)))
    @example(text=yaml.safe_dump(dict(STEPS)))
    @example(text=yaml.safe_dump({**STEPS, "probes": {"recipes": ["pipe.yaml"]}}))
    @example(text=yaml.safe_dump({**STEPS, "probes": {"recipes": ["/dev/zero"]}}))
    @example(text=yaml.safe_dump({**SPEC, "parents": ["a.safetensors", "pipe.safetensors"]}))
    @example(text='{study: "\\ud800", parents: ["\\udcff"]}')
    @given(text=documents([SPEC, STEPS]))
    def check(text: str) -> None:
        (sandbox.folder / "spec.yaml").write_bytes(text.encode())
        sandbox.survives(("study", "check", "spec.yaml"))

    check()
    assert sandbox.outcomes["study", 0] > cases // 30


@many(30, 600)
def test_recipes(cases: int, sandbox: Sandbox) -> None:
    @fuzzing(cases)
    @example(text=yaml.safe_dump(dict(RECIPE)), name="mine.yaml", write=True)
    @example(text=json.dumps(CHAIN), name="mine.json", write=True)
    @example(text=yaml.safe_dump({**RECIPE, "ratio": 3.4028234663852890e38}), name="mine.yaml", write=True)
    @example(text=json.dumps({**CHAIN, "vae": "\ud800"}), name="mine.json", write=True)
    @example(text=json.dumps({**CHAIN, "vae": "\ud800"}), name="mine.yaml", write=True)
    @example(text=json.dumps({**CHAIN, "vae": "pipe.safetensors"}), name="mine.yaml", write=True)
    @given(
        text=documents([RECIPE, CHAIN]) | documents([RECIPE, CHAIN], as_json=True),
        name=st.sampled_from(["mine.yaml", "mine.json"]),
        write=st.integers(0, 9).map(lambda number: number == 0),
    )
    def check(text: str, name: str, write: bool) -> None:
        (sandbox.folder / name).write_bytes(text.encode())
        sandbox.survives(("merge", name, *(("-o", "out/m.safetensors") if write else ("--show",))))

    check()
    assert sandbox.outcomes["merge", 0] > cases // 30


# --------------------------------------------------------------------------------------------- files


@many(30, 500)
def test_safetensors_files(cases: int, sandbox: Sandbox) -> None:
    honest = [json.loads(header_of(sandbox.folder / name)) for name in ("lora.safetensors", "few.safetensors")]

    @fuzzing(cases)
    @example(content=(sandbox.folder / "lora.safetensors").read_bytes())
    @example(content=marked({"mergetune.recipe": "[" * 100_000}))
    @example(content=marked({"sd_merge_models": "[" * 100_000, "lora_adapter_metadata": "[" * 100_000}))
    @example(content=marked({"lora_adapter_metadata": '{"unet.lora_alpha": []}'}))
    @example(content=marked({"lora_adapter_metadata": '{"unet.lora_alpha": 1, "unet.alpha_pattern": [1]}'}))
    @example(content=marked({"lora_adapter_metadata": '{"unet.lora_alpha": 1, "unet.alpha_pattern": {"(": 1}}'}))
    @example(content=marked({"lora_adapter_metadata": SLOW}))
    @given(content=safetensors_files(KEYS, honest))
    def check(content: bytes) -> None:
        (sandbox.folder / "odd.safetensors").write_bytes(content)
        sandbox.survives(
            ("inspect", "odd.safetensors"),
            ("merge", "odd.safetensors", "--show"),
            ("lora", "bake", "a.safetensors", "odd.safetensors", "-o", "out/m.safetensors"),
        )

    check()
    assert sandbox.outcomes["lora", 0] > 0


SLOW = '{"unet.lora_alpha": 1, "unet.alpha_pattern": {"(([a-z_]+)+)+[0-9]": 1}}'  # as a regular expression


def marked(metadata: dict[str, str]) -> bytes:
    """A LoRA as diffusers writes it."""
    layer = "unet.down_blocks_and_a_name_that_is_long_enough_to_search_in_vain"
    factors = {f"{layer}.lora_A.weight": torch.ones(2, 4), f"{layer}.lora_B.weight": torch.ones(4, 2)}
    return save(factors, metadata)


def header_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


@many(30, 600)
def test_pickles(cases: int, sandbox: Sandbox) -> None:
    @fuzzing(cases)
    @given(content=pickle_files((sandbox.folder / "a.ckpt").read_bytes()))
    def check(content: bytes) -> None:
        (sandbox.folder / "odd.ckpt").write_bytes(content)
        sandbox.survives(("inspect", "odd.ckpt"))

    check()


# ------------------------------------------------------------------------------------------ database


@pytest.fixture
def stored(sandbox: Sandbox) -> tuple[Any, Any]:
    """A study in study.db: its spec and its last trial's recipe, as they stand there."""

    def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
        return {"sharpness": (1.0, 2.0, 3.0, sum(params.values())), "contrast": (1.0,) * 4}

    database = open_database(f"sqlite:///{sandbox.folder}/study.db")
    records = store_study(database, "stored", score, trials=4)
    spec, recipe = records.study.spec.to_json(), stored_trials.load_trials(records)[-1].recipe_text
    database.close()
    return json.loads(spec), json.loads(recipe)


@many(75, 1000)
def test_texts_of_a_database(cases: int, stored: tuple[Any, Any]) -> None:
    read = Counter[str]()

    @fuzzing(cases)
    @given(spec=documents([stored[0]], as_json=True), recipe=documents([stored[1]], as_json=True))
    def check(spec: str, recipe: str) -> None:
        with memory_bound():
            for reader, text in ((StudySpec.from_json, spec), (Recipe.from_json, recipe)):
                try:
                    read[type(reader(text)).__name__] += 1
                except StudyError:
                    read["refused"] += 1

    check()
    assert min(read["StudySpec"], read["Recipe"]) > cases // 30


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_rows_of_a_database(sandbox: Sandbox, stored: tuple[Any, Any]) -> None:
    @fuzzing(300)
    @given(
        spec=documents([stored[0]], as_json=True) | st.none(), recipe=documents([stored[1]], as_json=True) | st.none()
    )
    def check(spec: str | None, recipe: str | None) -> None:
        with closing(sqlite3.connect(sandbox.folder / "study.db")) as connection, connection:
            connection.execute("UPDATE mergetune_studies SET spec = ?", (spec or json.dumps(stored[0]),))
            text = recipe or json.dumps(stored[1])
            connection.execute("UPDATE mergetune_trials SET recipe = ? WHERE number = 3", (text,))
        storage = ("--storage", "study.db")
        sandbox.survives(
            ("study", "show", "stored", "--trials", *storage),
            ("export", "stored", "--trial", "3", "--recipe", "out/r.yaml", *storage),
        )

    check()
    assert sandbox.outcomes["study", 0] > 10
    assert sandbox.outcomes["export", 0] > 0
