"""Errors of a study's scorers name the scorer, before anything is loaded and while it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from optimizer.runtime.named_files import require_files_of
from optimizer.runtime.setup import build_scorers
from scorers.errors import MissingWeightsError
from studies.spec.study import StudySpec, parse_spec


@pytest.mark.parametrize(
    "refuse",
    [lambda spec, _: require_files_of(spec), lambda spec, cache: build_scorers(spec, torch.device("cpu"), cache)],
    ids=["before", "while loading"],
)
def test_a_file_that_is_not_there_is_told_with_the_name_of_its_scorer(
    refuse: Callable[[StudySpec, Path], object], tmp_path: Path
) -> None:
    spec = parse_spec(
        """
        study: s
        parents: [a.safetensors, b.safetensors]
        suite: {prompts: [a cat]}
        scorers: {sharpness: , taste: {kind: aesthetic, head: none.pth}}
        objective: {sharpness: }
        """,
        base_dir=tmp_path,
    )
    for letter in "ab":
        (tmp_path / f"{letter}.safetensors").write_bytes(b"")
    with pytest.raises(MissingWeightsError, match=r"^scorer 'taste': no file at .*none\.pth, named by option 'head'"):
        refuse(spec, tmp_path)
