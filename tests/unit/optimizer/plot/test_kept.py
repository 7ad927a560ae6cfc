"""Cells that are rendered already: what is kept is given back to the bit, and only for the same key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optimizer.errors import PlotError
from optimizer.plot.kept import CellKeys, KeptCells, KeptScores
from optimizer.plot.tables import Cell
from search_spaces.blocks import Architecture
from studies.recipe.recipe import Parent, Recipe
from studies.spec.study import StudySpec, parse_spec

SPEC = """
    study: s
    parents: [/a.safetensors, /b.safetensors]
    suite: {{prompts: [a cat], steps: {steps}}}
    scorers: {{sharpness: }}
"""


def spec(steps: int = 20) -> StudySpec:
    return parse_spec(SPEC.format(steps=steps), base_dir=Path("/"))


def cell(sha256: str = "a" * 64) -> Cell:
    parents = (Parent(letter="A", name="a", sha256=sha256),)
    return Cell(label="", recipe=Recipe(architecture=Architecture.SD15.value, parents=parents), suite=spec().suite)


def images(seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(256, (3, 24, side), dtype=torch.uint8, generator=generator) for side in (16, 40))


@pytest.fixture
def kept(tmp_path: Path) -> KeptCells:
    return KeptCells(tmp_path / "plot.cells")


def test_a_key_is_of_the_spec_the_parents_the_suite_and_the_device() -> None:
    keys = CellKeys(spec(), "cpu")
    others = [
        CellKeys(spec(steps=21), "cpu").of(cell()),
        CellKeys(spec(), "cuda").of(cell()),
        keys.of(cell(sha256="b" * 64)),
        keys.of(replace(cell(), suite=cell().suite.model_copy(update={"seeds": (9,)}))),
    ]
    assert keys.of(cell()) == CellKeys(spec(), "cpu").of(replace(cell(), label="another"))
    assert len({keys.of(cell()), *others}) == 5


def test_images_come_back_to_the_bit_and_scores_with_them(kept: KeptCells) -> None:
    assert kept.images("k") is None
    kept.keep("k", images())
    assert all(torch.equal(one, other) for one, other in zip(kept.images("k") or (), images(), strict=True))
    assert kept.scores("k", "these") is None
    kept.keep_scores("k", KeptScores(scorers="these", means={"sharpness": 1.5, "clip": None}))
    assert kept.scores("k", "these") == {"sharpness": 1.5, "clip": None}
    assert kept.scores("k", "others") is None
    assert kept.images("k") is not None


@pytest.mark.parametrize("damage", ["gone", "cut off", "another", "no record", "half a record", "not ours"])
def test_a_cell_that_is_not_whole_is_rendered_again(kept: KeptCells, damage: str) -> None:
    kept.keep("k", images())
    kept.keep("other", images(1))
    picture, record = kept.folder / "k-2.png", kept.folder / "k.json"
    match damage:
        case "gone":
            picture.unlink()
        case "cut off":
            picture.write_bytes(picture.read_bytes()[:200])
        case "another":
            picture.write_bytes((kept.folder / "other-2.png").read_bytes())
        case "no record":
            record.unlink()
        case "half a record":
            record.write_text(record.read_text()[:-9])
        case _:
            record.write_text('{"pixels": 3}')
    assert kept.images("k") is None
    with pytest.raises(PlotError, match="run the command again"):
        kept.required_images("k")
    assert kept.images("other") is not None
