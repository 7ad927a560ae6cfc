"""A trial's note in the dashboard: what it is, what it gained, and its recipe as a table."""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.runtime.plan import Plan
from optimizer.search.depth.ties import Split, split_in_words
from optimizer.trial.ranking import stopped_after
from search_spaces.blocks import places
from studies.records.values import Gain, StoredTrial


def trial_note(
    plan: Plan,
    row: StoredTrial,
    means: Mapping[str, float],
    split: Split | None,
    *,
    study_id: int,
    trial_id: int,
) -> str:
    """Markdown: picture, scores with gains, recipe, timings; with `granularity: auto` what was split by then."""
    parts = [f"## Trial {row.number}: {row.title}"]
    if row.estimated:
        told = stopped_after(row, len(plan.spec.suite.items()))
        parts.append(
            f"**{told.capitalize()}**: surely behind trial {row.incumbent}. The objective is an estimate: that trial's "
            "plus the mean difference on these images. The other scores, and all gains, are of these images alone."
        )
    if split is not None:
        parts.append(f"Search: {split_in_words(plan.space, split)}")
    if row.state == "failed":
        parts.append(f"**Failed**: {row.reason}")
    if row.sheet is not None:
        parts.append(f"![contact sheet](/artifacts/{study_id}/{trial_id}/{row.sheet})")
    if row.state == "complete":
        parts.append(_scores(plan, row, means))
        seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in row.seconds.items())
        parts.append(f"### Seconds\n\n{seconds}")
    parts.append(_recipe(plan, row))
    return "\n\n".join(parts) + "\n"


def _scores(plan: Plan, row: StoredTrial, means: Mapping[str, float]) -> str:
    objective, items = plan.objective, row.rendered
    lines = [
        "### Scores",
        "",
        "| score | value | standard error | gain over the better parent | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    shown = dict(row.objectives) if objective.terms else {}
    names = {name: info.report_name(items) for name, info in plan.infos.items()}
    for name, value in (shown | dict(means)).items():
        error = f"{row.errors[name]:.2g}" if name in row.errors else ""
        lines.append(f"| {names.get(name, name)} | {value:.4g} | {error} | {gain_cells(row.gains.get(name))} |")
    if objective.terms:
        lines += ["", f"objective = {objective.formula()}"]
    return "\n".join(lines)


def gain_cells(gain: Gain | None) -> str:
    """Two cells: the gain with its parent, and the interval."""
    if gain is None:
        return "not yet | "
    interval = "" if gain.low is None or gain.high is None else f"{gain.low:+.4g} to {gain.high:+.4g}"
    return f"{gain.value:+.4g} (over {gain.parent}) | {interval}"


def _recipe(plan: Plan, row: StoredTrial) -> str:
    recipe = row.recipe
    columns: dict[str, Mapping[str, float]] = {}
    for number, step in enumerate(recipe.steps, start=1):
        for index, slot in enumerate(step.operation.slots):
            name = slot.name if len(recipe.steps) == 1 else f"{number}: {slot.name}"
            columns[name] = {place: values[index] for place, values in step.values}
    columns |= {f"LoRA {lora.name}": lora.by_place for lora in recipe.loras}
    lines = [f"### Recipe: {recipe.method}", ""]
    if columns:
        lines += [f"| place | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        lines += [
            f"| {place} | {' | '.join(f'{column[place]:.4f}' for column in columns.values())} |"
            for place in places(plan.space.architecture)
        ]
    files = [f"- {parent.letter}: {parent.name} `{parent.sha256[:10]}`" for parent in recipe.parents]
    files += [f"- LoRA {lora.name} `{lora.sha256[:10]}`" for lora in recipe.loras]
    if recipe.vae is not None:
        files.append(f"- VAE {recipe.vae.name} `{recipe.vae.sha256[:10]}`")
    return "\n".join(lines) + "\n\n" + "\n".join(files)
