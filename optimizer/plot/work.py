"""The work of a plot: cells that are not kept yet are rendered, then scored, then compared with the base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from optimizer.errors import UnscorableTrial
from optimizer.plot.distances import PictureDistance, clip_settings, cosine_distance, embeddings, level_distance
from optimizer.plot.kept import CellKeys, KeptCells, KeptScores
from optimizer.plot.rendering import render_cells, require_renderable
from optimizer.plot.results import CellResult, PlotTable
from optimizer.plot.scoring import score_cell
from optimizer.plot.tables import Cell, Identity, Table
from optimizer.runtime.memory import explain_out_of_memory
from optimizer.runtime.plan import Plan
from optimizer.runtime.setup import build_scorers
from scorers.networks.clip.embedder import ClipEmbedder, load_embedder
from studies.spec.study import StudySpec

OnCell = Callable[[Cell], None]


@dataclass(frozen=True, kw_only=True)
class PlotWork:
    """A plot that is worked on."""

    plan: Plan
    device: torch.device
    kept: KeptCells
    keys: CellKeys
    cells: Mapping[Identity, Cell]  # every cell once

    @classmethod
    def of(cls, plan: Plan, device: torch.device, folder: Path, tables: Sequence[Table]) -> PlotWork:
        """Return the work of some tables.

        Args:
            folder: where cells are kept.
        """
        return cls(
            plan=plan,
            device=device,
            kept=KeptCells(folder),
            keys=CellKeys(plan.spec, device.type),
            cells={cell.identity: cell for table in tables for cell in table.every},
        )

    def missing(self) -> tuple[Cell, ...]:
        """Return the cells that are not kept."""
        return tuple(cell for cell in self.cells.values() if self.kept.images(self.keys.of(cell)) is None)

    def render(self, missing: Sequence[Cell], on_start: OnCell) -> dict[Identity, CellResult]:
        """Render cells, keep each as soon as it is there, and return what came of every cell of the plot.

        Raises:
            RenderError, CheckpointError, LoraError, NoMemoryError: a part cannot be loaded or rendered here.
            PlotError: a cell cannot be kept.
        """
        results = {identity: CellResult(key=self.keys.of(cell)) for identity, cell in self.cells.items()}
        if not missing:
            return results
        for rendered in render_cells(
            require_renderable(self.plan, missing, self.device), missing, self.device, on_start
        ):
            result = results[rendered.cell.identity]
            if rendered.failure is None:
                self.kept.keep(result.key, rendered.images)
            else:
                results[rendered.cell.identity] = replace(result, failure=rendered.failure)
        return results

    def score(
        self, results: Mapping[Identity, CellResult], spec: StudySpec, cache_dir: Path, on_start: OnCell
    ) -> dict[Identity, CellResult]:
        """Return the results with scores; those that are kept are not computed again.

        Args:
            spec: with the scorers that are used.

        Raises:
            ScorerError, NoMemoryError: a scorer cannot be loaded.
            PlotError: images of a cell are gone, or a score cannot be kept.
        """
        scored = {
            identity: replace(result, scores=_of(spec, found))
            for identity, result in results.items()
            if (found := self.kept.scores(result.key, self.keys.scorers)) is not None
            and spec.scorers.keys() <= found.keys()
        }
        left = [identity for identity, result in results.items() if identity not in scored and result.failure is None]
        scorers = build_scorers(spec, self.device, cache_dir) if left else {}
        for identity in left:
            cell, result = self.cells[identity], results[identity]
            on_start(cell)
            try:
                means = score_cell(cell, self.kept.required_images(result.key), scorers, self.plan.prediction)
            except UnscorableTrial as error:
                scored[identity] = replace(result, unscored=str(error))
                continue
            self.kept.keep_scores(result.key, KeptScores(scorers=self.keys.scorers, means=means))
            scored[identity] = replace(result, scores=means)
        return {**results, **scored}

    def measure(self, table: Table, results: Mapping[Identity, CellResult]) -> PlotTable:
        """Return a table with its results and, if it has a base, the distance of each cell to that.

        Raises:
            ScorerError, NoMemoryError: the CLIP of the spec's scorers cannot be loaded.
            PlotError: images of a cell are gone.
        """
        base = table.base
        if base is None or results[base.identity].failure is not None:
            return PlotTable(table=table, results=results)
        reference = self.kept.required_images(results[base.identity].key)
        cosine_of, measured = self._cosines(reference), dict[Identity, CellResult]()
        for cell in table.every:
            result = results[cell.identity]
            if result.failure is None and cell is not base:
                images = self.kept.required_images(result.key)
                distance = PictureDistance(levels=level_distance(images, reference), cosine=cosine_of(images))
                result = replace(result, distance=distance)
            measured[cell.identity] = result
        return PlotTable(table=table, results=measured)

    def _cosines(self, reference: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], float | None]:
        """Return a function that returns the CLIP distance of images to some others; None without a CLIP."""
        if self.embedder is None:
            return lambda _: None
        embedder, known = self.embedder, embeddings(self.embedder, reference)
        return lambda images: cosine_distance(embeddings(embedder, images), known)

    @cached_property
    def embedder(self) -> ClipEmbedder | None:
        """The CLIP of the spec's scorers, loaded when it is first needed; None if there is none."""
        settings = clip_settings(self.plan.spec)
        if settings is None:
            return None
        with explain_out_of_memory("CLIP", self.device):
            return load_embedder(settings, str(self.device))


def _of(spec: StudySpec, found: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: found[name] for name in spec.scorers}
