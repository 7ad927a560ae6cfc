"""The results of a study as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from basics.messages import counted, in_one_line
from optimizer.cli.common import console, escaped, print_notes
from optimizer.cli.views.final import print_final
from optimizer.cli.views.front import print_front
from optimizer.cli.views.groups import print_groups
from optimizer.cli.views.tables import FoldingTable
from optimizer.outcome.in_words import best_in_words
from optimizer.outcome.next_commands import vote_command
from optimizer.report.results import results_with
from optimizer.search.depth.ties import split_before, split_in_words
from optimizer.search.stopping import own_trials, stored_end
from optimizer.trial.best import BEST_MERGE, REASONS, Best, best_of, load_results
from optimizer.trial.front import check_weights
from optimizer.trial.gain_text import basis_notes, gain_text
from optimizer.trial.missing_final import votes_missing
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.ranking import best_trials, complete_parents, is_feasible, stopped_after
from optimizer.trial.repeats import note_of_repeats
from optimizer.trial.stored_scores import trial_scores
from studies.errors import StudyError
from studies.records import optuna_studies, stored_studies
from studies.records.database import Database
from studies.records.finals import lacks_final
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy, StoredTrial
from studies.records.workers import live_workers, workers_at


def studies_table(database: Database) -> FoldingTable:
    """Return a table of all studies with their progress, their best trial and its gain."""
    table = FoldingTable("studies")
    for head in ("study", "parents", "status", "trials", "failed", "best, and its gain (95 % interval)", "started"):
        table.head(head)
    workers = workers_at(database, live_workers(database))
    for name, records in stored_studies.every_study(database).items():
        try:
            if isinstance(records, StudyError):
                raise records
            table.add_row(*_study_row(records, workers[records.study.id]))
        except SQLAlchemyError:  # the database is away: the next would fare no better
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one study, the others are listed
            table.add_row(escaped(name), "", f"[red]{escaped(in_one_line(error))}[/]")
    return table


def _study_row(records: StudyRecords, workers: int) -> tuple[str, ...]:
    study, (trials, final) = records.study, load_results(records)
    objective = Objective.of_study(study)
    best = best_of(trials, final, objective)
    own = own_trials(trials)
    finished = sum(trial.state != "running" for trial in own)
    copied = f", {len(trials) - len(own)} copied" if len(own) < len(trials) else ""
    return (
        escaped(study.name),
        escaped(" + ".join(parent.path.stem for parent in study.parents)),
        _status(records, trials, workers),
        f"{finished}/{study.spec.budget.trials}{copied}",
        str(sum(trial.state == "failed" for trial in trials)),
        "" if best is None else escaped(best_in_words(best, objective)),
        datetime.fromtimestamp(study.created_at).astimezone().strftime("%Y-%m-%d %H:%M"),
    )


def _status(records: StudyRecords, trials: Sequence[StoredTrial], workers: int) -> str:
    """Describe a study's status, its priority if it has one, and the number of workers on it."""
    study = records.study
    ended = study.status == "active" and stored_end(records, trials) is not None
    parts: list[str] = ["ended" if ended else study.status]
    if study.priority:
        parts.append(f"priority {study.priority}")
    if workers:
        parts.append(f"{counted(workers, 'worker')}")
    return ", ".join(parts)


def print_repeats(records: StudyRecords, trials: Sequence[StoredTrial]) -> None:
    """Print in one line which images the study renders twice, if it renders any twice."""
    if (note := note_of_repeats(records.study.spec, trials)) is not None:
        print_notes([note])


EXPLANATION = (
    "± is the standard error, over prompts. Gains are over the better parent, with their 95 % interval over prompts; "
    "they are paired image by image, and therefore more precise than the scores themselves."
)

WEIGHTED = (
    "Images count by their `weight` in scores, errors, gains and intervals, and not at all for the scorers that leave "
    "them out; a score of a whole set has no weights."
)


def print_study(records: StudyRecords, *, every_trial: bool, weights: Mapping[str, float] | None = None) -> None:
    """Print a study: parents, uniform merge and best side by side, every score with its gain, failures, the final."""
    study, (trials, final) = records.study, load_results(records)
    objective = Objective.of_study(study)
    if weights is not None:
        check_weights(weights, objective)
    best = best_of(trials, final, objective, weights)
    complete = [trial for trial in trials if trial.state == "complete"]
    if every_trial:
        console.print(_trials_table(study, trials, objective))
        if any(trial.estimated for trial in trials):
            console.print("~ marks an estimate from the images that were rendered; the gain is over these alone")
    if complete:
        _print_scores(records, trials, objective, best)
    if complete and len(objective.names) > 1:
        print_front(trials, objective, best)
    _print_progress(records, trials)
    if final is not None:
        print_final(records, final, trials, objective)
    _print_missing_votes(records, trials)
    if best is not None:
        print_groups(results_with(records, objective, trials, final, best))
    if best is not None:
        console.print(f"best: {escaped(best_in_words(best, objective))}", soft_wrap=True)


def _print_scores(
    records: StudyRecords, trials: Sequence[StoredTrial], objective: Objective, best: Best | None
) -> None:
    """Print every score of the parents and the best, and what its figures mean."""
    spec = records.study.spec
    console.print(_scores_table(records, trials, objective, best))
    console.print(f"objective: {escaped(objective.formula())}")
    print_constraints(trials, objective)
    if not spec.by_votes_alone:
        console.print(EXPLANATION, soft_wrap=True)
    if not spec.suite.counts_alike:
        console.print(WEIGHTED, soft_wrap=True)
    complete = [trial for trial in trials if trial.state == "complete"]
    print_notes(basis_notes([trial.gains_over_others for trial in complete], spec.suite))
    print_repeats(records, trials)


def _print_missing_votes(records: StudyRecords, trials: Sequence[StoredTrial]) -> None:
    """Print on how many more merges people have to vote before the final; nothing where it does not wait for that."""
    if lacks_final(records, trials) and (missing := votes_missing(records, trials)):
        before = f"the final waits until people have voted on {counted(missing, 'more merge')}: {vote_command(records)}"
        console.print(escaped(before), soft_wrap=True)


def print_constraints(trials: Sequence[StoredTrial], objective: Objective) -> None:
    """Print a study's constraints, and how many of its trials keep them; nothing where it has none."""
    if not objective.constraints.bounds:
        return
    complete = [trial for trial in trials if trial.state == "complete"]
    kept = sum(is_feasible(trial, objective) for trial in complete)
    words = escaped(objective.constraints.in_words())
    console.print(
        f"constraints: {words}; {kept} of {counted(len(complete), 'trial')} keep them, and gains are over the better "
        "parent that does, unless none does",
        soft_wrap=True,
    )


def _print_progress(records: StudyRecords, trials: Sequence[StoredTrial]) -> None:
    """Print what failed, how many trials there are, what the search has split, and why it ended."""
    study = records.study
    complete = [trial for trial in trials if trial.state == "complete"]
    failed = [trial for trial in trials if trial.state == "failed"]
    for trial in failed[:5]:
        reason = escaped(trial.reason or "")
        console.print(f"[red]trial {trial.number} ({escaped(str(trial.origin))}) failed:[/] {reason}", soft_wrap=True)
    if len(failed) > 5:
        console.print(f"[red]and {len(failed) - 5} more failed[/]")
    running = sum(trial.state == "running" for trial in trials)
    copied = len(trials) - len(own_trials(trials))
    of_them = f" ({copied} of them copied)" if copied else ""
    console.print(
        f"{counted(len(complete), 'trial')} complete{of_them}{_stopped_text(study, complete)}, {len(failed)} failed, "
        f"{running} in progress or interrupted, budget {study.spec.budget.trials}",
        soft_wrap=True,
    )
    if trials and study.spec.full_space.begins_coarse:
        from optimizer.search.depth.stored_study import space_of

        split = split_before(optuna_studies.optuna_trials(records)) or {}
        console.print(escaped(f"search: {split_in_words(space_of(study, trials[0]), split)}"), soft_wrap=True)
    end = None if running else stored_end(records, trials)
    if end is not None:
        console.print(f"ended: {end.reason}")


def _stopped_text(study: StoredStudy, complete: Sequence[StoredTrial]) -> str:
    """Return ` (12 of them stopped early, which saved 512 images)`; without racing an empty text."""
    items = len(study.spec.suite.items())
    saved = [items - trial.rendered for trial in complete if trial.estimated]
    return f" ({len(saved)} of them stopped early, which saved {counted(sum(saved), 'image')})" if saved else ""


def notable_trials(trials: Sequence[StoredTrial], objective: Objective, best: Best | None) -> list[StoredTrial]:
    """Return the parents, the best uniform merge, the best observed trials, and the best of the study."""
    parents = complete_parents(trials).values()
    uniform = best_trials([trial for trial in trials if trial.origin.kind == "uniform"], objective)[:1]
    observed = best_trials(trials, objective)[:1] if len(objective.names) == 1 else []  # a front has its own table
    chosen = [] if best is None else [best.trial, *([] if best.merge is None else [best.merge])]
    notable = {trial.number: trial for trial in (*parents, *uniform, *observed, *chosen)}
    return list(notable.values())


def _roles(trials: Sequence[StoredTrial], objective: Objective, best: Best | None) -> dict[int, str]:
    """Map the number of a trial to what it is among the best; the best trial itself is called so and no other is."""
    if best is None:
        return {}
    roles = {trial.number: REASONS["observed"].text for trial in best_trials(trials, objective)}
    if len(objective.names) > 1:
        roles = dict.fromkeys(roles, "front")
    if best.merge is not None and not best.merge_is_best:
        roles[best.merge.number] = BEST_MERGE
    return roles | {best.trial.number: f"best ({best.reason})"}


def _scores_table(
    records: StudyRecords, trials: Sequence[StoredTrial], objective: Objective, best: Best | None
) -> FoldingTable:
    """Return a table with a column for each trial and a row for each score: its value, and below it the gain."""
    study = records.study
    infos = study.spec.infos
    roles, shown = _roles(trials, objective, best), notable_trials(trials, objective, best)
    table = FoldingTable(f"study {escaped(study.name)}")
    table.head("score")
    means = {}
    for trial in shown:
        role = f"[bold]{roles[trial.number]}[/]: " if trial.number in roles else ""
        table.head(f"{role}{escaped(_titled(study, trial))}\n(trial {trial.number})", justify="right")
        means[trial.number] = dict(trial.objectives) | trial_scores(records, trial).means
    single = objective.terms and not _is_its_only_score(objective, means.values())
    for name in ((SINGLE,) if single else ()) + tuple(study.spec.scorers):
        label = infos[name].report_name(len(study.spec.suite.looked_at_by(name))) if name in infos else name
        if label != name and name in infos and name != study.spec.scorers[name].kind:
            label = f"{name}: {label}"
        table.add_row(
            escaped(label),
            *(_score_cell(trial, name, means[trial.number].get(name)) for trial in shown),
            end_section=True,
        )
    return table


def _titled(study: StoredStudy, trial: StoredTrial) -> str:
    """Return what a trial is, for the head of a column; a parent also by its file."""
    letter = trial.origin.parent
    return trial.title if letter is None else f"{trial.title}\n{study.parent_file(letter).path.stem}"


def _is_its_only_score(objective: Objective, means: Iterable[Mapping[str, float]]) -> bool:
    """Return whether the objective is a score of the same values, which needs no row of its own."""
    if len(objective.terms) != 1:
        return False
    score = objective.terms[0].scorer
    return all(SINGLE in each and each[SINGLE] == each.get(score) for each in means)


def _score_cell(trial: StoredTrial, name: str, value: float | None) -> str:
    if value is None:  # it looks at none of the images
        return "-"
    gain = trial.gains_over_others.get(name)
    text = value_text(value, trial.errors.get(name))
    return text if gain is None else f"{text}\n{gain_text(gain)}"


def value_text(value: float, error: float | None) -> str:
    """Format a score with its standard error."""
    return f"{value:.4g}" if error is None else f"{value:.4g} ±{error:.2g}"


def _trials_table(study: StoredStudy, trials: Sequence[StoredTrial], objective: Objective) -> FoldingTable:
    table = FoldingTable(f"trials of {escaped(study.name)}")
    several = len(objective.names) > 1  # then they are lines: columns would not fit
    for head in ("trial", "origin", "state", "objectives" if several else SINGLE, "gain (95 % interval)", "seconds"):
        table.head(head)
    items = len(study.spec.suite.items())
    for trial in trials:
        mark = "~" if trial.estimated else ""
        value = "\n".join(
            (f"{escaped(name)} " if several else "") + mark + value_text(trial.objectives[name], trial.errors.get(name))
            for name in objective.names
            if name in trial.objectives
        )
        gains = trial.gains_over_others
        gain = "\n".join(gain_text(gains[name]) for name in objective.names if name in gains)
        state = stopped_after(trial, items) or trial.state
        if (breach := objective.constraints.breach(trial.constrained)) is not None:
            state += f"\n{escaped(f'breaks {breach}')}"
        seconds = f"{sum(trial.seconds.values()):.1f}" if trial.seconds else ""
        table.add_row(str(trial.number), escaped(trial.title), state, value, gain, seconds)
    return table
