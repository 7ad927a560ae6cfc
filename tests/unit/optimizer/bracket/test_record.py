"""The results of a bracket outlive the process, and are never taken for those of another bracket."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from optimizer.bracket.checkpoint_files import FILE
from optimizer.bracket.identity import BracketIdentity
from optimizer.bracket.judging import Judgement, MatchResult
from optimizer.bracket.kept import KeptRender, KeptRenders
from optimizer.bracket.record import BracketRecord, begin, bracket_lock
from optimizer.errors import BracketError

NAMES = ["ant", "bee", "cat", "dog"]
IDENTITY = BracketIdentity(checkpoints=("a", "b", "c", "d"), rounds=("1", "2"), counting=("3", "4"), judge="scorers x")


def result_of(record: BracketRecord) -> MatchResult:
    match = record.open_matches[0]
    judgement = Judgement(ahead="lower", lead=-1.5, low=-2, high=-1, scores={"fid": (3.0, 4.0), "none": (None, 1)})
    return MatchResult(match=match, winner=match.lower, judgement=judgement)


def test_every_result_is_there_after_a_new_start(tmp_path: Path) -> None:
    record = begin(tmp_path, IDENTITY, NAMES, anew=False)
    while record.open_matches:
        record.add(result_of(record))
        again = begin(tmp_path, IDENTITY, NAMES, anew=False)
        assert again.results == record.results
        assert again.open_matches == record.open_matches
    assert len(record.results) == 3


def test_begun_anew_it_has_no_results(tmp_path: Path) -> None:
    record = begin(tmp_path, IDENTITY, NAMES, anew=False)
    record.add(result_of(record))
    assert begin(tmp_path, IDENTITY, NAMES, anew=True).results == {}
    assert begin(tmp_path, IDENTITY, NAMES, anew=False).results == {}


@pytest.mark.parametrize(
    ("now", "names", "said"),
    [
        (replace(IDENTITY, checkpoints=("a", "B", "c", "d")), NAMES, "bee is not the file that it was"),
        (replace(IDENTITY, checkpoints=("a", "c", "d")), ["ant", "cat", "dog"], "bee competes no more"),
        (
            replace(IDENTITY, checkpoints=("a", "b", "c", "d", "e")),
            [*NAMES, "eel"],
            "eel was not among its checkpoints",
        ),
        (replace(IDENTITY, checkpoints=("b", "a", "c", "d")), ["bee", "ant", "cat", "dog"], "in another order"),
        (replace(IDENTITY, rounds=("1", "3")), NAMES, "round 2 renders otherwise"),
        (replace(IDENTITY, counting=("3", "5")), NAMES, "the images of round 2 count otherwise"),
        (replace(IDENTITY, judge="eye"), NAMES, "its judge is another"),
    ],
)
def test_another_bracket_is_refused_and_nothing_is_lost(
    tmp_path: Path, now: BracketIdentity, names: list[str], said: str
) -> None:
    record = begin(tmp_path, IDENTITY, NAMES, anew=False)
    record.add(result_of(record))
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(BracketError, match=f"{said}.*--anew"):
        begin(tmp_path, now, names, anew=False)
    assert (tmp_path / FILE).read_bytes() == before


def test_checkpoints_may_be_called_otherwise(tmp_path: Path) -> None:
    record = begin(tmp_path, IDENTITY, NAMES, anew=False)
    record.add(result_of(record))
    assert begin(tmp_path, IDENTITY, ["w", "x", "y", "z"], anew=False).results == record.results


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"version": 2}', '{"version": 2, "identity": 3}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(BracketError, match=r"bracket\.json is damaged"):
        begin(tmp_path, IDENTITY, NAMES, anew=False)


def test_two_processes_do_not_play_one_bracket(tmp_path: Path) -> None:
    with bracket_lock(tmp_path), pytest.raises(BracketError, match="another process"), bracket_lock(tmp_path):
        pass
    with bracket_lock(tmp_path):
        pass


# ---------------------------------------------------------------------------------------- pictures


def render() -> KeptRender:
    images = tuple(torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8) for _ in range(2))
    return KeptRender(images=images, faults=(None, "flat"))


def test_pictures_are_read_back_as_they_were_rendered(tmp_path: Path) -> None:
    made, kept = render(), KeptRenders(tmp_path)
    kept.keep("key", made)
    found = kept.load("key")
    assert found is not None
    assert found.faults == made.faults
    assert all(torch.equal(one, other) for one, other in zip(found.images, made.images, strict=True))


def test_a_checkpoint_without_pictures_is_kept_with_the_reason(tmp_path: Path) -> None:
    kept = KeptRenders(tmp_path)
    kept.keep("key", KeptRender(images=(), faults=(), failure="it holds NaN"))
    assert kept.load("key") == KeptRender(images=(), faults=(), failure="it holds NaN")


@pytest.mark.parametrize("damage", ["lost", "cut", "other", "no record", "half a record"])
def test_damaged_pictures_are_none(tmp_path: Path, damage: str) -> None:
    kept = KeptRenders(tmp_path)
    kept.keep("key", render())
    picture, record = kept.picture("key", 1), tmp_path / "key" / "renders.json"
    if damage == "lost":
        picture.unlink()
    elif damage == "cut":
        picture.write_bytes(picture.read_bytes()[:200])
    elif damage == "other":
        picture.write_bytes(kept.picture("key", 0).read_bytes())
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text('{"pixels": 3, "faults": 4}' if damage == "half a record" else "")
    assert kept.load("key") is None
