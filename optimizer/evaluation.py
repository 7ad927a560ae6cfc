"""Recipe -> merge -> render -> score. The collaborators are handed in; nothing here knows of Optuna or a database."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from optimizer.errors import TrialFailed
from optimizer.gains import Evidence
from optimizer.merging.resident import ResidentModel
from optimizer.objective import ScoreSheet
from optimizer.rendering.render import Renderer
from scorers.degenerate import find_degenerate
from scorers.protocol import ImageScorer, Scorer, SetScorer, SuiteImages
from search_spaces.blocks import text_encoders
from studies.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What one recipe looks like, and what it scores."""

    images: tuple[Tensor, ...]  # uint8 [3, h, w], in item order
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

    def evaluate(self, recipe: Recipe, on_images: Callable[[int], None] | None = None) -> Evaluation:
        """Merge, render and score.

        Args:
            on_images: called with the number of images rendered so far.

        Raises:
            TrialFailed: broken images, or a scorer that gives no finite number; never a score in their place.
        """
        clock = Stopwatch()
        with clock.stage("merge"):
            changed = self.resident.merge(recipe)
            self._wait()
        if changed & self._text_places:
            self.renderer.text_changed()
        renders = self.renderer.render(on_images)
        self._refuse_degenerate(renders.pixels)
        images = renders.images()
        with clock.stage("score"):
            sheet, features = self._score(images)
        return Evaluation(
            images=images, sheet=sheet, features=features, seconds=dict(clock.seconds) | dict(renders.seconds)
        )

    def evidence(self, sheet: ScoreSheet, features: Mapping[str, Tensor]) -> Evidence:
        """What a comparison with other trials needs."""
        return Evidence(
            items=len(self.renderer.items),
            sheet=sheet,
            resampled={name: self._resampled(name, rows) for name, rows in features.items()},
        )

    def _resampled(self, name: str, rows: Tensor) -> Callable[[np.ndarray[tuple[int], np.dtype[np.int64]]], float]:
        scorer = self.scorers[name]
        return lambda draw: scorer.score(rows[torch.from_numpy(draw)])  # type: ignore[arg-type,return-value]

    def _refuse_degenerate(self, pixels: tuple[Tensor, ...]) -> None:
        found = find_degenerate(pixels)
        if len(found) > self._degenerate_limit:
            named = ", ".join(f"{row.index} ({row.reason})" for row in found[:4])
            more = f" and {len(found) - 4} more" if len(found) > 4 else ""
            broken = f"{len(found)} of {len(pixels)} images are broken: item {named}{more}"
            raise TrialFailed(f"degenerate: {broken}{self._broken_weights()}")

    def _broken_weights(self) -> str:
        """Which weights of the merge are to blame, if they are."""
        keys = self.resident.broken_keys()
        if not keys:
            return ""
        named = ", ".join(f"{key} ({self.resident.ingredients.place(key)})" for key in keys[:3])
        return f"; the merge has NaN or infinity in {len(keys)} tensors: {named}{' ...' if len(keys) > 3 else ''}"

    def _score(self, images: tuple[Tensor, ...]) -> tuple[ScoreSheet, dict[str, Tensor]]:
        suite = SuiteImages(images=images, prompts=tuple(item.prompt for item in self.renderer.items))
        by_item: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
        by_set: dict[str, float] = {}
        features: dict[str, Tensor] = {}
        for name, scorer in self.scorers.items():
            try:
                if scorer.info.scope == "image":
                    by_item[name] = _image_scores(scorer, suite)  # type: ignore[arg-type]
                else:
                    features[name], by_set[name] = _set_score(scorer, suite)  # type: ignore[arg-type]
            except Exception as error:
                raise TrialFailed(f"scorer {name} failed: {type(error).__name__}: {error}") from error
            if not np.isfinite(by_item.get(name, by_set.get(name, 0.0))).all():
                raise TrialFailed(f"scorer {name} gave a value that is not a finite number")
        return ScoreSheet(by_item=by_item, by_set=by_set), features

    def _wait(self) -> None:
        if self.resident.device.type == "cuda":
            torch.cuda.synchronize(self.resident.device)


def _image_scores(scorer: ImageScorer, suite: SuiteImages) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = scorer.score(suite).cpu().double().numpy()
    if values.shape != (len(suite),):
        raise ValueError(f"it gave scores of shape {values.shape} for {len(suite)} images")
    return values


def _set_score(scorer: SetScorer, suite: SuiteImages) -> tuple[Tensor, float]:
    rows = scorer.features(suite).cpu()
    if rows.ndim != 2 or rows.shape[0] != len(suite):
        raise ValueError(f"it gave features of shape {tuple(rows.shape)} for {len(suite)} images")
    return rows, float(scorer.score(rows))


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
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
