"""Files that become shorter while they are read: the process ends with one line that names them, not by SIGBUS."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from demo_study import DEMO
from safetensors.torch import load_file, save_file

from optimizer.cli.process import CUT_OFF

READER = """
import sys
from optimizer.cli.process import CUT_OFF
from optimizer.system.cut_off_files import report_cut_off_files
import torch
torch.set_num_threads(2)
report_cut_off_files(CUT_OFF)
from pathlib import Path
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.vae import VaeFile
from optimizer.merging.lora.file import Lora
from scorers.weights.tensors import load_tensors
what, path = sys.argv[1], Path(sys.argv[2])
if what == "scorer":
    tensors = load_tensors(path)
elif what == "lora":
    lora = Lora.open(path)
    tensors = {name: factors.up for name, factors in lora.modules.items()}
else:
    opened = VaeFile.open(path) if what == "vae" else Checkpoint.open(path)
    tensors = {key: opened.tensor(key) for key in opened.tensors}
print("opened", flush=True)
sys.stdin.readline()
for tensor in tensors.values():
    tensor.to(torch.float64).sum()
print("whole")
"""


LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
FACTORS = {"lora_up.weight": torch.ones(320, 4), "lora_down.weight": torch.ones(4, 320), "alpha": torch.tensor(4.0)}

MAPPER = """
import sys
import numpy as np
from optimizer.system.cut_off_files import report_cut_off_files
report_cut_off_files(3)
mapped = [np.memmap(path, mode="r") for path in sys.argv[1:]]
print("opened", flush=True)
sys.stdin.readline()
print([int(each.max()) for each in mapped])
"""


def test_of_several_mapped_files_the_one_that_was_cut_off_is_named(tmp_path: Path) -> None:
    whole, shorter = tmp_path / "whole", tmp_path / "with spaces, and ü"
    for path in (whole, shorter):
        path.write_bytes(b"x" * 100_000)
    command = [sys.executable, "-c", MAPPER, str(whole), str(shorter)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "opened\n"
        os.truncate(shorter, 10)
        out, err = process.communicate("\n", timeout=60)
    assert (process.returncode, out) == (3, "")
    (line,) = err.splitlines()
    assert line.startswith(f"error: {shorter} became shorter while it was read: ")


def read(what: str, path: Path, size: int) -> subprocess.CompletedProcess[str]:
    """Open a file in another process, cut it off, and let the process read it."""
    command = [sys.executable, "-c", READER, what, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "opened\n", process.stderr.read()
        os.truncate(path, size)
        out, err = process.communicate("\n", timeout=120)
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def copied(name: str, folder: Path, suffix: str = ".safetensors") -> Path:
    path = folder / f"model{suffix}"
    if not name:
        save_file({f"{LAYER}.{key}": tensor for key, tensor in FACTORS.items()}, path)
    elif suffix == ".ckpt":
        torch.save(load_file(DEMO / name), path)
    else:
        shutil.copy(DEMO / name, path)
    return path


@pytest.mark.parametrize(
    ("what", "name", "suffix", "size"),
    [
        ("parent", "animals.safetensors", ".safetensors", 0),
        ("parent", "foods.safetensors", ".ckpt", 4096),
        ("vae", "animals.safetensors", ".safetensors", 100_000),
        ("scorer", "features.safetensors", ".safetensors", 0),
        ("lora", "", ".safetensors", 0),
    ],
)
@pytest.mark.slow
def test_a_file_that_is_cut_off_while_it_is_read_is_named_in_one_line(
    what: str, name: str, suffix: str, size: int, tmp_path: Path
) -> None:
    path = copied(name, tmp_path, suffix)
    ended = read(what, path, size)
    assert ended.returncode == CUT_OFF
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {path} became shorter while it was read: ")
    assert "whole" not in ended.stdout


def recipe_of(folder: Path) -> Path:
    """A merge of two big files, so that there is time to cut one off."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"parents": {"A": "a.safetensors", "B": "b.safetensors"}, "ratio": 0.5}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("parent", ["a.safetensors", "b.safetensors"])
def test_a_parent_that_is_cut_off_during_a_merge_ends_it_with_one_line(parent: str, tmp_path: Path) -> None:
    for name, source in (("a", "animals"), ("b", "foods")):
        shutil.copy(DEMO / f"{source}.safetensors", tmp_path / f"{name}.safetensors")
    recipe_of(tmp_path)
    command = [sys.executable, "-m", "optimizer.cli", "merge", "recipe.yaml", "-o", "out.safetensors"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(tmp_path.glob(".out*.part")):
            time.sleep(0.0005)
        process.send_signal(signal.SIGSTOP)
        assert not (tmp_path / "out.safetensors").exists(), "the merge was over before it could be stopped"
        os.truncate(tmp_path / parent, 5000)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=120)
    assert process.returncode in {2, CUT_OFF}, out + err
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert line.startswith("error: ")
    assert parent in line
    assert not (tmp_path / "out.safetensors").exists()
