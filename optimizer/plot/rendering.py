"""The cells of a plot rendered by the live models, each merge once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optimizer.errors import UnscorableTrial
from optimizer.merging.engine.resident import ResidentModel
from optimizer.plot.order import in_merge_order
from optimizer.plot.tables import Cell
from optimizer.rendering.loras import SuiteLoras
from optimizer.rendering.render import Renderer
from optimizer.runtime.plan import Plan, check_suites
from optimizer.runtime.setup import build_renderer, estimate_plan_memory, require_plan_memory
from optimizer.trial.evaluation import Evaluator
from studies.spec.suite import SuiteSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedCell:
    """What came of rendering a cell."""

    cell: Cell
    images: tuple[Tensor, ...]  # uint8 [3, h, w]; none if it failed
    failure: str | None


def require_renderable(plan: Plan, cells: Sequence[Cell], device: torch.device) -> Plan:
    """Refuse cells that the models cannot render or that do not fit into memory, before anything is loaded.

    Returns:
        The plan of the cells' most demanding suite, with the LoRAs that any of them uses.

    Raises:
        RenderError: a suite has settings or prompts that the models cannot render.
        LoraError: a LoRA of a suite cannot be used.
        NoMemoryError: a suite does not fit; the message says what would.
    """
    suites = tuple({cell.suite.digest: cell.suite for cell in cells}.values())
    loras = check_suites(plan, suites)
    plans = [_with_suite(plan, suite, loras) for suite in suites]
    for each in plans:
        require_plan_memory(each, device)
    return max(plans, key=lambda each: max(estimate_plan_memory(each, device).working))


def _with_suite(plan: Plan, suite: SuiteSettings, loras: SuiteLoras) -> Plan:
    return replace(plan, spec=plan.spec.model_copy(update={"suite": suite}), suite_loras=loras)


def render_cells(
    plan: Plan, cells: Sequence[Cell], device: torch.device, on_start: Callable[[Cell], None]
) -> Iterator[RenderedCell]:
    """Load the models, and yield every cell as it is rendered, from merge to merge with as few changes as possible.

    A cell that cannot be rendered is yielded with the reason. Degenerate images are images: one wants to see them.

    Args:
        plan: from `require_renderable`.
        on_start: called with each cell before it is rendered.

    Raises:
        CheckpointError, RenderError: a part cannot be loaded.
        NoMemoryError: it does not fit into memory.
    """
    resident, first = build_renderer(
        plan.ingredients,
        plan.spec.suite,
        plan.spec.render,
        device,
        plan.spec.export.dtype,
        loras=plan.suite_loras,
    )
    plan.ingredients.require_unchanged()  # what was loaded must be what was hashed
    plan.suite_loras.opened.require_unchanged()
    evaluator = None
    for cell in in_merge_order(cells):
        on_start(cell)
        # An evaluator knows which merges it made itself: after those of another one, its prompts would be embedded by
        # text encoders that are gone.
        if evaluator is None or evaluator.renderer.suite != cell.suite:
            evaluator = _evaluator(resident, first, cell.suite)
        yield _rendered(cell, evaluator)


def _evaluator(resident: ResidentModel, first: Renderer, suite: SuiteSettings) -> Evaluator:
    """Return an evaluator of a suite on the models of a renderer; it scores nothing and refuses no image."""
    renderer = Renderer(first.models, suite, batch_size=first.batch_size, largest_batches=first.largest_batches)
    return Evaluator(resident, renderer, {}, degenerate_limit=len(suite.items()))


def _rendered(cell: Cell, evaluator: Evaluator) -> RenderedCell:
    try:
        return RenderedCell(cell=cell, images=evaluator.evaluate(cell.recipe).images, failure=None)
    except UnscorableTrial as error:
        return RenderedCell(cell=cell, images=(), failure=str(error))
