"""What is decided of a bracket, as a JSON file that is replaced whole after every match.

A file and not the study database: a bracket is no study, one process plays it, and its folder with the pictures can be
moved, kept or thrown away as one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from basics.file_locks import take_lock
from basics.files import open_lock_file, replace_file
from optimizer.bracket.checkpoint_files import FILE
from optimizer.bracket.identity import BracketIdentity
from optimizer.bracket.judging import MatchResult
from optimizer.bracket.tree import BracketMatch, TreeRound, played, ranking
from optimizer.errors import BracketError

LOCK: Final = ".bracket.lock"
VERSION: Final = 2
ANEW: Final = "or begin anew with --anew, which keeps every picture that still fits"


@dataclass(kw_only=True)
class BracketRecord:
    """The matches that are decided."""

    folder: Path
    identity: BracketIdentity
    names: tuple[str, ...]  # of the checkpoints, by number
    results: dict[BracketMatch, MatchResult] = field(default_factory=dict)

    def winner(self, match: BracketMatch) -> int | None:
        """Return the number of a match's winner; None while it is not decided."""
        result = self.results.get(match)
        return None if result is None else result.winner

    @property
    def rounds(self) -> list[TreeRound]:
        """The rounds as far as it is known who plays in them."""
        return played(len(self.names), self.winner)

    @property
    def ranking(self) -> list[int]:
        """The numbers of the checkpoints of a bracket that is over, best first."""
        return ranking(self.rounds, lambda match: self.results[match].winner)

    @property
    def open_matches(self) -> tuple[BracketMatch, ...]:
        """The matches of the present round that are not decided; none when the bracket is over."""
        return tuple(match for match in self.rounds[-1].matches if match not in self.results)

    def add(self, result: MatchResult) -> None:
        """Add a result, and write the file.

        Raises:
            OSError: it cannot be written.
        """
        self.results[result.match] = result
        self.save()

    def save(self) -> None:
        """Write the file.

        Raises:
            OSError: it cannot be written.
        """
        data = {
            "version": VERSION,
            "identity": asdict(self.identity),
            "names": self.names,
            "results": [asdict(result) for result in self.results.values()],
        }
        replace_file(self.folder / FILE, json.dumps(data, indent=1).encode())


@contextmanager
def bracket_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a bracket's folder.

    Raises:
        BracketError: another process holds it, or it cannot be locked.
    """
    handle = _locked(folder)
    try:
        yield
    finally:
        os.close(handle)


def _locked(folder: Path) -> int:
    """Return the open handle of the lock's file."""
    try:
        handle = open_lock_file(folder / LOCK)
        try:
            take_lock(handle)
        except OSError:
            os.close(handle)
            raise
    except BlockingIOError as error:
        raise BracketError(
            f"another process is at work on the bracket in {folder}: wait for it, or name another --folder"
        ) from error
    except OSError as error:
        raise BracketError(
            f"the bracket in {folder} cannot be locked ({error.strerror}): name a --folder on a disk where files can "
            "be written and locked"
        ) from error
    return handle


def begin(folder: Path, identity: BracketIdentity, names: Sequence[str], *, anew: bool) -> BracketRecord:
    """Return the record of a bracket as far as it was played, or that of a new one.

    Args:
        names: of the checkpoints, by number.
        anew: whether to forget what was played.

    Raises:
        BracketError: the folder has another bracket, or its file cannot be read.
        OSError: the file cannot be read or written.
    """
    record = BracketRecord(folder=folder, identity=identity, names=tuple(names))
    if not anew and (folder / FILE).exists():
        record.results = _results(folder / FILE, identity, names)
    record.save()
    return record


def _results(path: Path, identity: BracketIdentity, names: Sequence[str]) -> dict[BracketMatch, MatchResult]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise BracketError(f"{path} is of another version of mergetune: name another --folder, {ANEW}")
        before = TypeAdapter(BracketIdentity).validate_python(data["identity"])
        before_names = TypeAdapter(tuple[str, ...]).validate_python(data["names"])
        results = TypeAdapter(tuple[MatchResult, ...]).validate_python(data["results"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise BracketError(f"{path} is damaged, and was written by mergetune: remove it, {ANEW}") from error
    _require_same(path.parent, before, identity, dict(zip(before.checkpoints, before_names, strict=False)), names)
    return {result.match: result for result in results}


def _require_same(
    folder: Path, before: BracketIdentity, now: BracketIdentity, known: Mapping[str, str], names: Sequence[str]
) -> None:
    """Refuse to go on with other checkpoints, rounds or another judge.

    Args:
        known: sha256 -> name of the checkpoints that the bracket began with.
        names: of the checkpoints now, by number.

    Raises:
        BracketError: something is not as it was.
    """
    change = (
        _changed_checkpoints(before, now, known, names)
        or _changed_rounds(before.rounds, now.rounds)
        or ("" if before.judge == now.judge else "its judge is another: other scorers, objective, or --by")
        or _changed_counting(before.counting, now.counting)
    )
    if change:
        raise BracketError(f"the bracket in {folder} cannot go on: {change}; undo that, name another --folder, {ANEW}")


def _changed_checkpoints(
    before: BracketIdentity, now: BracketIdentity, known: Mapping[str, str], names: Sequence[str]
) -> str:
    gone = [known[digest] for digest in before.checkpoints if digest not in now.checkpoints]
    new = [name for digest, name in zip(now.checkpoints, names, strict=True) if digest not in before.checkpoints]
    changed = [name for name in gone if name in new]
    if changed:
        return f"{changed[0]} is not the file that it was"
    if gone:
        return f"{gone[0]} competes no more"
    if new:
        return f"{new[0]} was not among its checkpoints"
    return "" if before.checkpoints == now.checkpoints else "the checkpoints are named in another order"


def _changed_rounds(before: Sequence[str], now: Sequence[str]) -> str:
    changed = _first_change(before, now)
    if changed is None:
        return ""
    return f"round {changed} renders otherwise: the spec, a file beside it, the device or the software has changed"


def _changed_counting(before: Sequence[str], now: Sequence[str]) -> str:
    changed = _first_change(before, now)
    if changed is None:
        return ""
    return (
        f"the images of round {changed} count otherwise: a prompt's weight, without or group, or degenerate_limit, has "
        "changed"
    )


def _first_change(before: Sequence[str], now: Sequence[str]) -> int | None:
    """Return the number of the first round that is not as it was."""
    pairs = enumerate(zip(before, now, strict=False), start=1)
    return next((number for number, (one, other) in pairs if one != other), None)
