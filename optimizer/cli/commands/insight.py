"""`mergetune study importance` and `mergetune study compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basics.messages import counted
from basics.names import plain, typed_path
from optimizer.cli.common import (
    AsJson,
    ReplacePlot,
    Storage,
    StudyName,
    console,
    database_to_read,
    escaped,
    fail,
    loading_libraries,
    print_notes,
)
from studies.system.advice import DEFAULT_STORAGE

if TYPE_CHECKING:
    from optimizer.cli.views.tables import FoldingTable
    from optimizer.insight.compare import Side, StudyComparison
    from optimizer.insight.importance import Findings, Insight
    from studies.records.study_records import StudyRecords

BAR_WIDTH = 24  # characters of the longest bar


def importance(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    plot: Annotated[
        Path | None,
        typer.Option(parser=typed_path, metavar="FILE.png", help="Also draw them to this file.", show_default=False),
    ] = None,
    force: ReplacePlot = False,
    as_json: AsJson = False,
) -> None:
    """Show which blocks mattered, how the objective varies with each ratio, and the best trial's ratios."""
    import json

    from optimizer.cli.commands.difference import require_writable

    if plot is not None:
        require_writable(plot, force=force)
    database = database_to_read(storage)
    from studies.records.stored_studies import open_study

    records = open_study(database, study)
    with loading_libraries():
        from optimizer.insight.importance import insight
        from optimizer.trial.objective import Objective

    found = insight(records, Objective.of_study(records.study))
    if plot is not None:
        _draw(plot, found, force=force)
    doubted = found.best.caveat
    if as_json:
        typer.echo(json.dumps(_facts(found), indent=2, allow_nan=False))
        return
    for findings in found.findings:
        console.print(_importance_table(found, findings))
    _print_notes(found)
    if doubted is not None:
        print_notes([doubted])
    if plot is not None:
        console.print(f"wrote {escaped(str(plot))}", soft_wrap=True)


def _draw(plot: Path, found: Insight, *, force: bool) -> None:
    from optimizer.insight.plots import draw_insight
    from optimizer.merging.engine.export import atomic_file

    with atomic_file(plot, overwrite=force, option="--plot") as temporary:
        draw_insight(temporary, found)


def _importance_table(found: Insight, findings: Findings) -> FoldingTable:
    """Return a table with a row for each parameter, in depth order: importance, best merge's value, main effect."""
    from optimizer.cli.views.tables import FoldingTable
    from optimizer.insight.importance import BINS

    table = FoldingTable(f"what mattered for {escaped(findings.objective)}")
    table.head("number")
    table.head("importance (PED-ANOVA)")
    if findings.model_effects is not None:
        table.head("by the\nmodel", justify="right")
    table.head(f"{found.shown_as}\n(trial {found.shown.number})", justify="right")
    table.head(f"mean {escaped(findings.objective)} in {BINS} equal parts of the bounds")
    best = found.params_of(found.shown) or {}
    largest = max(findings.shares.values()) or 1.0
    for parameter in found.space.parameters:
        share = findings.shares[parameter.name]
        bar = "█" * round(BAR_WIDTH * share / largest)
        means = {part.low: f"{part.mean:.4g}" for part in findings.effects[parameter.name]}
        edges = [parameter.low + (parameter.high - parameter.low) * index / BINS for index in range(BINS)]
        effect = " ".join(f"{_nearest(means, edge, (parameter.high - parameter.low) / BINS):>8}" for edge in edges)
        by_model = (
            [] if findings.model_effects is None else [f"{100 * findings.model_effects[parameter.name].share:.1f} %"]
        )
        table.add_row(
            escaped(parameter.name),
            f"{100 * share:4.1f} % {bar}",
            *by_model,
            f"{best[parameter.name]:.3f}" if parameter.name in best else "",
            effect,
        )
    return table


def _nearest(means: Mapping[float, str], edge: float, width: float) -> str:
    """Return the mean of the bin that begins at an edge; a dash if it has no trials."""
    return next((text for low, text in means.items() if abs(low - edge) < width / 2), "-")


def _print_notes(found: Insight) -> None:
    from optimizer.insight.importance import RELIABLE

    count = len(found.samples)
    if found.reliable:
        console.print(f"from {counted(count, 'complete trial')} in the search space")
    else:
        console.print(
            f"[yellow]not reliable yet:[/] {counted(count, 'complete trial')} in the search space, at least {RELIABLE} "
            "are needed"
        )
    if found.estimated:
        console.print(f"{found.estimated} of them were stopped early by racing: their objective is an estimate")
    if found.left_out:
        console.print(f"{found.left_out} complete trials are outside the space (whole parents) and were left out")
    best = found.best.trial
    console.print(f"best: trial {best.number}, {escaped(best.title)} ({found.best.reason})", soft_wrap=True)
    if found.params_of(found.shown) is None:
        console.print(f"trial {found.shown.number} is outside the space, so it has no numbers to show")
    console.print("main effects are observed means: the other numbers vary along with the one shown", soft_wrap=True)
    if all(findings.model_effects is not None for findings in found.findings):
        note = "by the model: the share of its predictions' variance that a number alone explains, over the whole space"
        console.print(note, soft_wrap=True)


def _facts(found: Insight) -> dict[str, Any]:
    from dataclasses import asdict

    best = found.params_of(found.shown)
    return {
        "study": found.study.name,
        "trials": len(found.samples),
        "left_out": found.left_out,
        "estimated": found.estimated,
        "reliable": found.reliable,
        "best_trial": found.best.trial.number,
        "best_merge": None if found.best.merge is None else found.best.merge.number,
        "best_by": found.best.by,
        "caveat": found.best.caveat,
        "objectives": [
            {
                "objective": findings.objective,
                "direction": findings.direction,
                "parameters": [
                    {
                        "name": parameter.name,
                        "places": list(parameter.places),
                        "importance": findings.shares[parameter.name],
                        "best": None if best is None else best[parameter.name],
                        "effect": [asdict(part) for part in findings.effects[parameter.name]],
                        "model": None
                        if findings.model_effects is None
                        else asdict(findings.model_effects[parameter.name]),
                    }
                    for parameter in found.space.parameters
                ],
            }
            for findings in found.findings
        ],
    }


# ------------------------------------------------------------------------------------------- compare


def compare(
    first: Annotated[
        str, typer.Argument(parser=plain, metavar="STUDY1", help="Name of the first study.", show_default=False)
    ],
    second: Annotated[
        str, typer.Argument(parser=plain, metavar="STUDY2", help="Name of the second study.", show_default=False)
    ],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Show two studies side by side, and compare their best trials image by image if their images are comparable."""
    if first == second:
        fail(f"{first!r} is named twice: name two different studies")
    database = database_to_read(storage)
    from studies.records.stored_studies import open_study

    before, after = (open_study(database, name) for name in (first, second))
    with loading_libraries():
        from optimizer.insight import compare as comparing

    found = comparing.compare(_side(before), _side(after))
    console.print(_overview(found))
    if found.settings:
        console.print(_settings_table(found))
    else:
        console.print("their specs differ at most in name and budget")
    _print_paired(found)
    for side in (found.first, found.second):
        if side.chosen is not None and (doubted := side.chosen.caveat) is not None:
            print_notes([f"{side.study.name}: {doubted}"])


def _side(records: StudyRecords) -> Side:
    from optimizer.insight.compare import load_side
    from optimizer.trial.objective import Objective

    infos = records.study.spec.infos
    return load_side(records, Objective.of_study(records.study), infos)


def _overview(found: StudyComparison) -> FoldingTable:
    """Return a table with the trials, best objective and gains of both."""
    from optimizer.cli.views.tables import FoldingTable
    from optimizer.trial.gain_text import gain_text

    sides = (found.first, found.second)
    table = FoldingTable("studies compared")
    table.head("")
    for side in sides:
        table.head(escaped(side.study.name), justify="right")
    states = [[trial.state for trial in side.trials] for side in sides]
    table.add_row("trials complete", *(str(each.count("complete")) for each in states))
    if any(trial.estimated for side in sides for trial in side.trials):
        table.add_row("of these stopped early", *(str(sum(trial.estimated for trial in side.trials)) for side in sides))
    table.add_row("trials failed", *(str(each.count("failed")) for each in states))
    table.add_row("objective", *(escaped(side.objective.formula()) for side in sides))
    best = [side.chosen for side in sides]
    table.add_row(
        "best trial",
        *("" if one is None else f"{one.trial.number} ({escaped(one.trial.title)}; {one.reason})" for one in best),
    )
    names = dict.fromkeys(name for side in sides for name in (*side.objective.names, *side.infos))
    for name in names:
        cells = []
        for side in sides:
            values = side.means | (dict(side.best.objectives) if side.best is not None else {})
            gain = side.chosen.gains.get(name) if side.chosen is not None else None
            held_out = "held-out " if side.chosen is not None and side.chosen.held_out else ""
            gained = f"\n{held_out}gain {gain_text(gain)}" if gain is not None else ""
            cells.append(f"{values[name]:.4g}{gained}" if name in values else "")
        table.add_row(f"best: {escaped(name)}", *cells)
    return table


def _settings_table(found: StudyComparison) -> FoldingTable:
    from optimizer.cli.views.tables import FoldingTable

    table = FoldingTable("settings that differ")
    table.head("setting")
    for side in (found.first, found.second):
        table.head(escaped(side.study.name))
    for key, (ours, theirs) in found.settings.items():
        table.add_row(escaped(key), escaped(ours), escaped(theirs))
    return table


def _print_paired(found: StudyComparison) -> None:
    """Print the paired differences between the best trials, or why there are none."""
    from optimizer.insight.compare import Paired

    first, second = found.first.study.name, found.second.study.name
    for score in found.scores:
        if not isinstance(score, Paired):
            console.print(f"{escaped(score.name)}: not paired, because {escaped(score.reason)}", soft_wrap=True)
            continue
        interval = "" if score.low is None or score.high is None else f" ({score.low:+.3g} to {score.high:+.3g})"
        better = "higher" if score.direction == "maximize" else "lower"
        alike = " of one prompt, so the interval says nothing about others" if score.basis == "images" else ""
        console.print(
            f"{escaped(score.name)}: {escaped(second)} minus {escaped(first)} {score.difference:+.3g}{interval}, "
            f"over {counted(score.items, 'image')}{alike}; {better} is better",
            soft_wrap=True,
        )
    if found.other_parents is not None:
        console.print("their parents are different files, so their gains are over different models", soft_wrap=True)
    console.print(
        "intervals are 95 %, over prompts; each best was chosen by these same images, so both look better than they are"
    )
