"""A study that begins with another's trials: which of them keep their scores, and which are rendered anew.

Scores hold where everything that shapes them is the same: parents and their order, suite, scorers with the files they
read, dtypes, machine and libraries. Then a trial is taken over with full right: what it rendered and scored is copied,
and the objective is computed anew from the scores, so that its weights may differ. Else only the best merges are of
use, and they become probes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from optimizer.runtime.machine import machine_description
from optimizer.runtime.parent_files import alike_places
from optimizer.runtime.plan import Plan
from optimizer.search.probes import Probe, exact, parent_probe
from optimizer.search.sampler import distributions
from optimizer.search.shortlist import by_value
from optimizer.trial.objective import Objective, ScoreSheet
from optimizer.trial.ranking import best_trials, parent_trials
from studies.errors import DatabaseError, RecipeError, StudyMissingError, WarmStartError
from studies.files.artifacts import SHEET, Artifacts, Features, TrialFiles, render_file
from studies.recipe.adoption import adopted
from studies.recipe.recipe import Recipe
from studies.records.database import Database, open_database
from studies.records.stored_renders import load_renders, load_scores
from studies.records.stored_studies import load_study, software_versions
from studies.records.stored_trials import load_trials
from studies.records.takeover import CopiedTrials, TakenTrial
from studies.records.values import ParentFile, StoredStudy, StoredTrial, TrialResult
from studies.spec.fingerprints import scorer_fingerprint
from studies.spec.study import StudySpec
from studies.spec.warm_start import NamedRecipe, WarmStartSettings
from studies.system.database_url import redacted

AGAIN: Final = 10  # merges rendered anew, unless the spec says how many
SCORING_SOFTWARE: Final = ("mergetune", "open_clip_torch")  # the machine's description holds the rest


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A trial with the scores that it has in the new study."""

    row: StoredTrial
    probe: Probe  # what it is in the new study
    sheet: ScoreSheet  # of the new study's scorers
    pixels_sha256: tuple[str, ...]
    files: TrialFiles
    renders: tuple[int, ...]  # items whose renders were kept and are still there
    picture: bool  # whether the contact sheet is still there
    features: Callable[[], Features]


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What another study gives."""

    study: str
    kept: tuple[Kept, ...]  # by number
    again: tuple[NamedRecipe, ...]  # best first
    notes: tuple[str, ...]  # what the user should know, one line each

    def written_into(self, spec: StudySpec) -> StudySpec:
        """The spec with the merges that are rendered anew, so that the other study is not needed again."""
        asked = spec.warm_start
        if asked is None:
            return spec
        storage = None if asked.storage is None else redacted(asked.storage)  # for people
        settled = asked.model_copy(update={"again": self.again, "storage": storage})
        return spec.model_copy(update={"warm_start": settled})

    def takeover(self, plan: Plan, artifacts: Artifacts) -> CopiedTrials:
        """The kept trials with the objectives of the new study, whose units are written out in its plan."""
        objective = plan.objective
        rows = [replace(kept.row, objectives=objective.values(kept.sheet.means)) for kept in self.kept]
        shown = _with_renders(rows, objective, plan.spec.render.keep)
        taken = [
            TakenTrial(
                origin=kept.probe.origin,
                source=f"{self.study} trial {row.number}",
                recipe=kept.probe.recipe,
                params=kept.probe.params,
                result=TrialResult(
                    objectives=row.objectives,
                    image_scores={name: tuple(map(float, values)) for name, values in kept.sheet.by_item.items()},
                    set_scores=dict(kept.sheet.by_set),
                    pixels_sha256=kept.pixels_sha256,
                    seconds=row.seconds,
                    machine=row.machine,
                ),
                files=kept.files,
                renders=kept.renders if row.number in shown else (),
                sheet=kept.picture,
                features=kept.features,
                worker_id=row.worker_id,
                started_at=row.started_at,
                finished_at=row.finished_at,
            )
            for kept, row in zip(self.kept, rows, strict=True)
        ]
        return CopiedTrials(taken, distributions(plan.space), artifacts)


def _with_renders(rows: Sequence[StoredTrial], objective: Objective, keep: str) -> frozenset[int]:
    """Trials whose renders stay as files, as a worker would keep them."""
    if keep == "all":
        return frozenset(row.number for row in rows)
    chosen = () if keep == "none" else (*parent_trials(rows).values(), *best_trials(rows, objective))
    return frozenset(row.number for row in chosen)


# ------------------------------------------------------------------------------------- the other study


@dataclass(frozen=True, kw_only=True)
class Other:
    """The study whose trials are asked for."""

    database: Database
    study: StoredStudy
    artifacts: Artifacts


@contextmanager
def other_study(settings: WarmStartSettings, url: str, artifacts: str | Path | None) -> Iterator[Other]:
    """Open the other study; nothing of it is changed.

    Args:
        url: database of the new study, which is the other's as well unless the settings name one.
        artifacts: where the new study's files are, likewise.

    Raises:
        DatabaseError, StudyMissingError: it is not there.
    """
    same = settings.storage in {None, url}
    there = settings.storage or url
    place = settings.artifacts or (artifacts if same else None)
    try:
        database = open_database(there, create=False)
    except DatabaseError as error:
        raise DatabaseError(f"warm_start: {error}") from error
    try:
        study = load_study(database, settings.study)
        yield Other(database=database, study=study, artifacts=Artifacts.known(there, place))
    except StudyMissingError as error:
        raise StudyMissingError(f"warm_start: {error}") from error
    finally:
        database.close()


def require_other_study(spec: StudySpec, url: str) -> None:
    """What can be said before the parents are hashed: raises as `other_study` does."""
    if spec.warm_start is not None:
        with other_study(spec.warm_start, url, None):
            pass


def find_warm_start(
    plan: Plan, parents: Sequence[ParentFile], device: torch.device, url: str, artifacts: str | Path | None
) -> WarmStart | None:
    """What the study that the spec names gives; None where it names none.

    Raises:
        DatabaseError, StudyMissingError, WarmStartError: it cannot be used.
    """
    settings = plan.spec.warm_start
    if settings is None:
        return None
    with other_study(settings, url, artifacts) as other:
        if not same_parents(parents, other.study):
            raise WarmStartError(f"warm_start: {other_parents(plan, parents, other.study)}")
        complete = [row for row in load_trials(other.database, other.study) if row.is_whole]
        if not complete:
            raise WarmStartError(f"warm_start: study {other.study.name!r} has no finished trial: nothing to begin with")
        return _Choice(plan, parents, device, other, complete).warm_start(settings.top)


def same_parents(parents: Sequence[ParentFile], other: StoredStudy) -> bool:
    """Whether both merge files of the same content, in whatever order."""
    return sorted(file.sha256 for file in parents) == sorted(file.sha256 for file in other.parents)


def other_parents(plan: Plan, parents: Sequence[ParentFile], other: StoredStudy) -> str:
    """Why a study of other parents is of no use, for people."""
    ours, theirs = (" + ".join(file.path.name for file in files) for files in (parents, other.parents))
    return (
        f"study {other.name!r} merges {theirs}, this one {ours} ({plan.space.architecture}): trials can only be used "
        "again over files of the same sha256"
    )


class Adoption:
    """Another study's trials as those of a new one.

    Args:
        complete: of the other study.
    """

    def __init__(self, plan: Plan, parents: Sequence[ParentFile], complete: Sequence[StoredTrial]) -> None:
        self._space, self._blueprint, self._alike = plan.space, plan.blueprint(parents), alike_places(plan)
        self.parents = {row.number: letter for letter, row in parent_trials(complete).items()}

    def recipe(self, row: StoredTrial) -> Recipe | None:
        """None for a merge that needs a LoRA or a VAE which the new study does not have."""
        try:
            return adopted(row.recipe, self._blueprint)
        except RecipeError:
            return None

    def probe(self, row: StoredTrial, recipe: Recipe) -> Probe:
        """A parent alone is the parent's probe of the new study, so that it is not rendered again."""
        if row.number in self.parents:
            return parent_probe(self._space, self._blueprint, self.parents[row.number], self._alike)
        return exact(row.origin, recipe, self._space, self._blueprint, self._alike)


class _Choice:
    """Which of a study's complete trials keep their scores, and which are rendered anew."""

    def __init__(
        self,
        plan: Plan,
        parents: Sequence[ParentFile],
        device: torch.device,
        other: Other,
        complete: Sequence[StoredTrial],
    ) -> None:
        self._plan, self._other, self._complete = plan, other, complete
        self._adoption = Adoption(plan, parents, complete)
        self._machine = machine_description(device)
        self._reasons = tuple(_differences(plan.spec, parents, other.study))
        infos = other.study.spec.infos
        self._by_rank = by_value(Objective.of(other.study.spec, infos))(complete)

    def warm_start(self, top: int | None) -> WarmStart:
        recipes = {row.number: recipe for row in self._complete if (recipe := self._adoption.recipe(row)) is not None}
        able = [row for row in self._by_rank if row.number in recipes]
        hold = {row.number for row in able if self._scores_hold(row)}
        merges = [row for row in able if row.number not in self._adoption.parents]
        best = {row.number for row in [row for row in merges if row.number in hold][:top]}
        wanted = best | (hold & self._adoption.parents.keys())
        kept = [self._kept(row, recipes[row.number]) for row in self._complete if row.number in wanted]
        others = [row for row in merges if row.number not in hold]
        again = self._again(others, recipes, kept, AGAIN if top is None else max(0, top - len(best)))
        return WarmStart(
            study=self._other.study.name,
            kept=tuple(kept),
            again=tuple(again),
            notes=tuple(self._notes(kept, again, len(self._complete) - len(recipes))),
        )

    def _scores_hold(self, row: StoredTrial) -> bool:
        if self._reasons or dict(row.machine) != self._machine:
            return False
        return not self._set_scorers or self._set_scorers <= self._files_of(row).load_features().keys()

    @property
    def _set_scorers(self) -> set[str]:
        return {name for name, info in self._plan.infos.items() if info.scope == "set"}

    def _files_of(self, row: StoredTrial) -> TrialFiles:
        return self._other.artifacts.of_trial(self._other.study.key, row.number, row.worker_id)

    def _kept(self, row: StoredTrial, recipe: Recipe) -> Kept:
        other, names = self._other, self._plan.infos
        by_item, by_set = load_scores(other.database, row)
        renders = load_renders(other.database, row)
        files = self._files_of(row)
        there = files.files()
        return Kept(
            row=row,
            probe=self._adoption.probe(row, recipe),
            sheet=ScoreSheet(
                by_item={name: np.array(by_item[name]) for name in names if name in by_item},
                by_set={name: by_set[name] for name in names if name in by_set},
            ),
            pixels_sha256=tuple(each.pixels_sha256 for each in renders),
            files=files,
            renders=tuple(each.item for each in renders if each.file is not None and render_file(each.item) in there),
            picture=row.sheet is not None and SHEET in there,
            features=files.load_features if self._set_scorers else dict,
        )

    def _again(
        self, rows: Sequence[StoredTrial], recipes: Mapping[int, Recipe], kept: Sequence[Kept], most: int
    ) -> list[NamedRecipe]:
        name, known = self._other.study.name, {each.probe.recipe.digest for each in kept}
        found: dict[str, NamedRecipe] = {}
        for row in rows:
            recipe = recipes[row.number]
            if recipe.digest not in known:
                found.setdefault(recipe.digest, NamedRecipe(name=f"{name} trial {row.number}", recipe=recipe.to_json()))
        return list(found.values())[:most]

    def _notes(self, kept: Sequence[Kept], again: Sequence[NamedRecipe], left_out: int) -> Iterator[str]:
        what = f"warm start from {self._other.study.name}"
        if kept:
            outside = sum(each.probe.params is None for each in kept)
            told = f", {outside} of them without parameters, as this space cannot express them" if outside else ""
            yield f"{what}: {len(kept)} of {len(self._complete)} trials are taken over with their scores{told}"
        if again:
            why = "; ".join(self._reasons) or "another machine, other libraries, or features that are not stored"
            yield f"{what}: the best {len(again)} merges are rendered anew, as their scores do not hold here ({why})"
        if left_out:
            yield f"{what}: {left_out} trials are left out, as they need a LoRA or VAE that this study does not have"
        if not kept and not again:
            yield f"{what}: nothing but its parents is of use here, and they are rendered anew"


# ------------------------------------------------------------------------- what a score depends on


def _differences(spec: StudySpec, parents: Sequence[ParentFile], other: StoredStudy) -> Iterator[str]:
    """Why the other study's scores do not hold in this one."""
    yield from image_differences(spec, parents, other)
    scorers = [name for name in spec.scorers if not _same_scorer(name, spec, other)]
    if scorers:
        yield f"other scorers: {', '.join(scorers)}"
    changed = changed_software(other)
    if changed:
        yield f"another version of {', '.join(changed)}"


def image_differences(spec: StudySpec, parents: Sequence[ParentFile], other: StoredStudy) -> Iterator[str]:
    """Why the other study's images are not what this one would render and score of the same merges."""
    theirs = other.spec
    if [file.sha256 for file in parents] != [file.sha256 for file in other.parents]:
        yield "the parents stand in another order"
    if spec.suite.digest != other.suite_digest:
        yield "another suite"
    if spec.export.dtype != theirs.export.dtype:
        yield "another export dtype"
    if _rendered_like(spec) != _rendered_like(theirs):
        yield "another dtype or batch size of the renders"
    if spec.render.degenerate_limit < theirs.render.degenerate_limit:
        yield "fewer broken images are allowed"


def changed_software(other: StoredStudy) -> list[str]:
    """What, beside a trial's machine, scores may depend on, and has another version by now."""
    now = software_versions()
    return [name for name in SCORING_SOFTWARE if now[name] != other.software.get(name)]


def _rendered_like(spec: StudySpec) -> tuple[Any, ...]:
    """What, beside the suite, decides which renders are computed together, and how."""
    return spec.render.dtype, spec.render.batch_size, None if spec.racing is None else spec.racing.batch


def _same_scorer(name: str, spec: StudySpec, other: StoredStudy) -> bool:
    """The same settings, and files of the same content wherever they lie."""
    ours, theirs = spec.scorers[name], other.spec.scorers.get(name)
    if theirs is None or ours.kind != theirs.kind or _unplaced(ours.options) != _unplaced(theirs.options):
        return False
    what, digest = scorer_fingerprint(name, ours)
    return other.fingerprints.get(what) == digest


def _unplaced(value: Any) -> Any:
    """Options without where their files lie."""
    if isinstance(value, Mapping):
        return {name: _unplaced(inner) for name, inner in value.items()}
    return "a file" if isinstance(value, str) and Path(value).is_absolute() else value
