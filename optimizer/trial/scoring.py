"""Images -> scores: the suite's images through every scorer of a study, all at once or stage by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from basics.messages import first_line
from optimizer.errors import TrialFailed
from optimizer.trial.gains import Evidence
from optimizer.trial.objective import ScoreSheet
from scorers.memory import lacks_memory
from scorers.protocol import ImageScorer, Scorer, SetScorer, SuiteImages
from studies.spec.suite import SuiteItem


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredImages:
    """Some of the suite's items with what a network makes of each."""

    items: tuple[int, ...]
    images: tuple[Tensor, ...]  # uint8 [3, h, w]
    by_item: Mapping[str, NDArray[np.float64]]  # image scorer -> [items]
    features: Mapping[str, Tensor]  # set scorer -> [items, d]


class Scoring:
    """The scorers of a study, with their weights in memory.

    Whatever a scorer raises, and what is not a finite number, becomes TrialFailed: never a score in its place.
    """

    def __init__(self, scorers: Mapping[str, Scorer]) -> None:
        self.scorers = scorers

    def score(self, items: Sequence[SuiteItem], images: tuple[Tensor, ...]) -> ScoredImages:
        """Run every network over the images [uint8, 3, h, w] of these items.

        The last bits depend on which images go through together, so a study scores by the stages it renders in.
        """
        suite = SuiteImages(images=images, prompts=tuple(item.prompt for item in items))
        by_item: dict[str, NDArray[np.float64]] = {}
        features: dict[str, Tensor] = {}
        for name, scorer in self.scorers.items():
            with _blamed(name, lambda scorer=scorer: _culprit(scorer, suite, items)):  # type: ignore[misc]
                if scorer.info.scope == "image":
                    by_item[name] = _image_scores(scorer, suite)  # type: ignore[arg-type]
                else:
                    features[name] = _features(scorer, suite)  # type: ignore[arg-type]
        numbers = tuple(item.index for item in items)
        return ScoredImages(items=numbers, images=images, by_item=by_item, features=features)

    def sheet(self, part: ScoredImages) -> ScoreSheet:
        """All scores of these items, set scores among them."""
        by_set: dict[str, float] = {}
        for name, rows in part.features.items():
            with _blamed(name):
                by_set[name] = float(self.scorers[name].score(rows))  # type: ignore[arg-type]
        finite = {name: bool(np.isfinite(values).all()) for name, values in part.by_item.items()}
        finite |= {name: math.isfinite(value) for name, value in by_set.items()}
        for name in self.scorers:
            if not finite[name]:
                raise TrialFailed(f"scorer {name} gave a value that is not a finite number", "scorer")
        return ScoreSheet(by_item=part.by_item, by_set=by_set)

    def evidence(self, sheet: ScoreSheet, features: Mapping[str, Tensor]) -> Evidence:
        """What a comparison with other trials needs."""
        counts = [*map(len, sheet.by_item.values()), *map(len, features.values())]
        return Evidence(
            items=counts[0],
            sheet=sheet,
            resampled={name: self._resampled(name, rows) for name, rows in features.items()},
        )

    def _resampled(self, name: str, rows: Tensor) -> Callable[[np.ndarray[tuple[int], np.dtype[np.int64]]], float]:
        scorer = self.scorers[name]
        return lambda draw: scorer.score(rows[torch.from_numpy(draw)])  # type: ignore[arg-type,return-value]


def joined(parts: Sequence[ScoredImages]) -> ScoredImages:
    """All items together, in their order."""
    if len(parts) == 1:
        return parts[0]
    items = [item for part in parts for item in part.items]
    images = [image for part in parts for image in part.images]
    order = np.argsort(items)
    return ScoredImages(
        items=tuple(items[index] for index in order),
        images=tuple(images[index] for index in order),
        by_item={name: np.concatenate([part.by_item[name] for part in parts])[order] for name in parts[0].by_item},
        features={name: torch.cat([part.features[name] for part in parts])[order] for name in parts[0].features},
    )


@contextmanager
def _blamed(name: str, where: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Whatever a scorer raises fails the trial, with its name and, unless memory lacks, the words for where."""
    try:
        yield
    except Exception as error:
        if lacks_memory(error):  # which a single image may have, and tells nothing about it
            told = first_line(error)
            raise TrialFailed(f"out of memory in scorer {name}: {told}", "out_of_memory") from error
        raise TrialFailed(f"scorer {name} failed{where()}: {type(error).__name__}: {error}", "scorer") from error


def _culprit(scorer: Scorer, suite: SuiteImages, items: Sequence[SuiteItem]) -> str:
    """` at item 3`: the first image that a scorer cannot take alone either; nothing where it takes every one."""
    run = _image_scores if scorer.info.scope == "image" else _features
    for image, prompt, item in zip(suite.images, suite.prompts, items, strict=True):
        try:
            run(scorer, SuiteImages(images=(image,), prompts=(prompt,)))  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 - as above
            return f" at item {item.index}"
    return ""


def _image_scores(scorer: ImageScorer, suite: SuiteImages) -> NDArray[np.float64]:
    values = scorer.score(suite).cpu().double().numpy()
    if values.shape != (len(suite),):
        raise ValueError(f"it gave scores of shape {values.shape} for {len(suite)} images")
    return values


def _features(scorer: SetScorer, suite: SuiteImages) -> Tensor:
    rows = scorer.features(suite).cpu()
    if rows.ndim != 2 or rows.shape[0] != len(suite):
        raise ValueError(f"it gave features of shape {tuple(rows.shape)} for {len(suite)} images")
    return rows
