"""A public class name means one thing in the whole program."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("basics", "search_spaces", "scorers", "studies", "optimizer")


def test_no_two_modules_define_a_public_class_of_one_name() -> None:
    modules: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
            for name in (node.name for node in classes):
                if not name.startswith("_"):
                    modules[name].append(path.relative_to(ROOT).as_posix())
    assert len(modules) > 100  # the packages were found
    assert {name: paths for name, paths in modules.items() if len(paths) > 1} == {}
