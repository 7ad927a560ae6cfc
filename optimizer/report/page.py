"""The report as one HTML page: it needs nothing from elsewhere, and whatever people wrote is escaped.

A policy in the page forbids every request and every script but its own, so a prompt could do nothing even if its
escaping failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any, Final

import yaml
from jinja2 import Environment

from basics.messages import counted
from optimizer.errors import NothingToReportError, TooFewTrialsError
from optimizer.insight.importance import RELIABLE, Findings, Insight, insight
from optimizer.report.figures import GainFigure, gain_figure
from optimizer.report.groups import gains_by_group
from optimizer.report.html import digest_of, page_environment, source_of
from optimizer.report.pictures import (
    PAGE_BYTES,
    Pictures,
    find_renders,
    shows_final,
    small_pictures,
    whole_pictures,
)
from optimizer.report.prompts import PromptGains, prompt_gains
from optimizer.report.results import Results, results_of
from optimizer.report.tables import considered_in, score_rows
from optimizer.report.unet import unet_of
from optimizer.report.verdict import verdict_of
from optimizer.report.wording import decimals, interval, plain_number, signed, with_interval
from optimizer.trial.judgement import is_surely_better, is_surely_worse
from optimizer.trial.objective import Objective
from search_spaces.blocks import Architecture, places
from studies.files.artifacts import Artifacts
from studies.recipe.file import RecipePaths, recipe_text
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.spec.paths import paths_of
from studies.spec.study import StudySpec

WIDE, NARROW = (1120.0, 380.0), (360.0, 300.0)  # of the figure of gain against trial, in pixels
FULL: Final = "`mergetune study report --full` keeps them"
SPARE: Final = 1_000  # bytes of a page that are not planned
MOST_RANKED: Final = 12  # numbers of the search in the list of what mattered


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A model whose pictures and scores are shown."""

    trial: StoredTrial
    name: str
    best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedParameter:
    """One number of the search, with its importance."""

    name: str
    share: float
    value: str


def report_page(
    records: StudyRecords,
    objective: Objective,
    artifacts: Artifacts,
    *,
    weights: Mapping[str, float] | None = None,
    full: bool = False,
) -> str:
    """Return the report of a study as HTML.

    Args:
        weights: of several objectives, to choose from their front.
        full: whether pictures are the stored PNGs; else they are made to fit, with the text, into `PAGE_BYTES`.

    Raises:
        NothingToReportError: no trial is complete.
        WeightsError: the weights cannot choose.
        ArtifactError: the artifact store fails.
    """
    results = results_of(records, objective, weights)
    columns = _columns(results)
    trials = [column.trial for column in columns]
    held_out = shows_final(results, artifacts, trials)
    prompts = prompt_gains(results, held_out=held_out)
    order = [each.item.index for prompt in prompts.prompts for each in prompt.items]
    found = find_renders(results, artifacts, trials, order, held_out=held_out)
    importance = _importance(results)
    environment = _environment()
    script = source_of(environment, "script.js")
    parts = {
        **_of_result(results, prompts, columns),
        **_of_figures(results, importance),
        **_of_recipe(results),
        "settings": _settings(results),
        "style": source_of(environment, "style.css"),
        "script": script,
        "script_digest": digest_of(script),
    }

    def page(pictures: Pictures) -> str:
        notes = _picture_notes(results, pictures, prompts, held_out=held_out)
        return environment.get_template("report.html.j2").render(**parts, pictures=pictures, picture_notes=notes)

    if full:
        return page(whole_pictures(artifacts, found))
    room = PAGE_BYTES - SPARE - len(page(found.placeholder()).encode())
    return page(small_pictures(artifacts, found, room))


def save_report(records: StudyRecords, objective: Objective, artifacts: Artifacts) -> str | None:
    """Store the report of a study beside its pictures, and return where it is; None where there is nothing to report.

    Raises:
        ArtifactError: the artifact store fails.
    """
    try:
        page = report_page(records, objective, artifacts)
    except NothingToReportError:
        return None
    return artifacts.save_report(records.study.name, records.study.key, page)


def _environment() -> Environment:
    """Return where the report's templates come from, with the words that they use."""
    environment = page_environment()
    environment.tests |= {"surely_better": is_surely_better, "surely_worse": is_surely_worse}
    environment.filters |= {
        "signed": signed,
        "plain": plain_number,
        "interval": interval,
        "with_interval": with_interval,
        "counted": counted,
    }
    return environment


def _columns(results: Results) -> tuple[Column, ...]:
    """Return the parents, then the merge shown."""
    names = {trial.number: f"{letter}: {results.parent_file(letter)}" for letter, trial in results.parents.items()}
    trials = {trial.number: trial for trial in (*results.parents.values(), results.shown)}
    return tuple(
        Column(trial=trial, name=names.get(number, f"trial {number}"), best=number == results.best.trial.number)
        for number, trial in trials.items()
    )


def _importance(results: Results) -> Insight | None:
    try:
        return insight(results.records, results.objective, fits_model=False)
    except TooFewTrialsError:
        return None


def _of_result(results: Results, prompts: PromptGains, columns: Sequence[Column]) -> dict[str, Any]:
    study = results.study
    return {
        "study": study,
        "results": results,
        "verdict": verdict_of(results, prompt_gains(results, held_out=results.is_held_out)),
        "gain": results.gain,
        "objective": results.objective,
        "columns": columns,
        "prompts": prompts,
        "scores": score_rows(results, [column.trial for column in columns]),
        "considered": considered_in(results),
        "groups": gains_by_group(results, held_out=results.is_held_out),
        "counts": _counts(results),
        "started": _date(study.created_at),
        "written": _date(datetime.now().timestamp()),  # noqa: DTZ005 - local time, as people read it
    }


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _counts(results: Results) -> tuple[str, ...]:
    """Say how much work the study was."""
    trials = results.trials
    states = [trial.state for trial in trials]
    stopped = sum(trial.estimated for trial in trials)
    images = sum(trial.rendered for trial in trials)
    minutes = sum(sum(trial.seconds.values()) for trial in trials) / 60
    parts = [counted(states.count("complete"), "complete trial")]
    parts += [f"{stopped} of them stopped early"] if stopped else []
    parts += [f"{states.count('failed')} failed"] if "failed" in states else []
    parts += [f"{states.count('running')} in progress"] if "running" in states else []
    parts += [counted(images, "image")] if images else []
    work = counted(round(minutes), "minute") if minutes >= 1 else counted(round(60 * minutes), "second")
    return (*parts, f"{work} of work")


def _of_figures(results: Results, importance: Insight | None) -> dict[str, Any]:
    figures = [
        (wide, narrow)
        for name in results.objective.names
        if (wide := _progress(results, name, WIDE)) and (narrow := _progress(results, name, NARROW))
    ]
    findings: Sequence[Findings | None] = (None,) if importance is None else importance.findings
    drawn = [(unet_of(results, importance, each), _ranked(results, importance, each)) for each in findings]
    return {
        "figures": figures,
        "unets": [(unet, ranked) for unet, ranked in drawn if unet is not None],
        "importance": importance,
        "reliable": RELIABLE,
    }


def _progress(results: Results, name: str, size: tuple[float, float]) -> GainFigure | None:
    return gain_figure(results, name, width=size[0], height=size[1])


def _ranked(results: Results, importance: Insight | None, findings: Findings | None) -> tuple[RankedParameter, ...]:
    """Return the numbers of the search that mattered most."""
    if importance is None or findings is None:
        return ()
    shown = importance.params_of(results.shown) or {}
    ranked = sorted(findings.shares.items(), key=lambda each: -each[1])[:MOST_RANKED]
    return tuple(
        RankedParameter(name=name, share=share, value=decimals(shown[name]) if name in shown else "")
        for name, share in ranked
    )


def _of_recipe(results: Results) -> dict[str, Any]:
    """Return the recipe of the merge shown: its files with hashes, its numbers, and the file that makes it again."""
    study, recipe = results.study, results.shown.recipe
    spec = study.spec
    paths = RecipePaths(
        parents={parent.letter: Path(parent.path.name) for parent in study.parents},
        loras=[Path(lora.path.name) for lora in spec.loras.values()] if recipe.loras else [],
        vae=None if spec.vae is None else Path(spec.vae.name),
    )
    comment = f"study {study.name}, trial {results.shown.number} ({results.shown.title})"
    return {
        "recipe": recipe,
        "sizes": {parent.letter: parent.bytes for parent in study.parents},
        "places": places(Architecture(recipe.architecture)),
        "recipe_yaml": recipe_text(recipe, paths, comment),
    }


def _settings(results: Results) -> dict[str, str]:
    """Return every setting, for people: title -> YAML."""
    study = results.study
    found = {
        "The whole spec": _as_yaml(_without_folders(study.spec)),
        "Software that started it": _as_yaml(dict(study.software)),
        f"Machine of trial {results.shown.number}": _as_yaml(dict(results.shown.machine)),
        "Digests": _as_yaml({"suite": study.suite_digest, "recipe": results.shown.recipe.digest, **study.fingerprints}),
    }
    return {title: text for title, text in found.items() if text}


def _without_folders(spec: StudySpec) -> dict[str, Any]:
    """Return a spec with the names of its files alone: a report is sent to others, and says nothing of a machine."""
    known = set(map(str, (*paths_of(spec), *(recipe.path for recipe in spec.probes.recipes))))
    data = spec.model_dump(mode="json")
    found: dict[str, Any] = _with_names(data, known.__contains__)
    found["scorers"] = _with_names(data["scorers"], lambda text: PurePath(text).is_absolute())
    if found["warm_start"] is not None:
        found["warm_start"] |= {"storage": None, "artifacts": None}
    return found


def _with_names(data: Any, is_path: Callable[[str], bool]) -> Any:
    """Return data in which every text that is a path is its last part."""
    if isinstance(data, Mapping):
        return {key: _with_names(value, is_path) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_names(value, is_path) for value in data]
    return PurePath(data).name if isinstance(data, str) and is_path(data) else data


def _as_yaml(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=100) if data else ""


def _picture_notes(results: Results, pictures: Pictures, prompts: PromptGains, *, held_out: bool) -> tuple[str, ...]:
    """Say what pictures are shown, and what is not."""
    notes = []
    if results.is_held_out and not held_out:
        notes.append("The final's renders are not stored, so this is of the search's own renders.")
    if pictures.urls:
        seen = "that the search never saw" if held_out else "of the search"
        notes.append(f"Renders {seen}, with the same noise in every column.")
    else:
        advice = ": set `render: {keep: best}` in the spec" if results.study.spec.render.keep == "none" else ""
        notes.append(f"No renders are stored, so there are no pictures{advice}.")
    if pictures.longer_side is not None:
        notes.append(f"Made smaller, to {pictures.longer_side} pixels, to keep the page small; {FULL} at full size.")
    if pictures.left_out:
        notes.append(f"{counted(pictures.left_out, 'picture')} left out to keep the page small; {FULL}.")
    if pictures.lost:
        notes.append(f"{counted(pictures.lost, 'render')} not found in the artifact store.")
    if prompts.score is not None and prompts.left_out:
        notes.append(f"Gains by prompt are without {', '.join(prompts.left_out)}: a score of the whole set.")
    return tuple(notes)
