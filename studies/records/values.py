"""Studies, trials and renders as they are stored: frozen values."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from studies.recipe.recipe import Recipe
from studies.records.batch_limits import BatchLimit
from studies.records.failures import FailureKind
from studies.records.origins import Origin
from studies.spec.study import StudySpec

State = Literal["running", "complete", "failed"]
Status = Literal["active", "paused", "stopped"]
Basis = Literal["prompts", "images", "votes"]
"""What an interval is over: prompts, each with the mean of its images, or images where it cannot be; votes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentFile:
    """A parent checkpoint as the study first saw it."""

    letter: str
    path: Path
    sha256: str
    bytes: int
    mtime_ns: int  # is not trusted: anybody can set it


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStudy:
    """A study as it stands in the database."""

    id: int
    key: str  # the folder of its files in an artifact store
    name: str
    spec: StudySpec
    former_scheduler: str | None  # of a study that began when samplers and noise levels had one name together
    suite_digest: str
    parents: tuple[ParentFile, ...]
    software: Mapping[str, str]
    fingerprints: Mapping[str, str]  # scorer -> digest of the files it reads
    created_at: float
    status: Status  # as it was when the study was read; `status_of` reads it as it is now
    priority: int

    def parent_file(self, letter: str) -> ParentFile:
        """Return the file of the parent with a letter.

        Raises:
            KeyError: the study has no such parent.
        """
        return {parent.letter: parent for parent in self.parents}[letter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much better than the better parent, with the 95 % interval.

    Positive is better whatever the score's direction; `low` and `high` are None where no interval can be given
    (one image only).
    """

    value: float
    low: float | None
    high: float | None
    parent: str  # letter of the parent compared with: the better one in this score
    basis: Basis | None = None  # what the interval is over; None: over images, from an earlier version

    @property
    def stored(self) -> list[Any]:
        """It as the database keeps it."""
        return [self.value, self.low, self.high, self.parent, *([] if self.basis is None else [self.basis])]

    @classmethod
    def read(cls, stored: Sequence[Any]) -> Gain:
        """Read what `stored` gave.

        Raises:
            ValueError, TypeError: it is malformed.
        """
        value, low, high, parent, *basis = stored
        return cls(value=value, low=low, high=high, parent=parent, basis=basis[0] if basis else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """The mean of a scorer over the suite's items, with its 95 % interval; `low` and `high` are None as in a gain."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What the evaluation of one recipe gave. It is stored whole or not at all."""

    objectives: Mapping[str, float]  # name -> value, which Optuna gets as well, in the study's order
    constrained: Mapping[str, float] = field(default_factory=dict)  # scorer that has a constraint -> its mean
    items: tuple[int, ...] | None = None  # of the suite that were rendered, in their order; None: all
    image_scores: Mapping[str, tuple[float, ...]]  # scorer -> one value per item; NaN where it leaves one out
    set_scores: Mapping[str, float]
    pixels_sha256: tuple[str, ...]  # per item
    files: Mapping[int, str] = field(default_factory=dict)  # item -> name of its PNG in the artifact store
    seconds: Mapping[str, float]
    machine: Mapping[str, str]
    batch_limits: tuple[BatchLimit, ...] = ()  # that it was rendered with: they decide which images share a batch
    contact_sheet: str | None = None  # its artifact id
    incumbent: int | None = None  # of a stopped trial: see StoredTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrial:
    """A trial as it stands in the database."""

    id: int
    number: int
    origin: Origin
    recipe_text: str  # JSON
    worker_id: str
    attempt: int
    state: State
    reason: str | None  # why it failed, as one line
    objectives: Mapping[str, float]
    gains: Mapping[str, Gain]
    seconds: Mapping[str, float]
    machine: Mapping[str, str]
    contact_sheet: str | None  # its artifact id
    started_at: float
    finished_at: float | None
    rendered: int = 0  # images; 0 while it runs
    incumbent: int | None = None  # the trial that a stopped one was compared with, on the items it has
    errors: Mapping[str, float] = field(default_factory=dict)  # objective or score -> its standard error over the suite
    failure: FailureKind | None = None  # what kind of reason it is
    batch_limits: tuple[BatchLimit, ...] = ()  # that it was rendered with
    source: str | None = None  # "STUDY trial 12" where it was copied from, with its scores
    constrained: Mapping[str, float] = field(default_factory=dict)  # scorer that has a constraint -> its mean

    @property
    def recipe(self) -> Recipe:
        """What was merged. It is parsed here, because most who read trials do not need it."""
        return _recipe(self.recipe_text)

    @property
    def estimated(self) -> bool:
        """Whether it was stopped before all items were rendered, so that its objective is an estimate."""
        return self.incumbent is not None

    @property
    def has_gains(self) -> bool:
        """Whether its gains are stored, with what their intervals are over; those of an earlier version lack it."""
        return bool(self.gains) and all(gain.basis is not None for gain in self.gains.values())

    @property
    def is_whole(self) -> bool:
        """Whether it is complete and has all items, so that it may be the best."""
        return self.state == "complete" and not self.estimated

    @property
    def gains_over_others(self) -> Mapping[str, Gain]:
        """Its gains by name, but of a parent not those over itself."""
        return {name: gain for name, gain in self.gains.items() if gain.parent != self.origin.parent}

    @property
    def name(self) -> str:
        """What the trial is called where trials are listed: `parent A`, `uniform 0.5`, `search 17`."""
        return self.origin.named(self.number)

    @property
    def title(self) -> str:
        """What the trial is, for people."""
        return str(self.origin) if self.source is None else f"{self.origin}, from {self.source}"


@functools.lru_cache(maxsize=512)
def _recipe(text: str) -> Recipe:
    return Recipe.from_json(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRender:
    """A render as it stands in the database."""

    item: int
    pixels_sha256: str
    file: str | None
