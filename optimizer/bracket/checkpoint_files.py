"""The files and folders that may be checkpoints, found by their names alone and without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from basics.messages import counted
from optimizer.errors import BracketError
from optimizer.merging.files.names import CHECKPOINT_SUFFIXES, DIFFUSERS_INDEX
from optimizer.merging.files.presence import require_checkpoint_at
from studies.recipe.recipe import LETTERS

FILE: Final = "bracket.json"  # in the folder of a bracket: what is decided of it


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """A file, or the folder of a diffusers pipeline."""

    path: Path  # absolute: the spec of the search among the winners names it
    named: bool  # whether the user names it, and not just a folder that holds it


def checkpoint_files(given: Sequence[Path]) -> tuple[ListedFile, ...]:
    """List the checkpoints that files and folders can be: in the order given, those of a folder by name.

    A folder may hold diffusers folders; what lies deeper is not looked at.

    Raises:
        CheckpointError: nothing is at a path.
        BracketError: a folder has no such file, a file is named twice, or there are fewer than two.
    """
    found = list[ListedFile]()
    for path in given:
        require_checkpoint_at(path)
        found += _files(path.absolute())
    places = Counter(each.path.resolve() for each in found)
    if twice := next((path for path, count in places.items() if count > 1), None):
        raise BracketError(f"{twice} is named twice: a checkpoint competes once, so leave one of them out")
    require_several(len(found))
    return tuple(found)


def require_count(winners: int, checkpoints: int) -> None:
    """Refuse a number of winners that no study can have as parents.

    Raises:
        BracketError: there are too few or too many.
    """
    most = min(checkpoints, len(LETTERS))
    if not 2 <= winners <= most:
        raise BracketError(f"--winners: a search takes 2 to {most} of these checkpoints as its parents, got {winners}")


def require_several(count: int) -> None:
    """Refuse fewer checkpoints than a match has.

    Raises:
        BracketError: there are fewer.
    """
    if count < 2:
        raise BracketError(f"a bracket takes two checkpoints or more, got {counted(count, 'checkpoint')}")


def _files(path: Path) -> list[ListedFile]:
    if not path.is_dir() or _is_pipeline(path):
        return [ListedFile(path=path, named=True)]
    inside = [ListedFile(path=each, named=False) for each in _inside(path)]
    if not inside:
        raise BracketError(f"{path} has no checkpoint: give a folder of .safetensors or .ckpt files, or the files")
    return inside


def _inside(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        is_model = path.suffix.lower() in CHECKPOINT_SUFFIXES if path.is_file() else _is_pipeline(path)
        if is_model and not path.name.startswith("."):
            yield path


def _is_pipeline(folder: Path) -> bool:
    return (folder / DIFFUSERS_INDEX).is_file()
