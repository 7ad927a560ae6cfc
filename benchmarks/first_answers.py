"""Measure the seconds until a command tells that a path leads nowhere, here and in another checkout side by side.

    python benchmarks/first_answers.py [--other FOLDER] [--rounds 5]

Every command runs as a process of its own with the packages of this Python, in turns with that of the other checkout;
the smallest time of each counts. The ratio is the other's time over this one's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SPEC = """
study: one
parents: [lost.safetensors, other.safetensors]
suite: {prompts: [a cat]}
scorers: {sharpness: }
"""
COMMANDS: Sequence[tuple[str, ...]] = (
    ("--version",),
    ("study", "check", "lost.yaml"),
    ("study", "check", "spec.yaml"),
    ("study", "start", "spec.yaml"),
    ("study", "list"),
    ("study", "resume", "somebody"),
    ("export", "somebody"),
    ("merge", "lost.yaml", "-o", "merged.safetensors"),
    ("inspect", "lost.safetensors"),
    ("diff", "lost.safetensors", "other.safetensors"),
    ("suite", "import", "lost", "-o", "suite.yaml"),
)


def seconds_of(checkout: Path, folder: Path, words: Sequence[str]) -> float:
    """Return how long a command of a checkout takes, from its start to its end."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_WAIT_POLICY": "PASSIVE"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "optimizer.cli", *words], cwd=folder, env=environment, capture_output=True, check=False
    )
    seconds = time.perf_counter() - start
    expected = 0 if words == ("--version",) else 2
    if done.returncode != expected:
        raise SystemExit(f"{' '.join(words)}: expected exit code {expected}, got {done.returncode}: {done.stderr!r}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, default=None, metavar="FOLDER", help="another checkout of mergetune")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    checkouts = [HERE, *([options.other.resolve()] if options.other is not None else [])]
    print(f"{'command':40}{'seconds':>10}" + (f"{'other':>10}{'ratio':>8}" if len(checkouts) > 1 else ""))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "spec.yaml").write_text(SPEC)
        for words in COMMANDS:
            rounds = [[seconds_of(each, folder, words) for each in checkouts] for _ in range(options.rounds)]
            best = [min(times) for times in zip(*rounds, strict=True)]
            told = "".join(f"{seconds:10.2f}" for seconds in best)
            print(f"{' '.join(words):40}{told}" + (f"{best[1] / best[0]:8.1f}" if len(best) > 1 else ""), flush=True)


if __name__ == "__main__":
    main()
