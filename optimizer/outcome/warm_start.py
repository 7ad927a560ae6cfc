"""A study that begins with another's trials: which of them keep their scores, and which are rendered anew.

Scores hold where everything that shapes them is the same: parents and their order, suite, scorers with the files they
read, dtypes, machine and libraries. Such a trial is copied whole, with what it rendered and scored, and its objective
is computed anew from the scores, so that the weights of scorers and of images may differ. Where scores do not hold,
only the best merges are of use, and they become probes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from basics.messages import counted
from optimizer.outcome.comparability import score_differences
from optimizer.outcome.other_study import Other, other_study, same_parents, unlike_parents
from optimizer.outcome.scored_trials import ScoredTrial, WarmStart
from optimizer.runtime.machine import machine_description
from optimizer.runtime.parent_files import equal_places
from optimizer.runtime.plan import Plan
from optimizer.search.probes import Probe, exact_probe, parent_probe
from optimizer.search.shortlist import by_value
from optimizer.trial.objective import Objective
from optimizer.trial.ranking import parent_trials
from optimizer.trial.stored_scores import suite_scores
from studies.errors import RecipeError, WarmStartError
from studies.files.artifacts import SHEET, TrialFiles
from studies.recipe.adoption import adopt
from studies.recipe.recipe import Recipe
from studies.records.stored_renders import files_of, load_renders, load_scores
from studies.records.stored_trials import load_trials
from studies.records.values import ParentFile, StoredTrial
from studies.spec.warm_start import NamedRecipe

AGAIN: Final = 10  # merges rendered anew, unless the spec says how many


def find_warm_start(
    plan: Plan, parents: Sequence[ParentFile], device: torch.device, url: str, artifacts: str | Path | None
) -> WarmStart | None:
    """Return what the study that the spec names gives; None where it names none.

    Raises:
        DatabaseError, StudyMissingError, WarmStartError: it cannot be used.
    """
    settings = plan.spec.warm_start
    if settings is None:
        return None
    with other_study(settings, url, artifacts) as other:
        if not same_parents(parents, other.records.study):
            raise WarmStartError(f"warm_start: {unlike_parents(plan, parents, other.records.study)}")
        complete = [trial for trial in load_trials(other.records) if trial.is_whole]
        if not complete:
            raise WarmStartError(
                f"warm_start: study {other.records.study.name!r} has no finished trial: nothing to begin with"
            )
        return _TrialSelection(plan, parents, device, other, complete).warm_start(settings.top)


class _TrialSelection:
    """A choice among a study's complete trials: which keep their scores, and which are rendered anew."""

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
        self._differences = tuple(score_differences(plan, parents, other.records.study))
        infos = other.records.study.spec.infos
        self._by_rank = by_value(Objective.of(other.records.study.spec, infos))(complete)

    def warm_start(self, top: int | None) -> WarmStart:
        """Choose which trials keep their scores, and which are rendered anew.

        Args:
            top: how many merges are wanted. None takes all whose scores hold, and AGAIN of the others.
        """
        recipes = self._recipes()
        usable = [trial for trial in self._by_rank if trial.number in recipes]
        with_scores = {trial.number for trial in usable if self._scores_hold(trial)}
        merges = [trial for trial in usable if trial.number not in self._adoption.parents]
        best = {trial.number for trial in [trial for trial in merges if trial.number in with_scores][:top]}
        wanted = best | (with_scores & self._adoption.parents.keys())
        scored = [self._scored(trial, recipes[trial.number]) for trial in self._complete if trial.number in wanted]
        without_scores = [trial for trial in merges if trial.number not in with_scores]
        again = self._again(without_scores, recipes, scored, AGAIN if top is None else max(0, top - len(best)))
        return WarmStart(
            study=self._other.records.study.name,
            scored=tuple(scored),
            again=tuple(again),
            notes=tuple(self._notes(scored, again, len(self._complete) - len(recipes))),
        )

    def _recipes(self) -> dict[int, Recipe]:
        """Return number -> recipe over the new study's files, of the trials that need no others."""
        found = {trial.number: self._adoption.recipe(trial) for trial in self._complete}
        return {number: recipe for number, recipe in found.items() if recipe is not None}

    def _scores_hold(self, trial: StoredTrial) -> bool:
        """Return whether a trial rendered and scored here would get the same scores."""
        if self._differences or trial.batch_limits or dict(trial.machine) != self._machine:
            return False
        return not self._set_scorers or self._set_scorers <= self._files_of(trial).load_features().keys()

    @property
    def _set_scorers(self) -> set[str]:
        return {name for name, info in self._plan.infos.items() if info.scope == "set"}

    def _files_of(self, trial: StoredTrial) -> TrialFiles:
        return self._other.artifacts.of_trial(self._other.records.study.key, trial.number, trial.worker_id)

    def _scored(self, trial: StoredTrial, recipe: Recipe) -> ScoredTrial:
        other, names = self._other, self._plan.infos
        by_item, by_set = load_scores(other.records, trial)
        renders = load_renders(other.records, trial)
        files = self._files_of(trial)
        present = files.files()
        return ScoredTrial(
            trial=trial,
            probe=self._adoption.probe(trial, recipe),
            scores=suite_scores(
                self._plan.spec.suite,  # with the weights of the new study
                {name: by_item[name] for name in names if name in by_item},
                {name: by_set[name] for name in names if name in by_set},
            ),
            pixels_sha256=tuple(render.pixels_sha256 for render in renders),
            files=files,
            renders={item: file for item, file in files_of(renders).items() if file in present},
            has_contact_sheet=trial.contact_sheet is not None and SHEET in present,
            features=files.load_features if self._set_scorers else dict,
        )

    def _again(
        self, trials: Sequence[StoredTrial], recipes: Mapping[int, Recipe], scored: Sequence[ScoredTrial], most: int
    ) -> list[NamedRecipe]:
        """Return the recipes of at most so many trials, each once, without those that keep their scores."""
        name, known = self._other.records.study.name, {each.probe.recipe.digest for each in scored}
        found: dict[str, NamedRecipe] = {}
        for trial in trials:
            recipe = recipes[trial.number]
            if recipe.digest not in known:
                named = NamedRecipe(name=f"{name} trial {trial.number}", recipe=recipe.to_json())
                found.setdefault(recipe.digest, named)
        return list(found.values())[:most]

    def _notes(self, scored: Sequence[ScoredTrial], again: Sequence[NamedRecipe], left_out: int) -> Iterator[str]:
        what = f"warm start from {self._other.records.study.name}"
        if scored:
            outside = sum(each.probe.params is None for each in scored)
            of_them = f", {outside} of them without parameters, as this space cannot express them" if outside else ""
            trials = counted(len(self._complete), "trial")
            yield f"{what}: {len(scored)} of {trials} are copied with their scores{of_them}"
        if again:
            why = "; ".join(self._differences) or "another machine, other libraries, or features that are not stored"
            merges = "merge is" if len(again) == 1 else f"{len(again)} merges are"
            yield f"{what}: the best {merges} rendered anew, because the scores do not hold here ({why})"
        if left_out:
            needs = "a LoRA or VAE that this study does not have, or random numbers of another version"
            trials = (
                "1 trial is left out, as it needs" if left_out == 1 else f"{left_out} trials are left out, as they need"
            )
            yield f"{what}: {trials} {needs}"
        if not scored and not again:
            yield f"{what}: nothing but its parents is of use here, and they are rendered anew"


class Adoption:
    """The trials of another study as trials of a new one.

    Args:
        complete: of the other study.
    """

    def __init__(self, plan: Plan, parents: Sequence[ParentFile], complete: Sequence[StoredTrial]) -> None:
        self._space, self._blueprint, self._equal_places = plan.space, plan.blueprint(parents), equal_places(plan)
        self.parents = {trial.number: letter for letter, trial in parent_trials(complete).items()}

    def recipe(self, trial: StoredTrial) -> Recipe | None:
        """Return the recipe over the new study's files; None if it needs others, or numbers of another version."""
        try:
            return adopt(trial.recipe, self._blueprint)
        except RecipeError:
            return None

    def probe(self, trial: StoredTrial, recipe: Recipe) -> Probe:
        """Return what the trial is in the new study. A parent alone is that parent's probe, so it is rendered once."""
        if trial.number in self.parents:
            return parent_probe(self._space, self._blueprint, self.parents[trial.number], self._equal_places)
        return exact_probe(trial.origin, recipe, self._space, self._blueprint, self._equal_places)
