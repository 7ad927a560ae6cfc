"""Figures as JSON lines, so that a report can include runs on other machines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch


def add_records_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=Path, default=None, metavar="FILE", help="append the figures as JSON lines")


def record(path: Path | None, part: str, **figures: object) -> None:
    """Append one JSON line, with the process's device; do nothing without a path."""
    if path is None:
        return
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    with path.open("a") as file:
        file.write(json.dumps({"part": part, "device": name, "torch": torch.__version__, **figures}) + "\n")
