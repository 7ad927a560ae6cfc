"""What is written down of the machine that renders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optimizer.runtime.machine import machine_description
from optimizer.system.nvidia_driver import driver_version

CUDA_FIELDS = {"capability", "cudnn", "driver"}

NVML = """
#include <string.h>
int nvmlInit_v2(void) { return %(init)d; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned int most) {
    if (most < sizeof "580.65.06") return 7;
    strcpy(text, "580.65.06");
    return 0;
}
"""


def test_a_cpu_has_no_fields_of_a_card_and_names_what_is_unusual() -> None:
    plain = machine_description(torch.device("cpu"))
    assert plain["device"] == "cpu"
    assert not CUDA_FIELDS & plain.keys()
    unusual = machine_description(torch.device("cpu"), variation=0.03125)
    assert unusual == plain | {"variation": "0.031"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_has_them() -> None:
    found = machine_description(torch.device("cuda"))
    major, _, minor = found["capability"].partition(".")
    assert (int(major), int(minor)) == torch.cuda.get_device_capability()
    assert int(found["cudnn"]) > 0
    assert found["driver"] == driver_version()


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="builds a library for Linux")
@pytest.mark.parametrize(("init", "expected"), [(0, "580.65.06"), (999, "None")])
def test_the_driver_is_asked_through_nvml(init: int, expected: str, tmp_path: Path) -> None:
    source, library = tmp_path / "nvml.c", tmp_path / "libnvidia-ml.so.1"
    source.write_text(NVML % {"init": init})
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    told = subprocess.run(
        [sys.executable, "-c", "from optimizer.system.nvidia_driver import driver_version; print(driver_version())"],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == expected
