"""Is the best merge better on noise the search never saw?"""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.evaluation import Evaluator
from optimizer.gains import Evidence, gains
from optimizer.rendering.render import Renderer
from optimizer.setup import Machine
from studies.recipe import Recipe
from studies.results import Gain
from studies.spec import SuiteSettings

SEED_SHIFT = 1_000_003  # a prime far beyond what people count up to


def other_seeds(suite: SuiteSettings) -> SuiteSettings:
    """The same prompts and settings, every seed another one."""
    prompts = tuple(
        prompt.model_copy(update={"seeds": prompt.seeds and tuple(seed + SEED_SHIFT for seed in prompt.seeds)})
        for prompt in suite.prompts
    )
    seeds = tuple(seed + SEED_SHIFT for seed in suite.seeds)
    return suite.model_copy(update={"prompts": prompts, "seeds": seeds})


def held_out_gains(machine: Machine, best: Recipe, parents: Mapping[str, Recipe]) -> dict[str, Gain]:
    """The best recipe's gains over the better parent, on the suite with other seeds.

    Raises:
        TrialFailed: one of them renders broken images there.
    """
    known = machine.evaluator
    renderer = Renderer(known.renderer.models, other_seeds(machine.spec.suite), batch_size=known.renderer.batch_size)
    evaluator = Evaluator(
        known.resident, renderer, known.scorers, degenerate_limit=machine.spec.render.degenerate_limit
    )

    def evidence(recipe: Recipe) -> Evidence:
        evaluation = evaluator.evaluate(recipe)
        return evaluator.evidence(evaluation.sheet, evaluation.features)

    known_parents = {letter: evidence(recipe) for letter, recipe in parents.items()}
    found = gains(evidence(best), known_parents, machine.objective, machine.infos)
    known.renderer.text_changed()  # this renderer has embedded with other text encoders since
    return found
