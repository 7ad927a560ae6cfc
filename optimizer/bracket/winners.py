"""The spec of the search among the winners of a bracket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

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


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=None)
