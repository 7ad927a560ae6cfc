"""A trial's note in the dashboard: what it is, what it gained, and its recipe as a table."""

from __future__ import annotations

from collections.abc import Mapping

from basics.markdown import escaped
from optimizer.runtime.plan import Plan
from optimizer.search.depth.ties import Split, split_in_words
from optimizer.trial.gain_text import interval_text, signed
from optimizer.trial.ranking import stopped_after
from search_spaces.blocks import places
from studies.records.values import Gain, StoredTrial


def trial_note(
    plan: Plan,
    trial: StoredTrial,
    means: Mapping[str, float],
    split: Split | None,
    *,
    study_id: int,
    trial_id: int,
) -> str:
    """Write the note as Markdown: contact sheet, scores with gains, recipe, and timings.

    Args:
        means: score -> its mean over the suite.
        split: the sections searched block by block so far, with `granularity: auto`.
        study_id, trial_id: Optuna's.
    """
    proposed = f", proposed by {escaped(trial.title)}" if trial.origin.kind == "sampler" else ""
    name = trial.name if proposed else trial.title
    parts = [f"## Trial {trial.number}: {escaped(name)}{proposed}"]
    if trial.estimated:
        stopped = stopped_after(trial, len(plan.spec.suite.items()))
        parts.append(
            f"**{stopped.capitalize()}**: surely behind trial {trial.incumbent}. The objective is an estimate: that "
            "trial's plus the mean difference on these images. The other scores, and all gains, are of these images "
            "alone."
        )
    if split is not None:
        parts.append(f"Search: {split_in_words(plan.space, split)}")
    if trial.state == "failed":
        parts.append(f"**Failed**: {escaped(trial.reason or '')}")
    if trial.contact_sheet is not None:
        parts.append(f"![contact sheet](/artifacts/{study_id}/{trial_id}/{trial.contact_sheet})")
    if trial.state == "complete":
        parts.append(_scores(plan, trial, means))
        seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in trial.seconds.items())
        parts.append(f"### Seconds\n\n{seconds}")
    parts.append(_recipe(plan, trial))
    return "\n\n".join(parts) + "\n"


def _scores(plan: Plan, trial: StoredTrial, means: Mapping[str, float]) -> str:
    objective, suite = plan.objective, plan.spec.suite
    lines = [
        "### Scores",
        "",
        "| score | value | standard error | gain over the better parent | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    objectives = dict(trial.objectives) if objective.terms else {}
    counts = {name: trial.rendered if trial.estimated else len(suite.looked_at_by(name)) for name in plan.infos}
    names = {name: info.report_name(counts[name]) for name, info in plan.infos.items()}
    for name, value in (objectives | dict(means)).items():
        error = f"{trial.errors[name]:.2g}" if name in trial.errors else ""
        title, gain = escaped(names.get(name, name)), gain_cells(trial.gains.get(name))
        lines.append(f"| {title} | {value:.4g} | {error} | {gain} |")
    if objective.terms:
        lines += ["", f"objective = {escaped(objective.formula())}"]
    return "\n".join(lines)


def gain_cells(gain: Gain | None) -> str:
    """Return two cells of a table: the gain with its parent, and the interval."""
    if gain is None:
        return "not yet | "
    return f"{signed(gain.value)} (over {gain.parent}) | {interval_text(gain)}"


def _recipe(plan: Plan, trial: StoredTrial) -> str:
    recipe = trial.recipe
    columns = recipe.columns
    lines = [f"### Recipe: {recipe.method}", ""]
    if columns:
        lines += [f"| place | {' | '.join(map(escaped, columns))} |", f"|---|{'---|' * len(columns)}"]
        lines += [
            f"| {place} | {' | '.join(f'{column[place]:.4f}' for column in columns.values())} |"
            for place in places(plan.space.architecture)
        ]
    files = [f"- {parent.letter}: {escaped(parent.name)} `{parent.sha256[:10]}`" for parent in recipe.parents]
    files += [f"- LoRA {escaped(lora.name)} `{lora.sha256[:10]}`" for lora in recipe.loras]
    if recipe.vae is not None:
        files.append(f"- VAE {escaped(recipe.vae.name)} `{recipe.vae.sha256[:10]}`")
    return "\n".join(lines) + "\n\n" + "\n".join(files)
