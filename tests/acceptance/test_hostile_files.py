"""Files that would take memory, seconds or a screen full of text are refused in one line, before they do."""

from __future__ import annotations

import json
import os
import re
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from checkpoints import write_checkpoint
from command_line import Call, caller, enter
from hostile_files import HEADERS, MILLION, TORCH_FILES, header, of_torch, program, sparse
from PIL import Image
from safetensors.torch import save_file
from slow_cases import first_fast

from basics import foreign
from basics.texts import MESSAGE_CHARACTERS, shortened
from optimizer.errors import CheckpointError, LoraError
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.lora.file import Lora
from scorers.errors import ReferenceImagesError, WrongWeightsError
from scorers.images import MAX_PIXELS, read_rgb
from scorers.weights.tensors import load_tensors
from studies.errors import RecipeError, SpecError
from studies.recipe.file import load_recipe_file
from studies.recipe.recipe import Recipe
from studies.spec.study import load_spec

SECONDS = 20.0  # of the processor; the hostile files below took minutes, or forever
BYTES = 800 << 20  # of additional memory, where they took gigabytes


class bounded:  # noqa: N801 - reads as a function
    """What is done takes neither long nor much."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, self._before[1]))
        self._start = time.process_time()

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)
        assert time.process_time() - self._start < SECONDS


def refused(read: Callable[[Path], object], path: Path, *errors: type[Exception]) -> str:
    with bounded(), pytest.raises(errors) as refusal:
        read(path)
    message = str(refusal.value)
    assert len(message) <= MESSAGE_CHARACTERS + 100
    assert "\n" not in message
    assert "weights_only" not in message
    return message


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=[pytest.mark.slow] * (name == "many steps"))
        for name, make in TORCH_FILES.items()
    ],
)
def test_a_torch_file_costs_no_more_than_its_size(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(make())
    message = ""
    with bounded():
        try:
            assert not Checkpoint.open(path).tensors
        except CheckpointError as error:
            message = str(error)
    assert len(message) < MESSAGE_CHARACTERS
    assert "weights_only" not in message
    refused(Lora.open, path.rename(path.with_suffix(".pt")), CheckpointError)


SLOW_HEADERS = {"long name of a tensor that is not there", "long dtype"}


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=name, marks=[pytest.mark.slow] * (name in SLOW_HEADERS)) for name, make in HEADERS.items()],
)
def test_a_header_costs_no_more_than_its_size(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(make())
    refused(Checkpoint.open, path, CheckpointError)
    path.with_name("adapter_config.json").write_text("{}")
    refused(Lora.open, path, CheckpointError)


@pytest.mark.parametrize(
    ("name", "start", "said"),
    [
        ("a.safetensors", struct.pack("<Q", 90_000_000_000), "has a header of 90,000.0 MB"),
        ("a.ckpt", b"\x80\x02B\xff\xff\xff\x7f", "it asks to read 2,147,483,647 bytes at once"),
        ("a.ckpt", b"\x80\x02c", "it has a line of more than"),
    ],
)
def test_a_sparse_file_is_not_read(tmp_path: Path, name: str, start: bytes, said: str) -> None:
    assert said in refused(Checkpoint.open, sparse(tmp_path / name, start, 100_000_000_000), CheckpointError)
    huge = sparse(tmp_path / name, start, 1_000_000_000_000)
    assert "more than any model" in refused(Checkpoint.open, huge, CheckpointError)


@pytest.mark.slow
def test_the_headers_and_pickles_that_programs_write_are_read(tmp_path: Path) -> None:
    """Large ones, but honest: a long merge history, thousands of tensors, a recompressed file."""
    history = json.dumps({"sd_merge_models": {str(index): {"a": [1, 2]} for index in range(100_000)}})
    few = {f"model.diffusion_model.{index}": torch.zeros(2) for index in range(5_000)}
    save_file(few, tmp_path / "a.safetensors", metadata={"history": history})
    assert len(Checkpoint.open(tmp_path / "a.safetensors").tensors) == len(few)
    torch.save({"state_dict": few}, tmp_path / "a.ckpt")
    assert len(Checkpoint.open(tmp_path / "a.ckpt").tensors) == len(few)


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"\x95" + bytes(8) + b"}", "Unsupported operand 149"), (b"(lp0\n", "Unsupported operand 108")],
)
def test_what_torch_says_is_told_without_its_advice(tmp_path: Path, body: bytes, reason: str) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(program(body))
    for read, error in ((Checkpoint.open, CheckpointError), (load_tensors, WrongWeightsError)):
        assert f"({reason})" in refused(read, path, error)


def test_code_is_refused_without_torchs_advice(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, ("touch hacked",)

    (tmp_path / "a.pt").write_bytes(of_torch({"w": Evil()}))
    assert "add_safe_globals" not in refused(load_tensors, tmp_path / "a.pt", WrongWeightsError)


# ----------------------------------------------------------------------------------------- documents


def laughs(levels: int = 12) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


DOCUMENTS = {
    "laughs": laughs(),
    "laughs that are merged": "a0: &a0 {x: 1}\n"
    + "\n".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 9)),
    "deep": "a: " + "[" * 100_000,
    "deep in blocks": "".join(f"{' ' * n}a:\n" for n in range(900)),
    "many values": "a: [" + "1," * 400_000 + "]",
    "huge": "# " + "x" * 2_000_000,
    "huge number": "a: " + "9" * 900_000,
    "long key": "x" * 900_000 + ": 1",
    "long value": "study: {" + "x" * 900_000 + ": 1}",
}


SLOW = {"many values", "long key", "deep", "huge number"}


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, text in DOCUMENTS.items()],
)
def test_a_document_costs_no_more_than_its_size(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    refused(load_spec, path, SpecError)
    refused(load_recipe_file, path, RecipeError)
    enter(tmp_path, monkeypatch)
    with bounded():
        outcome = caller(monkeypatch, capsys)("study", "check", "mine.yaml", code=2)
    assert outcome.err.count("\n") == 1
    assert len(outcome.err) < MESSAGE_CHARACTERS + 100


def test_json_is_read_strictly_and_within_bounds(tmp_path: Path) -> None:
    for text, said in {
        '{"a": 1, "a": 2}': "'a' is given twice",
        '{"a": NaN}': "NaN is not a JSON number",
        "[" * 100_000: "nested too deeply",
        "[" + "1," * 2 * MILLION + "1]": "more than 1,000,000 values",
        '["' + '","' * 2 * MILLION + '"]': "more than 1,000,000 values",
        '{"a": "' + '\\"[,{' * MILLION: "Unterminated string",
        "9" * 5000: "Exceeds the limit",
    }.items():
        with bounded(), pytest.raises(ValueError, match=re.escape(said)):
            foreign.parse_json(text)
    assert foreign.parse_json('{"a": "' + '\\"[,{' * MILLION + '"}') == {"a": '"[,{' * MILLION}
    assert "not a recipe" in refused(lambda _: Recipe.from_json("[" * 100_000), tmp_path, RecipeError)


@pytest.mark.parametrize("content", ["[" * 100_000, "{}" + " " * 20 * MILLION, '{"a": 1, "a": 1}'])
def test_configurations_beside_weights_are_bounded(tmp_path: Path, content: str) -> None:
    (tmp_path / "model_index.json").write_text(content)
    assert "model_index.json cannot be read" in refused(Checkpoint.open, tmp_path, CheckpointError)
    layer = "base_model.model.unet.x"
    save_file(
        {f"{layer}.lora_A.weight": torch.ones(2, 4), f"{layer}.lora_B.weight": torch.ones(4, 2)},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text(content)
    assert "adapter_config.json" in refused(Lora.open, tmp_path / "adapter_model.safetensors", LoraError)


# -------------------------------------------------------------------------------------------- images


def test_a_picture_is_measured_before_it_is_unpacked(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert f"{side} x {side} pixels" in refused(read_rgb, tmp_path / "bomb.png", ReferenceImagesError)
    png = bytearray((tmp_path / "bomb.png").read_bytes())
    png[16:24] = struct.pack(">II", 50_000, 50_000)
    (tmp_path / "lie.png").write_bytes(png)
    refused(read_rgb, tmp_path / "lie.png", ReferenceImagesError)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.jpg")
    jpeg = bytearray((tmp_path / "a.jpg").read_bytes())
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 60_000, 60_000)
    (tmp_path / "lie.jpg").write_bytes(jpeg)
    refused(read_rgb, tmp_path / "lie.jpg", ReferenceImagesError)


# -------------------------------------------------------------------------------------- command line


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    enter(tmp_path, monkeypatch)
    return caller(monkeypatch, capsys)


@pytest.mark.parametrize(
    "changes",
    first_fast(
        2,
        [
            {"ratio": "0.5," * 200_000},
            {"method": "x" * 900_000},
            {"ratio": {"x" * 500_000: 1}},
            {"parents": ["a.safetensors", "b" * 900_000]},
        ],
    ),
    ids=["block weights", "method", "place", "path"],
)
def test_long_values_of_a_recipe_are_refused_in_a_short_line(call: Call, tmp_path: Path, changes: object) -> None:
    for seed, name in enumerate(("a.safetensors", "b.safetensors")):
        write_checkpoint(tmp_path / name, seed=seed)
    base = {"parents": ["a.safetensors", "b.safetensors"], "method": "weighted_sum", "ratio": 0.5}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(base | changes))  # type: ignore[operator]
    with bounded():
        outcome = call("merge", "mine.yaml", "--show", code=2)
    assert outcome.err.count("\n") == 1
    assert len(outcome.err) < MESSAGE_CHARACTERS + 100


def test_long_metadata_does_not_fill_the_screen(call: Call, tmp_path: Path) -> None:
    tensor = {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}
    text = {"__metadata__": {"k" * MILLION: "v" * MILLION}, f"model.diffusion_model.{'x' * MILLION}": tensor}
    (tmp_path / "a.safetensors").write_bytes(header(text, bytes(2)))
    with bounded():
        outcome = call("inspect", "a.safetensors")
    assert len(outcome.out + outcome.err) < 10_000


def test_a_message_keeps_its_beginning_and_its_end() -> None:
    assert shortened("a" * 300) == "a" * 300
    text = shortened("begin " + "x" * 47 * MILLION + ": what to do", 100)
    assert text.startswith("begin x")
    assert text.endswith("x: what to do")
    assert "(46,999,918 characters)" in text
