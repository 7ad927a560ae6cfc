"""Recipe -> merge -> render -> score. The collaborators are handed in; nothing here knows of Optuna or a database."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimizer.errors import TrialFailed
from optimizer.gains import Evidence
from optimizer.merging.resident import ResidentModel
from optimizer.objective import ScoreSheet
from optimizer.rendering.batch_limits import BatchReduced
from optimizer.rendering.render import Renderer
from scorers.degenerate import find_degenerate
from scorers.protocol import ImageScorer, Scorer, SetScorer, SuiteImages
from search_spaces.blocks import text_encoders
from studies.recipe import Recipe
from studies.spec import SuiteItem

GoOn = Callable[[Sequence[int], Evidence], bool]
"""Asked after each stage but the last, with the items rendered so far, in their order, and what they say: whether to
render the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What one recipe looks like, and what it scores."""

    items: tuple[int, ...]  # that were rendered, in their order: all of the suite's unless it was stopped
    images: tuple[Tensor, ...]  # uint8 [3, h, w], one an item
    sheet: ScoreSheet
    features: Mapping[str, Tensor]  # set scorer -> [items, d] on the CPU
    seconds: Mapping[str, float]  # merge, text, denoise, decode, score

    @property
    def pixels_sha256(self) -> tuple[str, ...]:
        return tuple(pixels_digest(image) for image in self.images)


def pixels_digest(image: Tensor) -> str:
    """sha256 of the size and raw bytes of a uint8 [3, h, w] image, 64 hex digits."""
    shape = "x".join(map(str, image.shape)).encode()
    return hashlib.sha256(shape + b":" + image.contiguous().numpy().tobytes()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Some of the suite's items with what a network makes of each."""

    items: tuple[int, ...]
    images: tuple[Tensor, ...]  # uint8 [3, h, w]
    by_item: Mapping[str, NDArray[np.float64]]  # image scorer -> [items]
    features: Mapping[str, Tensor]  # set scorer -> [items, d]


class Evaluator:
    """Scores recipes, one after the other, on models and weights that stay in memory."""

    def __init__(
        self,
        resident: ResidentModel,
        renderer: Renderer,
        scorers: Mapping[str, Scorer],
        *,
        degenerate_limit: int = 0,
    ) -> None:
        self.resident, self.renderer, self.scorers = resident, renderer, scorers
        self._degenerate_limit = degenerate_limit
        self._text_places = frozenset(text_encoders(resident.architecture))

    def evaluate(
        self, recipe: Recipe, on_images: Callable[[int], None] | None = None, go_on: GoOn | None = None
    ) -> Evaluation:
        """Merge, render and score, stage by stage.

        Args:
            on_images: called with the number of images rendered so far.
            go_on: may end the rendering early; None renders everything.

        Raises:
            TrialFailed: broken images, a scorer that gives no finite number, or no memory for a single image; never a
                score in their place.
        """
        while True:
            try:
                return self._evaluate(recipe, on_images, go_on)
            except BatchReduced:  # all images again, so that they follow from the recipe and the batches alone
                continue

    def _evaluate(self, recipe: Recipe, on_images: Callable[[int], None] | None, go_on: GoOn | None) -> Evaluation:
        clock = Stopwatch()
        with clock.stage("merge"):
            changed = self.resident.merge(recipe)
            self._wait()
        if changed & self._text_places:
            self.renderer.text_changed()
        parts: list[_Part] = []
        broken: list[tuple[int, str]] = []
        for items, renders in zip(self.renderer.stages, self.renderer.render_stages(on_images), strict=True):
            clock.add(renders.seconds)
            broken += [(items[row.index].index, row.reason) for row in find_degenerate(renders.pixels)]
            self._refuse_degenerate(broken, len(items) + sum(len(part.items) for part in parts))
            with clock.stage("score"):
                parts.append(self._score(items, renders.images()))
                part = _joined(parts)
                sheet = self._sheet(part)
            more = len(parts) < len(self.renderer.stages)
            if more and go_on is not None and not go_on(part.items, self.evidence(sheet, part.features)):
                break
        return Evaluation(
            items=part.items, images=part.images, sheet=sheet, features=part.features, seconds=dict(clock.seconds)
        )

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

    def _refuse_degenerate(self, found: Sequence[tuple[int, str]], rendered: int) -> None:
        """Raises TrialFailed for too many broken (item, reason) among the images rendered so far."""
        if len(found) > self._degenerate_limit:
            named = ", ".join(f"{item} ({reason})" for item, reason in found[:4])
            more = f" and {len(found) - 4} more" if len(found) > 4 else ""
            broken = f"{len(found)} of {rendered} images are broken: item {named}{more}"
            raise TrialFailed(f"degenerate: {broken}{self._broken_weights()}")

    def _broken_weights(self) -> str:
        """Which weights of the merge are to blame, if they are."""
        keys = self.resident.broken_keys()
        if not keys:
            return ""
        named = ", ".join(f"{key} ({self.resident.ingredients.place(key)})" for key in keys[:3])
        return f"; the merge has NaN or infinity in {len(keys)} tensors: {named}{' ...' if len(keys) > 3 else ''}"

    def _score(self, items: Sequence[SuiteItem], images: tuple[Tensor, ...]) -> _Part:
        suite = SuiteImages(images=images, prompts=tuple(item.prompt for item in items))
        by_item: dict[str, NDArray[np.float64]] = {}
        features: dict[str, Tensor] = {}
        for name, scorer in self.scorers.items():
            with _blamed(name, lambda scorer=scorer: _culprit(scorer, suite, items)):  # type: ignore[misc]
                if scorer.info.scope == "image":
                    by_item[name] = _image_scores(scorer, suite)  # type: ignore[arg-type]
                else:
                    features[name] = _features(scorer, suite)  # type: ignore[arg-type]
        return _Part(items=tuple(item.index for item in items), images=images, by_item=by_item, features=features)

    def _sheet(self, part: _Part) -> ScoreSheet:
        by_set: dict[str, float] = {}
        for name, rows in part.features.items():
            with _blamed(name):
                by_set[name] = float(self.scorers[name].score(rows))  # type: ignore[arg-type]
        finite = {name: bool(np.isfinite(values).all()) for name, values in part.by_item.items()}
        finite |= {name: math.isfinite(value) for name, value in by_set.items()}
        for name in self.scorers:
            if not finite[name]:
                raise TrialFailed(f"scorer {name} gave a value that is not a finite number")
        return ScoreSheet(by_item=part.by_item, by_set=by_set)

    def _wait(self) -> None:
        if self.resident.device.type == "cuda":
            torch.cuda.synchronize(self.resident.device)


def _joined(parts: Sequence[_Part]) -> _Part:
    """All items together, in their order."""
    if len(parts) == 1:
        return parts[0]
    items = [item for part in parts for item in part.items]
    images = [image for part in parts for image in part.images]
    order = np.argsort(items)
    return _Part(
        items=tuple(items[index] for index in order),
        images=tuple(images[index] for index in order),
        by_item={name: np.concatenate([part.by_item[name] for part in parts])[order] for name in parts[0].by_item},
        features={name: torch.cat([part.features[name] for part in parts])[order] for name in parts[0].features},
    )


@contextmanager
def _blamed(name: str, where: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Whatever a scorer raises fails the trial, with its name and the words for where."""
    try:
        yield
    except Exception as error:
        raise TrialFailed(f"scorer {name} failed{where()}: {type(error).__name__}: {error}") from error


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


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - start})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what was measured elsewhere."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
