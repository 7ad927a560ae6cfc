"""Scoring: the suite's images go through every scorer of a study, all at once or stage by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from basics.messages import first_line
from optimizer.errors import UnscorableTrial
from optimizer.trial.by_prompt import prompt_numbers
from optimizer.trial.evidence import Evidence, Resampled
from optimizer.trial.objective import Scores
from scorers.memory import lacks_memory
from scorers.protocol import ImageScorer, Scorer, SetScorer, SuiteImages
from studies.spec.suite import SuiteItem


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredImages:
    """Some of the suite's items with their image scores and features."""

    items: tuple[int, ...]
    images: tuple[Tensor, ...]  # uint8 [3, h, w]
    weights: NDArray[np.float64]  # [items]
    prompts: tuple[str, ...]  # [items], as they are written
    by_item: Mapping[str, NDArray[np.float64]]  # image scorer -> [items]; NaN where it leaves an item out
    features: Mapping[str, Tensor]  # set scorer -> [members, d], on the CPU
    members: Mapping[str, tuple[int, ...]]  # scorer -> those of the items that it looks at

    @property
    def positions(self) -> dict[str, NDArray[np.int64]]:
        """Scorer -> positions of the items that it looks at; one that looks at all is not in here."""
        return {
            name: np.flatnonzero(np.isin(self.items, members))
            for name, members in self.members.items()
            if len(members) < len(self.items)
        }


class Scoring:
    """The scorers of a study, with their weights in memory.

    A scorer that fails, or returns a value that is not finite, fails the trial. No score is made up instead.

    Args:
        words: of an item's prompt, those that scorers compare with its image; by default the prompt as it is written.
    """

    def __init__(self, scorers: Mapping[str, Scorer], words: Callable[[SuiteItem], str] = attrgetter("prompt")) -> None:
        self.scorers, self._words = scorers, words

    def score(self, items: Sequence[SuiteItem], images: tuple[Tensor, ...]) -> ScoredImages:
        """Run every scorer's network over the images of these items, uint8 [3, h, w].

        The last bits depend on which images share a batch, so a study scores by the stages that it renders in.

        Raises:
            UnscorableTrial: a scorer fails.
        """
        looked_at = _LookedAt(items, images, self._words)
        by_item: dict[str, NDArray[np.float64]] = {}
        features: dict[str, Tensor] = {}
        members: dict[str, tuple[int, ...]] = {}
        for name, scorer in self.scorers.items():
            positions, suite = looked_at.by(name)
            own = [items[position] for position in positions]
            members[name] = tuple(item.index for item in own)
            if scorer.info.scope == "image":
                by_item[name] = np.full(len(items), np.nan)
            if not own:
                continue
            with _failing_trial(name, partial(_failing_item, scorer, suite, own)):
                if scorer.info.scope == "image":
                    by_item[name][positions] = _image_scores(scorer, suite)  # type: ignore[arg-type]
                else:
                    features[name] = _features(scorer, suite)  # type: ignore[arg-type]
        return ScoredImages(
            items=tuple(item.index for item in items),
            images=images,
            weights=np.array([item.weight for item in items]),
            prompts=tuple(item.prompt for item in items),
            by_item=by_item,
            features=features,
            members=members,
        )

    def scores(self, part: ScoredImages) -> Scores:
        """Return all scores of these items, set scores included.

        Raises:
            UnscorableTrial: a scorer fails or returns a value that is not finite.
        """
        by_set: dict[str, float] = {}
        for name, features in part.features.items():
            with _failing_trial(name):
                by_set[name] = float(self.scorers[name].score(features))  # type: ignore[arg-type]
        looked_at = part.positions
        by_item = {
            name: values if name not in looked_at else values[looked_at[name]] for name, values in part.by_item.items()
        }
        finite = {name: bool(np.isfinite(values).all()) for name, values in by_item.items()}
        finite |= {name: math.isfinite(value) for name, value in by_set.items()}
        for name in self.scorers:
            if not finite.get(name, True):
                raise UnscorableTrial(f"scorer {name} returned a value that is not finite", "scorer")
        members = {name: positions for name, positions in looked_at.items() if name not in part.by_item}
        return Scores(
            by_item=part.by_item,
            by_set=by_set,
            weights=part.weights,
            prompts=prompt_numbers(part.prompts),
            members=members,
        )

    def evidence(self, scores: Scores, features: Mapping[str, Tensor]) -> Evidence:
        """Return what a comparison with other trials needs.

        Args:
            features: set scorer -> [members, d].
        """
        counts = [*map(len, scores.by_item.values()), *map(len, features.values())]
        return Evidence(
            items=counts[0] if scores.weights is None else len(scores.weights),
            scores=scores,
            resampled={
                name: self._resampled(name, of_scorer, scores.members.get(name)) for name, of_scorer in features.items()
            },
        )

    def _resampled(self, name: str, features: Tensor, members: NDArray[np.int64] | None) -> Resampled:
        scorer = self.scorers[name]
        if members is None:
            return lambda draw: scorer.score(features[torch.from_numpy(draw)])  # type: ignore[arg-type,return-value]
        rows = {int(position): row for row, position in enumerate(members)}
        return lambda draw: scorer.score(features[[rows[int(each)] for each in draw]])  # type: ignore[arg-type,return-value]


def joined(parts: Sequence[ScoredImages]) -> ScoredImages:
    """Join the parts, with all items in order."""
    if len(parts) == 1:
        return parts[0]
    items = [item for part in parts for item in part.items]
    images = [image for part in parts for image in part.images]
    prompts = [prompt for part in parts for prompt in part.prompts]
    order = np.argsort(items)
    members = {name: [item for part in parts for item in part.members[name]] for name in parts[0].members}
    rows = {name: np.argsort(of_scorer) for name, of_scorer in members.items()}
    with_features = dict.fromkeys(name for part in parts for name in part.features)
    return ScoredImages(
        items=tuple(items[index] for index in order),
        images=tuple(images[index] for index in order),
        weights=np.concatenate([part.weights for part in parts])[order],
        prompts=tuple(prompts[index] for index in order),
        by_item={name: np.concatenate([part.by_item[name] for part in parts])[order] for name in parts[0].by_item},
        features={
            name: torch.cat([part.features[name] for part in parts if name in part.features])[rows[name]]
            for name in with_features
        },
        members={name: tuple(of_scorer[row] for row in rows[name]) for name, of_scorer in members.items()},
    )


class _LookedAt:
    """The images that each scorer looks at. Those that look at the same ones share them, and work on them."""

    def __init__(
        self, items: Sequence[SuiteItem], images: tuple[Tensor, ...], words: Callable[[SuiteItem], str]
    ) -> None:
        self._items, self._images, self._words = items, images, words
        self._suites: dict[tuple[int, ...], SuiteImages] = {}

    def by(self, scorer: str) -> tuple[list[int], SuiteImages]:
        """Return the positions of the items that a scorer is not left out of, and their images."""
        positions = tuple(position for position, item in enumerate(self._items) if scorer not in item.without)
        if positions not in self._suites:
            self._suites[positions] = SuiteImages(
                images=tuple(self._images[position] for position in positions),
                prompts=tuple(self._words(self._items[position]) for position in positions),
            )
        return list(positions), self._suites[positions]


@contextmanager
def _failing_trial(name: str, where: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn whatever a scorer raises into a failed trial that names the scorer.

    Args:
        where: finds the item that the scorer failed at; not called if memory does not suffice.

    Raises:
        UnscorableTrial: the scorer failed.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # plug-ins end the process, too
        if lacks_memory(error):  # no image is to blame, and a single one may well fit
            raise UnscorableTrial(f"out of memory in scorer {name}: {first_line(error)}", "out_of_memory") from error
        raise UnscorableTrial(f"scorer {name} failed{where()}: {type(error).__name__}: {error}", "scorer") from error


def _failing_item(scorer: Scorer, suite: SuiteImages, items: Sequence[SuiteItem]) -> str:
    """Name the first item that fails on its own as well, such as ` at item 3`; empty if each succeeds on its own."""
    run = _image_scores if scorer.info.scope == "image" else _features
    for image, prompt, item in zip(suite.images, suite.prompts, items, strict=True):
        try:
            run(scorer, SuiteImages(images=(image,), prompts=(prompt,)))  # type: ignore[arg-type]
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - a scorer may raise anything
            return f" at item {item.index}"
    return ""


def _image_scores(scorer: ImageScorer, suite: SuiteImages) -> NDArray[np.float64]:
    values = scorer.score(suite).cpu().double().numpy()
    if values.shape != (len(suite),):
        raise ValueError(f"expected one score for each of {len(suite)} images, got shape {values.shape}")
    return values


def _features(scorer: SetScorer, suite: SuiteImages) -> Tensor:
    features = scorer.features(suite).cpu()
    if features.ndim != 2 or features.shape[0] != len(suite):
        raise ValueError(f"expected features of {len(suite)} images, [images, d], got shape {tuple(features.shape)}")
    return features
