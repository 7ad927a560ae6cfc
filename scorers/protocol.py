"""The interface of scorers. No torch is imported here, because the command line lists scorers without it.

There are two kinds. An image scorer gives each image a number, and the mean over the suite is its score. A set scorer
compares the whole set with reference images and gives one number. It is split into `features` (slow: a network) and
`score` (fast: linear algebra), so that a standard error can call `score(features[index])` for the set without each of
the prompts, without rendering or embedding anything again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, cast

from scorers.errors import SuiteImagesError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from pathlib import Path

    from torch import Tensor

Direction = Literal["maximize", "minimize"]
Scope = Literal["image", "set"]
T = TypeVar("T")


def is_parent_letter(to: str) -> bool:
    """Return whether a model to compare with is a parent of the study, `A` to `Z`, and not a file."""
    return len(to) == 1 and "A" <= to <= "Z"


@dataclass(frozen=True, kw_only=True)
class ScorerInfo:
    """The meaning of a score, and the number of images that it needs."""

    name: str  # in a spec
    label: str  # as shown to people; see `report_name`
    summary: str  # one line
    direction: Direction
    # The difference that counts as one step when scores are added into one objective: roughly the smallest difference
    # in the mean over a suite that a person sees between two models. It is our judgement of comparable steps, not a
    # measurement, and it only weighs scores against each other. The comment beside each explains it.
    unit: float
    range: tuple[float, float]  # nominal, for people; values outside may occur
    scope: Scope
    limits: tuple[float, float] = (-inf, inf)  # by definition: values outside cannot occur, and no bound may lie there
    min_images: int = 1  # with fewer, scoring is refused
    advised_images: int = 1  # with fewer, the score has a note

    def __post_init__(self) -> None:
        if not self.unit > 0:
            raise ValueError(f"unit of scorer {self.name!r} must be positive, got {self.unit}")
        if not 1 <= self.min_images <= self.advised_images:
            raise ValueError(f"scorer {self.name!r} needs 1 <= min_images <= advised_images")

    def report_name(self, count: int) -> str:
        """Return the name to print beside a value. Set scores include n, because they compare only at equal n."""
        return f"{self.label}@{count}" if self.scope == "set" else self.label

    def check_count(self, count: int) -> None:
        """Refuse a number of images that is too small.

        Raises:
            SuiteImagesError: `count` is smaller than `min_images`.
        """
        if count < self.min_images:
            raise SuiteImagesError(
                f"scorer {self.name!r} needs at least {self.min_images} images, got {count}: "
                "add prompts or seeds to the suite, or leave this scorer out"
            )

    def notes(self, count: int) -> tuple[str, ...]:
        """Return notes for a reader of a score of this many images, one line each."""
        if self.min_images <= count < self.advised_images:
            note = (
                f"{self.report_name(count)} is computed from {count} images: below {self.advised_images}, its value is "
                "strongly biased; trust only its ranking of models, at the same prompts and seeds"
            )
            return (note,)
        return ()


class Memo:
    """A cache of values that are computed once for each key. It has no lock: use one in each thread.

    If `compute` raises, nothing is stored, and the next call tries again.
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, object] = {}

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the value of `key`; call `compute` if there is none. A key must always stand for the same type."""
        if key not in self._values:
            self._values[key] = compute()
        return cast("T", self._values[key])


@dataclass(frozen=True, kw_only=True, eq=False)
class SuiteImages:
    """The images of one trial with their prompts, in the order of the suite.

    Images are RGB, uint8 [3, h, w] in 0..255; sizes may differ. Scoring always starts from uint8, so an image that is
    read back from its PNG gets exactly the same score.

    Raises:
        SuiteImagesError: an image has another dtype or shape, or there are more or fewer prompts than images.
    """

    images: tuple[Tensor, ...]
    prompts: tuple[str, ...]
    references: Mapping[str, SuiteImages] = field(default_factory=dict, repr=False)  # see `of_reference`
    _memo: Memo = field(default_factory=Memo, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.images) != len(self.prompts):
            raise SuiteImagesError(
                f"expected one prompt for each of {len(self.images)} images, got {len(self.prompts)}"
            )
        for index, image in enumerate(self.images):
            # The dtype is compared by name so that this module needs no torch.
            if str(image.dtype) != "torch.uint8" or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
                raise SuiteImagesError(
                    f"image {index} must be uint8 of shape [3, h, w], got {image.dtype} {list(image.shape)}"
                )

    def __len__(self) -> int:
        return len(self.images)

    def of_reference(self, to: str) -> SuiteImages:
        """Return the images of the same items by another model, which the scorer's kind names among its `references`.

        They are the same for every trial, and so is their memo: what is computed there once is not computed again.

        Args:
            to: a parent's letter, or the absolute path of a checkpoint.

        Raises:
            SuiteImagesError: there are none here.
        """
        if to not in self.references:
            named = f"parent {to}" if is_parent_letter(to) else to
            raise SuiteImagesError(f"there are no renders of {named} to compare with")
        return self.references[to]

    def memo(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Share work between scorers: two calls with the same key share one computation."""
        return self._memo.get(key, compute)


class ImageScorer(Protocol):
    """A scorer that gives each image a number."""

    @property
    def info(self) -> ScorerInfo: ...

    def score(self, images: SuiteImages) -> Tensor:
        """Return the score of each image, float64 [n] on the CPU, in the order of the suite."""
        ...


class SetScorer(Protocol):
    """A scorer that gives a set of images one number."""

    @property
    def info(self) -> ScorerInfo: ...

    def features(self, images: SuiteImages) -> Tensor:
        """Return the features of each image, float32 or float64 [n, d] on the CPU, in the order of the suite."""
        ...

    def score(self, features: Tensor) -> float:
        """Return the score of the set with these features [n, d]: any selection of rows of a suite.

        Raises:
            SuiteImagesError: these are too few rows for it. A score that needs all of a suite's has no interval.
        """
        ...


Scorer = ImageScorer | SetScorer


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """The context of a builder: the device, the folder for files, and the networks of other scorers."""

    device: str  # as torch spells it: "cpu", "cuda", "cuda:1"
    cache_dir: Path  # downloaded weights and reference statistics
    in_turns: bool = False  # keep a network on the device only while it is used, because its memory is short
    # Networks by their settings, so that two scorers on the same CLIP share one copy.
    shared: Memo = field(default_factory=Memo, repr=False, compare=False)
