"""Run everything that needs a GPU, the most valuable part first, each with a time limit.

    python benchmarks/gpu/run.py --minutes 9 --out DIR [--parts NAME ...] [--files FOLDER] [--small]

Writes DIR/records.jsonl while it runs (`report.py` turns it into tables), a log for each part, and a summary. `--small`
runs the same parts on any device with small checkpoints; that only tests that they run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TAIL_LINES = 30  # printed from the end of each part's log


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the run: commands that run one after the other until one fails or exceeds the time limit."""

    name: str
    limit_seconds: float
    commands: tuple[Sequence[object], ...]


def parts(files: Path, out: Path, *, small: bool) -> list[Part]:
    """Return the parts, the most valuable first.

    Args:
        files: folder of the full-size models.
        out: folder of logs and records.
        small: use small checkpoints, and any device.
    """
    python, here = sys.executable, ROOT / "benchmarks"
    records = ("--records", out / "records.jsonl")
    demo = out / "demo"
    cli = (python, "-m", "optimizer.cli")
    size = ("--size", 64, "--images", 2, "--steps", 2) if small else ()
    trial = (python, here / "trial.py", *records)
    on = ("--device", "cpu", "--small") if small else ("--device", "cuda", "--folder", files)
    merge = (python, here / "merge.py", *on, *records)
    placements = ("device", "files") if small else ("device", "host", "files")
    sdxl = files / "sdxl.yaml"
    full_size = (python, here / "gpu" / "full_size.py", files, *(("--small",) if small else ()))
    render = (python, here / "render.py", files / "sdxl-A.safetensors", *size, *records)
    sd15 = (
        python,
        here / "render.py",
        files / "sd15-A.safetensors",
        *(size or ("--size", 512, "--images", 8)),
        *records,
    )
    return [
        Part(
            name="tests",
            limit_seconds=200,
            commands=((python, "-m", "pytest", *PYTEST, *TESTS),),
        ),
        Part(name="demo-trial", limit_seconds=60, commands=((*trial, "--trials", 4 if small else 12),)),
        Part(
            name="demo-proof",
            limit_seconds=150,
            commands=(
                (*cli, "demo", "--output", demo),
                (*cli, "export", "demo", "--storage", demo / "demo.db", "--output", demo / "again.safetensors"),
            ),
        ),
        Part(
            name="files",
            limit_seconds=120,
            commands=(full_size,),
        ),
        Part(
            name="sd15-render",
            limit_seconds=120,
            commands=(
                (*full_size, "--layout", "sd15", "--size", 512),
                (*sd15, "--samplers", *SAMPLERS, "--memory", "--launched", "--variants"),
            ),
        ),
        Part(
            name="sdxl-render",
            limit_seconds=200,
            commands=(
                (*render, "--images", 4, "--batches", 1, 2, 4, "--samplers", *SAMPLERS, "--memory", "--launched"),
            ),
        ),
        Part(name="sdxl-trial", limit_seconds=150, commands=((*trial, "--spec", sdxl, "--trials", 4),)),
        Part(
            name="cards",
            limit_seconds=300,
            commands=()
            if small
            else (
                (*full_size, "--images", 4),
                *((*trial, "--spec", sdxl, "--trials", 3, "--card-gb", gb) for gb in CARDS),
            ),
        ),
        Part(
            name="sdxl-proof",
            limit_seconds=200,
            commands=(
                (*full_size, "--images", 4),
                (*cli, "study", "start", sdxl, "--storage", out / "sdxl.db"),
                (
                    *cli,
                    "export",
                    "sdxl-full-size",
                    "--storage",
                    out / "sdxl.db",
                    "--output",
                    files / "best.safetensors",
                ),
            ),
        ),
        Part(
            name="merge",
            limit_seconds=150,
            commands=tuple(
                (
                    *(*merge, "--layout", layout, "--placement", name, "--merges", 0),
                    *("--method", *METHODS, *(RANDOM if name == "device" else ())),
                )
                for name in placements
                for layout in ("sdxl", "sd15")
            ),
        ),
    ]


SAMPLERS = ("dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "uni_pc")
PYTEST = ("-m", "cuda", "-n", 10, "--dist", "worksteal", "-p", "no:cacheprovider", "-W", "default")
TESTS = ("tests/unit", "tests/integration")
METHODS = ("weighted_sum:2", "add_difference:3")
RANDOM = ("dare_linear:2",)
CARDS = (24, 16, 12, 8)  # GB


def run(part: Part, out: Path, seconds: float) -> dict[str, object]:
    """Run one part, with its output in a log; return its exit code and wall time.

    Args:
        seconds: the time limit.
    """
    log, start, code = out / f"{part.name}.log", time.monotonic(), 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment |= {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with log.open("w") as file:
        for command in part.commands:
            left = seconds - (time.monotonic() - start)
            # In a session of its own, so that a part that is cut off ends with all its processes, and frees the GPU.
            process = subprocess.Popen(
                list(map(str, command)),
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
            try:
                code = process.wait(timeout=max(1.0, left))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = 124
            if code:
                break
    return {"part": part.name, "exit": code, "seconds": round(time.monotonic() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files", type=Path, default=Path(tempfile.gettempdir()) / "mergetune-gpu")
    parser.add_argument("--parts", nargs="+", default=None)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    out, files = options.out.resolve(), options.files.resolve()
    out.mkdir(parents=True, exist_ok=True)
    files.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    outcomes = []
    for part in parts(files, out, small=options.small):
        left = end - time.monotonic()
        if left > 10 and (options.parts is None or part.name in options.parts):
            limit = left if options.small else min(left, part.limit_seconds)  # a small run need not hurry
            outcomes.append(run(part, out, limit))
            tail = (out / f"{part.name}.log").read_text(errors="replace").splitlines()[-TAIL_LINES:]
            print("=====", json.dumps(outcomes[-1]), *tail, sep="\n", flush=True)
    (out / "summary.json").write_text(json.dumps(outcomes, indent=1))
    sys.exit(any(outcome["exit"] for outcome in outcomes))


if __name__ == "__main__":
    main()
