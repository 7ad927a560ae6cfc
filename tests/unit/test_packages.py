"""The top-level packages, of which import-linter sees only those that it is told of."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_import_rules_cover_every_top_level_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rules = settings["tool"]["importlinter"]
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert set(rules["root_packages"]) == packages
    (top,) = [contract for contract in rules["contracts"] if contract["name"] == "packages import one way"]
    assert {name for layer in top["layers"] for name in layer.split(" | ")} == packages
