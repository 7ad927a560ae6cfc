"""What a scorer is. No torch is imported here: the command line lists scorers without it.

Two shapes of scorer exist. An image scorer gives every image a number and the mean over the suite is its
objective. A set scorer compares the whole set with reference images and gives one number; it is split into
`features` (slow: a network) and `score` (fast: linear algebra), so that a bootstrap can call
`score(features[index])` hundreds of times without rendering or embedding anything again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, cast

from scorers.errors import SuiteImagesError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path

    from torch import Tensor

Direction = Literal["maximize", "minimize"]
Scope = Literal["image", "set"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ScorerInfo:
    """What a score means, and what is needed to compute it."""

    name: str  # the kind, as written in a spec
    label: str  # as shown to people; see `report_name`
    summary: str  # one line
    direction: Direction
    # The difference in score that counts as one step when scores are added into one objective: roughly what a
    # person begins to see between two models, on the mean over a suite. catalogue.py gives each its reason.
    unit: float
    range: tuple[float, float]  # nominal: values outside may occur
    scope: Scope
    min_images: int = 1  # fewer are refused
    advised_images: int = 1  # fewer are scored, with a note

    def __post_init__(self) -> None:
        if not self.unit > 0:
            raise ValueError(f"unit of scorer {self.name!r} must be positive, got {self.unit}")
        if not 1 <= self.min_images <= self.advised_images:
            raise ValueError(f"scorer {self.name!r} needs 1 <= min_images <= advised_images")

    def report_name(self, count: int) -> str:
        """Name to print beside a value: set scores carry their n, and compare only at the same n."""
        return f"{self.label}@{count}" if self.scope == "set" else self.label

    def check_count(self, count: int) -> None:
        """Raise SuiteImagesError if `count` images are too few to be scored at all."""
        if count < self.min_images:
            raise SuiteImagesError(
                f"scorer {self.name!r} needs at least {self.min_images} images, got {count}: "
                "add prompts or seeds to the suite, or leave this scorer out"
            )

    def notes(self, count: int) -> tuple[str, ...]:
        """What a reader of the score at this many images should know, one line each."""
        if self.min_images <= count < self.advised_images:
            note = (
                f"{self.report_name(count)} comes from {count} images: below {self.advised_images} its "
                "value is strongly biased; trust only its ranking of models, at the same prompts and seeds"
            )
            return (note,)
        return ()


class Memo:
    """Values computed once per key. Not locked: use one per thread of work.

    A `compute` that raises leaves nothing behind, so the next call tries again.
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, object] = {}

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of `key`, calling `compute` if there is none. A key must always stand for one type."""
        if key not in self._values:
            self._values[key] = compute()
        return cast("T", self._values[key])


@dataclass(frozen=True, kw_only=True, eq=False)
class SuiteImages:
    """The renders of one trial, in suite order, with the prompt of each.

    Images are uint8 [3, h, w] in 0..255, RGB; sizes may differ. Scoring always begins at uint8, so an image
    read back from its stored PNG scores exactly the same.
    Raises SuiteImagesError for anything else.
    """

    images: tuple[Tensor, ...]
    prompts: tuple[str, ...]
    _memo: Memo = field(default_factory=Memo, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.images) != len(self.prompts):
            raise SuiteImagesError(f"{len(self.images)} images came with {len(self.prompts)} prompts")
        for index, image in enumerate(self.images):
            # The dtype is compared by name so that this module needs no torch.
            if str(image.dtype) != "torch.uint8" or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
                raise SuiteImagesError(
                    f"image {index} must be uint8 of shape [3, h, w], got {image.dtype} {list(image.shape)}"
                )

    def __len__(self) -> int:
        return len(self.images)

    def memo(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Share work between scorers: two that ask for the same key share one computation."""
        return self._memo.get(key, compute)


class ImageScorer(Protocol):
    """Gives each image its own number."""

    @property
    def info(self) -> ScorerInfo: ...

    def score(self, images: SuiteImages) -> Tensor:
        """Float64 [n] on the CPU, one value an image, in suite order."""
        ...


class SetScorer(Protocol):
    """Gives a set of images one number."""

    @property
    def info(self) -> ScorerInfo: ...

    def features(self, images: SuiteImages) -> Tensor:
        """Float32 or float64 [n, d] on the CPU, one row an image, in suite order."""
        ...

    def score(self, features: Tensor) -> float:
        """The number of the set whose rows are given: any selection of rows, repeats allowed."""
        ...


Scorer = ImageScorer | SetScorer


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """What a builder may use: where to compute, where to keep files, and what other scorers already hold."""

    device: str  # as torch spells it: "cpu", "cuda", "cuda:1"
    cache_dir: Path  # downloaded weights and reference statistics
    in_turns: bool = False  # whether a network is on the device only while it is used: the device's memory is short
    # Networks by what they were made from, so that two scorers on the same CLIP hold one copy of it.
    shared: Memo = field(default_factory=Memo, repr=False, compare=False)
