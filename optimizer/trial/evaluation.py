"""Recipe -> merge -> render -> score. The collaborators are handed in; nothing here knows of Optuna or a database."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from basics.messages import first_line
from optimizer.errors import TrialFailed
from optimizer.merging.engine.resident import ResidentModel
from optimizer.rendering.batch_limits import BatchReduced
from optimizer.rendering.render import Renderer
from optimizer.trial.gains import Evidence
from optimizer.trial.objective import ScoreSheet
from optimizer.trial.scoring import ScoredImages, Scoring, joined
from scorers.memory import lacks_memory
from scorers.protocol import Scorer
from search_spaces.blocks import text_encoders
from studies.recipe.recipe import Recipe

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
        self.resident, self.renderer, self.scoring = resident, renderer, Scoring(scorers)
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
            TrialFailed: broken images, a scorer that gives no finite number, or no memory for the merge or for a single
                image; never a score in their place.
        """
        while True:
            try:
                return self._evaluate(recipe, on_images, go_on)
            except BatchReduced:  # all images again, so that they follow from the recipe and the batches alone
                continue
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                told = first_line(error)
                raise TrialFailed(f"out of memory: {told}", "out_of_memory") from None

    def _evaluate(self, recipe: Recipe, on_images: Callable[[int], None] | None, go_on: GoOn | None) -> Evaluation:
        clock = Stopwatch()
        with clock.stage("merge"):
            self._merge(recipe)
        parts: list[ScoredImages] = []
        broken: list[tuple[int, str]] = []
        for items, renders in zip(self.renderer.stages, self.renderer.render_stages(on_images), strict=True):
            clock.add(renders.seconds)
            broken += [
                (item.index, fault) for item, fault in zip(items, renders.faults, strict=True) if fault is not None
            ]
            self._refuse_degenerate(broken, len(items) + sum(len(part.items) for part in parts))
            with clock.stage("score"):
                parts.append(self.scoring.score(items, renders.images))
                part = joined(parts)
                sheet = self.scoring.sheet(part)
            more = len(parts) < len(self.renderer.stages)
            if more and go_on is not None and not go_on(part.items, self.scoring.evidence(sheet, part.features)):
                break
        return Evaluation(
            items=part.items, images=part.images, sheet=sheet, features=part.features, seconds=dict(clock.seconds)
        )

    def _merge(self, recipe: Recipe) -> None:
        changed = self._text_places  # for all that is known when a merge is broken off, as by a lack of memory
        try:
            changed = self.resident.merge(recipe)
            self._wait()
        finally:
            if changed & self._text_places:
                self.renderer.text_changed()

    def _refuse_degenerate(self, found: Sequence[tuple[int, str]], rendered: int) -> None:
        """Raises TrialFailed for too many broken (item, reason) among the images rendered so far."""
        if len(found) > self._degenerate_limit:
            named = ", ".join(f"{item} ({reason})" for item, reason in found[:4])
            more = f" and {len(found) - 4} more" if len(found) > 4 else ""
            broken = f"{len(found)} of {rendered} images are broken: item {named}{more}"
            raise TrialFailed(f"degenerate: {broken}{self._broken_weights()}", "degenerate")

    def _broken_weights(self) -> str:
        """Which weights of the merge are to blame, if they are."""
        try:
            keys = self.resident.broken_keys()
        except (RuntimeError, MemoryError) as error:  # components that take turns may find no memory
            if not lacks_memory(error):
                raise
            return ""
        if not keys:
            return ""
        named = ", ".join(f"{key} ({self.resident.ingredients.place(key)})" for key in keys[:3])
        return f"; the merge has NaN or infinity in {len(keys)} tensors: {named}{' ...' if len(keys) > 3 else ''}"

    def _wait(self) -> None:
        if self.resident.device.type == "cuda":
            torch.cuda.synchronize(self.resident.device)


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
