"""The spec of the search among the winners of a bracket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from basics.files import replace_file, sha256_of
from basics.texts import in_comment
from optimizer.bracket.contestants import Contestant
from optimizer.merging.files.checkpoint import letters
from studies.spec.rounds import BracketSpec


def winners_spec(bracket: BracketSpec, ranked: Sequence[Contestant]) -> str:
    """Return the spec as YAML: the bracket's, with the winners as parents.

    Args:
        ranked: the winners, best first.

    Raises:
        SpecError: its steps are of another number of parents.
    """
    data = bracket.among([contestant.checkpoint.path for contestant in ranked]).model_dump(
        mode="json", exclude_unset=True
    )
    first = {key: data.pop(key) for key in ("study", "parents")}
    head = "".join(
        f"#   {letter}: {in_comment(contestant.name)}\n"
        for letter, contestant in zip(letters(len(ranked)), ranked, strict=True)
    )
    comment = f"# The search among the winners of a bracket, best first:\n{head}"
    return comment + _yaml(first) + _yaml(data)


def write_winners(file: Path, text: str) -> None:
    """Write the spec, and beside it a hidden file with its digest, by which `is_edited` knows it again.

    Raises:
        OSError: they cannot be written.
    """
    replace_file(file, text.encode())
    replace_file(_digest_file(file), sha256_of(file).encode())


def is_edited(file: Path, text: str) -> bool:
    """Return whether there is a spec that is neither this text nor what was written before.

    Raises:
        OSError: a file that is there cannot be read.
    """
    if not file.exists():
        return False
    written = _digest_file(file)
    known = written.read_text(encoding="utf-8") if written.exists() else ""
    return sha256_of(file) != known and file.read_bytes() != text.encode()


def _digest_file(file: Path) -> Path:
    return file.with_name(f".{file.name}.sha256")


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=None)
