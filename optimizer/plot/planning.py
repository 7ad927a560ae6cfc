"""From what is asked of a plot to its tables, for the models of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from optimizer.plot.ablation import ablation_tables
from optimizer.plot.axes import Axis
from optimizer.plot.base import BEST, Base, parent_base, read_base, uniform_ratio
from optimizer.plot.changes import Change, NumberChange, number_changes, refuse_overlaps, suite_changes
from optimizer.plot.permutations import permutation_tables
from optimizer.plot.request import PlotRequest
from optimizer.plot.tables import Axes, Table, grid_tables, require_few
from optimizer.runtime.plan import Plan
from search_spaces.blocks import places, sections
from studies.recipe.blueprint import Blueprint
from studies.records.study_records import StudyRecords


@dataclass(frozen=True, kw_only=True)
class PlannedPlot:
    """The tables of a plot."""

    tables: tuple[Table, ...]
    base: str | None  # what the merge is called that varies; None where whole parents are assigned
    images: int  # of each cell
    unusual: tuple[str, ...]  # numbers far outside of what merges use, one line each


def plan_plot(request: PlotRequest, plan: Plan, blueprint: Blueprint, records: StudyRecords | None) -> PlannedPlot:
    """Work out the merge and the suite of every cell.

    Args:
        records: the study; None for a spec.

    Raises:
        PlotError: an axis, the base or the number of images does not fit.
    """
    suite = plan.spec.suite
    images = request.image_count(suite)
    axes = {axis: _changes(axis, plan) for axis in request.axes}
    refuse_overlaps(list(axes.values()), [axis.option for axis in axes])
    across, down, deep = (axes[axis] if axis is not None else () for axis in (request.x, request.y, request.z))
    require_few(_cell_count(request, (across, down, deep), blueprint))
    base = None
    if request.kind == "permutations":
        tables = permutation_tables(blueprint, suite, images, deep)
    else:
        base = _base(request, plan, blueprint, records)
        if request.kind == "ablation":
            tables = ablation_tables(base, plan.space, blueprint, suite, images, deep)
        else:
            tables = grid_tables(base.varied, suite, images, (across, down, deep), blueprint)
    every = [change for changes in axes.values() for change in changes]
    return PlannedPlot(
        tables=tables,
        base=None if base is None else base.label,
        images=images,
        unusual=tuple(each.unusual for each in every if isinstance(each, NumberChange) and each.unusual is not None),
    )


def _cell_count(request: PlotRequest, axes: Axes, blueprint: Blueprint) -> int:
    """Return how many cells a plot has at most."""
    across, down, deep = (max(1, len(axis)) for axis in axes)
    others, architecture = len(blueprint.parents) - 1, blueprint.architecture
    if request.kind == "permutations":
        return deep * others * (2 << len(sections(architecture)))  # and the text encoders
    if request.kind == "ablation":
        return deep * len(blueprint.parents) * len(places(architecture))
    return across * down * deep


def _changes(axis: Axis, plan: Plan) -> tuple[Change, ...]:
    of_suite = suite_changes(axis, plan.spec.suite)
    return of_suite if of_suite is not None else number_changes(axis, plan.space, bakes_vae=plan.spec.vae is not None)


def _base(request: PlotRequest, plan: Plan, blueprint: Blueprint, records: StudyRecords | None) -> Base:
    """Return the base: as asked for, else a study's best, or of a spec the uniform merge, or A for an ablation."""
    if request.base is None and records is None and request.kind == "ablation":
        return parent_base("A", plan.space, blueprint)
    usual = BEST if records is not None else f"{uniform_ratio(plan.space)!r}"
    return read_base(request.base or usual, plan.space, blueprint, records, plan.objective)
