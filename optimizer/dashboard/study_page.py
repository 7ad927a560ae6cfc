"""A study's page in the dashboard: its note, its contact sheets, what its trials are called, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final as Constant
from typing import get_args

from basics.markdown import escaped
from basics.messages import counted
from optimizer.dashboard.figures import save_figures
from optimizer.outcome.in_words import best_in_words, final_lines
from optimizer.outcome.next_commands import next_commands
from optimizer.search.stopping import own_trials
from optimizer.trial.best import Best, best_of, load_results
from optimizer.trial.objective import Objective
from studies.files.artifacts import Artifacts, SheetKind, sheet_name, study_sheet_attributes, study_sheet_id
from studies.records.finals import Final
from studies.records.optuna_studies import optuna_study
from studies.records.optuna_tables import store_part_of_study_note, store_trial_names
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

BEST: Constant = "best"  # the user attribute of a study that names its best trial
SHEETS: Constant[Mapping[SheetKind, str]] = {
    "best": "parents and the best",
    "final": "parents and the candidates in the final",
}


def describe_study(records: StudyRecords, artifacts: Artifacts) -> None:
    """Bring a study's page up to date, for a dashboard that is open or will be opened.

    Raises:
        StudyMissingError: Optuna's part of the study was deleted.
    """
    objective = Objective.of_study(records.study)
    trials, final = load_results(records)
    best = best_of(trials, final, objective)
    in_optuna = optuna_study(records)
    number, storage = in_optuna._study_id, records.database.storage  # noqa: SLF001 - as Optuna's own
    store_trial_names(
        records.database, number, {trial.number: trial.name for trial in trials if trial.state != "running"}
    )
    sheets = _sheets(records, artifacts, searching=final is None or final.is_outdated(trials))
    known = storage.get_study_system_attrs(number)
    for title, file in sheets.items():
        for key, value in study_sheet_attributes(file, title).items():
            if known.get(key) != value:
                storage.set_study_system_attr(number, key, value)
    said = "" if best is None else best_in_words(best, objective)
    if storage.get_study_user_attrs(number).get(BEST, "") != said:
        storage.set_study_user_attr(number, BEST, said)
    part = _note(records, trials, final, best, _shown(records, sheets, best, number))
    store_part_of_study_note(records.database, number, part)
    save_figures(records, objective)


def _sheets(records: StudyRecords, artifacts: Artifacts, *, searching: bool) -> dict[str, str]:
    """Map the titles of the study's contact sheets that are stored to their files.

    Args:
        searching: whether no final holds; once one does, the latest of the search is no longer shown.
    """
    study = records.study
    kinds: tuple[SheetKind, ...] = get_args(SheetKind)
    return {
        SHEETS.get(shows, shows): sheet_name(study.name, study.key, shows)
        for shows in kinds
        if (searching or shows != "latest") and artifacts.has_contact_sheet(study.name, study.key, shows)
    }


def _shown(records: StudyRecords, sheets: Mapping[str, str], best: Best | None, number: int) -> Sequence[str]:
    """Return the sheets of the note as Markdown: the study's own or, while it has none, the best trial's sheet.

    Args:
        number: Optuna's id of the study.
    """
    found = [f"![{title}](/artifacts/{number}/{study_sheet_id(file)})" for title, file in sheets.items()]
    if found or best is None or best.trial.contact_sheet is None:
        return found
    storage = records.database.storage
    trial_id = storage.get_trial_id_from_study_id_trial_number(number, best.trial.number)
    return [f"![{escaped(best.trial.name)}](/artifacts/{number}/{trial_id}/{best.trial.contact_sheet})"]


def _note(
    records: StudyRecords,
    trials: Sequence[StoredTrial],
    final: Final | None,
    best: Best | None,
    sheets: Sequence[str],
) -> str:
    """Write our part of a study's note as Markdown: the verdict, the sheets, and the next commands."""
    study, objective = records.study, Objective.of_study(records.study)
    own = own_trials(trials)
    done = sum(trial.state != "running" for trial in own)
    parts = [f"{done} of {counted(study.spec.budget.trials, 'trial')} done"]
    if best is not None:
        name = "" if best.trial.origin.parent is not None else f", {escaped(best.trial.name)}"
        parts.insert(0, f"**Best{name}: {escaped(best_in_words(best, objective))}**")
    if final is not None:
        lines = final_lines(records, final, objective)
        outdated = ["this final is outdated: trials have finished since"] if final.is_outdated(trials) else []
        parts.append("\n".join(f"- final: {escaped(line)}" for line in [*lines, *outdated]))
    commands = "\n".join(next_commands(records, trials, best))
    parts += [f"Next:\n\n```console\n{commands}\n```", *sheets]
    return "\n\n".join(parts)
