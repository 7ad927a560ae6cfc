"""What a study found, as tables and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
from optuna.artifacts.exceptions import ArtifactNotFound
from rich.table import Table

from optimizer.cli.common import console, escaped
from optimizer.cli.views.final import current_winner, print_final
from optimizer.cli.views.front import print_front
from optimizer.cli.views.progress import gain_text
from optimizer.search.depth.ties import split_before, split_in_words
from optimizer.search.stopping import end_of, own_trials
from optimizer.trial.front import check_weights, chosen_trial
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.ranking import best_trials, parent_trials, stopped_after
from scorers.protocol import ScorerInfo
from studies.errors import SpecError, StudyError
from studies.files.artifacts import Artifacts
from studies.records import optuna_studies, registry, stored_renders, stored_studies, stored_trials
from studies.records.database import Database
from studies.records.finals import Final, load_final
from studies.records.registry import workers_at
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy, StoredTrial

FRONT_SHOWN = 12


def studies_table(database: Database) -> Table:
    """Every study with its progress and best gain."""
    table = Table(title="studies", title_justify="left")
    for head in ("study", "parents", "status", "trials", "failed", "best gain (95 % interval)", "begun"):
        table.add_column(head)
    workers = workers_at(database, registry.live_workers(database))
    for name, records in stored_studies.every_study(database).items():
        try:
            if isinstance(records, SpecError):
                raise records
            table.add_row(*_study_row(records, workers[records.study.id]))
        except StudyError as error:
            table.add_row(escaped(name), "", f"[red]{escaped(str(error))}[/]")
    return table


def _study_row(records: StudyRecords, workers: int) -> tuple[str, ...]:
    study, rows = records.study, stored_trials.load_trials(records)
    objective = study_objective(study)
    best = best_trials(rows, objective)
    gains = [row.gains[SINGLE] for row in best if SINGLE in row.gains]
    own = own_trials(rows)
    finished = sum(row.state != "running" for row in own)
    taken = f", {len(rows) - len(own)} taken over" if len(own) < len(rows) else ""
    return (
        escaped(study.name),
        escaped(" + ".join(parent.path.stem for parent in study.parents)),
        _status(records, rows, workers),
        f"{finished}/{study.spec.budget.trials}{taken}",
        str(sum(row.state == "failed" for row in rows)),
        gain_text(gains[0]) if gains else (f"front of {len(best)}" if best and not objective.terms else ""),
        datetime.fromtimestamp(study.created_at).astimezone().strftime("%Y-%m-%d %H:%M"),
    )


def _status(records: StudyRecords, rows: Sequence[StoredTrial], workers: int) -> str:
    """What is asked of the workers, or that it has ended; the priority unless it is the usual one; who is at it."""
    study = records.study
    over = study.status == "active" and end_of(records, rows) is not None
    parts: list[str] = ["ended" if over else study.status]
    if study.priority:
        parts.append(f"priority {study.priority}")
    if workers:
        parts.append(f"{workers} {'worker' if workers == 1 else 'workers'}")
    return ", ".join(parts)


EXPLAINED = (
    "± is the standard error over the suite. Gains, with their 95 % interval, are over the parent that is better; "
    "they are paired image by image, and so surer than the scores themselves."
)


def print_study(records: StudyRecords, *, every_trial: bool, weights: Mapping[str, float] | None = None) -> None:
    """Parents, uniform merge and best side by side, every score with its gain; what failed; the final."""
    study, rows = records.study, stored_trials.load_trials(records)
    final = load_final(records)
    objective = study_objective(study)
    if weights is not None:
        check_weights(weights, objective)
    complete = [row for row in rows if row.state == "complete"]
    if every_trial:
        console.print(_trials_table(study, rows, objective))
        if any(row.estimated for row in rows):
            console.print("~ is an estimate from the images there are; gains of such trials are over these alone")
    if complete:
        console.print(_scores_table(records, rows, objective, final))
        console.print(f"objective: {escaped(objective.formula())}")
        console.print(EXPLAINED, soft_wrap=True)
    if complete and len(objective.names) > 1:
        print_front(rows, objective, weights)
    _print_progress(records, rows)
    if final is not None:
        print_final(study, final, rows, objective)


def _print_progress(records: StudyRecords, rows: Sequence[StoredTrial]) -> None:
    """What failed, how many trials there are, what the search has split, and why it ended."""
    study = records.study
    complete = [row for row in rows if row.state == "complete"]
    failed = [row for row in rows if row.state == "failed"]
    for row in failed[:5]:
        reason = escaped(row.reason or "")
        console.print(f"[red]trial {row.number} ({escaped(str(row.origin))}) failed:[/] {reason}", soft_wrap=True)
    if len(failed) > 5:
        console.print(f"[red]and {len(failed) - 5} more failed[/]")
    running = sum(row.state == "running" for row in rows)
    taken = len(rows) - len(own_trials(rows))
    told = f" ({taken} of them taken over)" if taken else ""
    console.print(
        f"{len(complete)} trials complete{told}{_stopped_text(study, complete)}, {len(failed)} failed, {running} in "
        f"progress or interrupted, budget {study.spec.budget.trials}",
        soft_wrap=True,
    )
    if rows and study.spec.full_space.begins_coarse:
        from optimizer.search.depth.stored_study import space_of

        split = split_before(optuna_studies.optuna_trials(records)) or {}
        console.print(escaped(f"search: {split_in_words(space_of(study, rows[0]), split)}"), soft_wrap=True)
    end = None if running else end_of(records, rows)
    if end is not None:
        console.print(f"ended: {end.reason}")


def _stopped_text(study: StoredStudy, complete: Sequence[StoredTrial]) -> str:
    """` (12 of them stopped early, which saved 512 images)`; empty without racing."""
    items = len(study.spec.suite.items())
    saved = [items - row.rendered for row in complete if row.estimated]
    return f" ({len(saved)} of them stopped early, which saved {sum(saved):,} images)" if saved else ""


def notable_trials(rows: Sequence[StoredTrial], objective: Objective, chosen: int | None = None) -> list[StoredTrial]:
    """Parents, the best uniform merge, the best trials, and the one that the final chose."""
    parents = [row for row in parent_trials(rows).values() if row.state == "complete"]
    uniform = best_trials([row for row in rows if row.origin.kind == "uniform"], objective)[:1]
    best = best_trials(rows, objective)[:FRONT_SHOWN]
    winner = [row for row in rows if row.number == chosen]
    notable = {row.number: row for row in (*parents, *uniform, *best, *winner)}
    return list(notable.values())


def _scores_table(
    records: StudyRecords, rows: Sequence[StoredTrial], objective: Objective, final: Final | None
) -> Table:
    """One column a trial, one row a score: the value, and below it the gain."""
    study = records.study
    items = len(study.spec.suite.items())
    infos = _infos(study)
    winner = current_winner(final, rows)
    chosen = None if winner is None else winner.number
    best = best_trials(rows, objective)
    roles = {row.number: "best" if chosen in {None, row.number} else "best observed" for row in best}
    if chosen is not None:
        roles.setdefault(chosen, "best in the final")
    shown = notable_trials(rows, objective, chosen)
    table = Table(title=f"study {escaped(study.name)}", title_justify="left")
    table.add_column("score", overflow="fold")
    means = {}
    for row in shown:
        role = f"[bold]{roles[row.number]}[/]: " if row.number in roles else ""
        table.add_column(f"{role}{escaped(row.title)}\n(trial {row.number})", justify="right")
        by_item, by_set = stored_renders.load_scores(records, row)
        means[row.number] = dict(row.objectives) | {name: float(np.mean(by_item[name])) for name in by_item} | by_set
    for name in ((SINGLE,) if objective.terms else ()) + tuple(study.spec.scorers):
        label = infos[name].report_name(items) if name in infos else name
        if label != name and name in infos and name != study.spec.scorers[name].kind:
            label = f"{name}: {label}"
        table.add_row(
            escaped(label), *(_score_cell(row, name, means[row.number][name]) for row in shown), end_section=True
        )
    return table


def _score_cell(row: StoredTrial, name: str, value: float) -> str:
    gain = row.gains.get(name)
    told = value_text(value, row.errors.get(name))
    return told if gain is None or row.origin.parent == gain.parent else f"{told}\n{gain_text(gain)}"


def value_text(value: float, error: float | None) -> str:
    """A score with its standard error."""
    return f"{value:.4g}" if error is None else f"{value:.4g} ±{error:.2g}"


def _trials_table(study: StoredStudy, rows: Sequence[StoredTrial], objective: Objective) -> Table:
    table = Table(title=f"trials of {escaped(study.name)}", title_justify="left")
    for head in ("trial", "what", "state", *objective.names, "gain (95 % interval)", "seconds"):
        table.add_column(head)
    items = len(study.spec.suite.items())
    for row in rows:
        about = "~" if row.estimated else ""
        values = [
            about + value_text(row.objectives[name], row.errors.get(name)) if name in row.objectives else ""
            for name in objective.names
        ]
        gain = "; ".join(gain_text(row.gains[name]) for name in objective.names if name in row.gains)
        seconds = f"{sum(row.seconds.values()):.1f}" if row.seconds else ""
        table.add_row(
            str(row.number), escaped(row.title), stopped_after(row, items) or row.state, *values, gain, seconds
        )
    return table


def _infos(study: StoredStudy) -> dict[str, ScorerInfo]:
    return {name: entry.info for name, entry in study.spec.scorers.items()}


def study_objective(study: StoredStudy) -> Objective:
    return Objective.of(study.spec, _infos(study))


def save_comparison(records: StudyRecords, artifacts: Artifacts) -> str | None:
    """Parents beside the best as one picture, and where it is; None when their renders were not kept."""
    import torch

    from optimizer.rendering.contact_sheet import comparison_sheet

    study, rows = records.study, stored_trials.load_trials(records)
    parents = [row for row in parent_trials(rows).values() if row.state == "complete"]
    chosen = chosen_trial(rows, study_objective(study))
    best = [] if chosen is None else [chosen]
    columns = []
    for row in [*parents, *(row for row in best if row not in parents)]:
        renders = stored_renders.load_renders(records, row)
        if any(render.file is None for render in renders):
            return None
        try:
            pictures = [artifacts.open_render(render.file) for render in renders if render.file is not None]
        except ArtifactNotFound:
            return None
        images = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]
        title = str(row.origin) if row in parents else f"best: trial {row.number}"
        columns.append((title, images))
    if not columns:
        return None
    captions = [item.prompt for item in study.spec.suite.items()]
    sheet = comparison_sheet(study.name, columns, captions, blocks=min(4, -(-len(captions) // 8)))
    return artifacts.save_picture(f"{study.name}.png", sheet)
