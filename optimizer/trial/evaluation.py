"""The evaluation of one recipe: merge, render, score. It knows neither Optuna nor a database."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from basics.messages import counted, first_line
from optimizer.errors import UnscorableTrial
from optimizer.merging.engine.resident import ResidentModel
from optimizer.rendering.largest_batches import BatchTooLarge
from optimizer.rendering.prediction import Prediction
from optimizer.rendering.prompts.wording import wording
from optimizer.rendering.render import Renderer
from optimizer.trial.evidence import Evidence
from optimizer.trial.objective import Scores
from optimizer.trial.scoring import ScoredImages, Scoring, joined
from scorers.memory import lacks_memory
from scorers.protocol import Scorer
from search_spaces.blocks import text_encoders
from studies.recipe.recipe import Recipe
from studies.records.batch_limits import BatchLimit
from studies.spec.suite import SuiteSettings

GoOn = Callable[[Sequence[int], Evidence], bool]
"""Decides whether to render the next stage. It is called after each stage but the last, with the items rendered so far,
in their order, and their scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The images of one recipe and their scores."""

    items: tuple[int, ...]  # the rendered items, in order: the whole suite unless racing stopped the trial
    images: tuple[Tensor, ...]  # uint8 [3, h, w], one for each item
    scores: Scores
    features: Mapping[str, Tensor]  # set scorer -> [items, d] on the CPU
    seconds: Mapping[str, float]  # stage (merge, text, denoise, decode, score) -> seconds
    batch_limits: tuple[BatchLimit, ...] = ()  # with which all images were rendered

    @property
    def pixels_sha256(self) -> tuple[str, ...]:
        return tuple(pixels_digest(image) for image in self.images)


def pixels_digest(image: Tensor) -> str:
    """Return the sha256 of the size and raw bytes of an image, uint8 [3, h, w], as 64 hex digits."""
    shape = "x".join(map(str, image.shape)).encode()
    return hashlib.sha256(shape + b":" + image.contiguous().numpy().tobytes()).hexdigest()


def scoring_of(scorers: Mapping[str, Scorer], suite: SuiteSettings, prediction: Prediction) -> Scoring:
    """Return the scoring of a suite's images, in which scorers read what the text encoders read of a prompt."""
    return Scoring(scorers, cache(partial(wording, suite=suite, prediction=prediction)))


class Evaluator:
    """The evaluation of recipes, one after the other, with models and scorers that stay in memory."""

    def __init__(
        self,
        resident: ResidentModel,
        renderer: Renderer,
        scorers: Mapping[str, Scorer],
        *,
        degenerate_limit: int = 0,
    ) -> None:
        self.resident, self.renderer = resident, renderer
        self.scoring = scoring_of(scorers, renderer.suite, renderer.models.prediction)
        self._degenerate_limit = degenerate_limit
        self._text_places = frozenset(text_encoders(resident.architecture))

    def evaluate(
        self, recipe: Recipe, on_images: Callable[[int], None] | None = None, go_on: GoOn | None = None
    ) -> Evaluation:
        """Merge a recipe, then render and score it stage by stage.

        Args:
            on_images: called with the number of images rendered so far.
            go_on: decides after each stage whether to render the next one; None renders the whole suite.

        Raises:
            UnscorableTrial: too many images are degenerate, a scorer fails or returns a value that is not finite, or
                memory does not suffice for the merge or for a single image. No score is made up instead.
        """
        while True:
            try:
                return self._evaluate(recipe, on_images, go_on)
            except BatchTooLarge:  # render all images again, so that they depend on the recipe and batch size alone
                continue
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                raise UnscorableTrial(f"out of memory: {first_line(error)}", "out_of_memory") from None

    def _evaluate(self, recipe: Recipe, on_images: Callable[[int], None] | None, go_on: GoOn | None) -> Evaluation:
        clock = Stopwatch()
        with clock.stage("merge"):
            self._merge(recipe)
        parts: list[ScoredImages] = []
        broken: list[tuple[int, str]] = []
        with closing(self.renderer.render_stages(on_images)) as rendering:
            for items, renders in zip(self.renderer.stages, rendering, strict=True):
                clock.add(renders.seconds)
                broken += [
                    (item.index, fault) for item, fault in zip(items, renders.faults, strict=True) if fault is not None
                ]
                self._refuse_degenerate(broken, len(items) + sum(len(part.items) for part in parts))
                with clock.stage("score"):
                    parts.append(self.scoring.score(items, renders.images))
                    part = joined(parts)
                    scores = self.scoring.scores(part)
                if go_on is None or len(parts) == len(self.renderer.stages):
                    continue
                if not go_on(part.items, self.scoring.evidence(scores, part.features)):
                    break
        return Evaluation(
            items=part.items,
            images=part.images,
            scores=scores,
            features=part.features,
            seconds=dict(clock.seconds),
            batch_limits=self.renderer.largest_batches.known,
        )

    def _merge(self, recipe: Recipe) -> None:
        changed = self._text_places  # a merge that is interrupted, such as by a lack of memory, may have changed them
        try:
            changed = self.resident.merge(recipe)
            self._wait()
        finally:
            if changed & self._text_places:
                self.renderer.text_changed()

    def _refuse_degenerate(self, broken: Sequence[tuple[int, str]], rendered: int) -> None:
        """Fail the trial if too many images are degenerate.

        Args:
            broken: (item, reason) of each degenerate image so far.
            rendered: number of images so far.

        Raises:
            UnscorableTrial: there are more of them than the limit.
        """
        if len(broken) > self._degenerate_limit:
            named = ", ".join(f"{item} ({reason})" for item, reason in broken[:4])
            more = f" and {len(broken) - 4} more" if len(broken) > 4 else ""
            images = f"{len(broken)} of {counted(rendered, 'image')} are broken: item {named}{more}"
            weights = self._broken_weights()
            if weights is not None:  # the cause comes first: of a long reason the middle is left out
                raise UnscorableTrial(f"broken weights: {weights}; {images}", "broken_weights")
            raise UnscorableTrial(f"degenerate: {images}", "degenerate")

    def _broken_weights(self) -> str | None:
        """Name the weights of the merge that are NaN or infinite; None if there are none, or no memory to look."""
        try:
            keys = self.resident.broken_keys()
        except (RuntimeError, MemoryError) as error:  # components that are swapped in may find no memory
            if not lacks_memory(error):
                raise
            return None
        if not keys:
            return None
        named = ", ".join(f"{key} ({self.resident.ingredients.place(key)})" for key in keys[:3])
        what = "the merge with the suite's LoRAs on top" if self.renderer.models.loras.loras else "the merge"
        more = " ..." if len(keys) > 3 else ""
        return f"{what} has NaN or infinity in {counted(len(keys), 'tensor')}: {named}{more}"

    def _wait(self) -> None:
        if self.resident.device.type == "cuda":
            torch.cuda.synchronize(self.resident.device)


class Stopwatch:
    """The seconds that each stage of a trial took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time spent inside the context."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - start})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds that were measured elsewhere."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
