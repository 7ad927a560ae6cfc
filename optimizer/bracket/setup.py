"""A bracket made ready: every checkpoint and every round's suite checked by headers, before anything is rendered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optimizer.bracket.checkpoint_files import require_count
from optimizer.bracket.contestants import Contestant, FoundCheckpoints, contestants_of
from optimizer.bracket.tree import rounds_of
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.merging.files.vae import VaeFile
from optimizer.rendering.prediction import agreed_prediction
from optimizer.runtime.digest_cache import DigestCache
from optimizer.runtime.plan import Plan, check_models, make_plan
from studies.spec.rounds import BracketSpec
from studies.spec.suite import SuiteSettings


@dataclass(frozen=True, kw_only=True)
class BracketPlan:
    """A checked bracket; nothing is loaded yet."""

    bracket: BracketSpec
    contestants: tuple[Contestant, ...]
    rounds: tuple[Plan, ...]  # of two checkpoints, with each round's suite
    notes: tuple[str, ...]  # for the user, one line each

    @property
    def suites(self) -> tuple[SuiteSettings, ...]:
        """The suite of each round."""
        return tuple(plan.spec.suite for plan in self.rounds)

    def contestant(self, number: int) -> Contestant:
        """Return a contestant by its number."""
        return self.contestants[number - 1]


def make_bracket(
    found: FoundCheckpoints,
    bracket: BracketSpec,
    winners: int,
    digests: DigestCache,
    progress: Callable[[int], None] | None = None,
) -> BracketPlan:
    """Check that the checkpoints can render every round, and that a search among the winners can be made.

    Args:
        found: checkpoints that are alike: see `require_alike`.
        winners: how many are to be parents of the search.
        progress: called with the bytes of each chunk of a checkpoint that was hashed.

    Raises:
        CheckpointError, BracketError: a checkpoint cannot compete with the others.
        RenderError, SpecError, ScorerError: a round's suite cannot be rendered or scored, or the spec cannot be used.
    """
    checkpoints = found.checkpoints
    require_count(winners, len(checkpoints))
    make_plan(bracket.among([checkpoint.path for checkpoint in checkpoints[:winners]]))
    suites = bracket.suites(rounds_of(len(checkpoints)))
    pair = tuple(checkpoint.path for checkpoint in checkpoints[:2])
    plans = [make_plan(bracket.of_round(suite).model_copy(update={"parents": pair})) for suite in suites]
    _check_each(checkpoints, bracket, suites)
    notes = dict.fromkeys(note for plan in plans for note in (*plan.prompts.notes, *plan.suite_loras.notes))
    return BracketPlan(
        bracket=bracket,
        contestants=contestants_of(checkpoints, digests, progress),
        rounds=tuple(plans),
        notes=(*bracket.notes, *notes),
    )


def _check_each(checkpoints: Sequence[Checkpoint], bracket: BracketSpec, suites: Sequence[SuiteSettings]) -> None:
    vae = None if bracket.spec.vae is None else VaeFile.open(bracket.spec.vae)
    first = checkpoints[0]
    for checkpoint in checkpoints:
        alone = Ingredients(Parents.of([checkpoint]), vae=vae)
        for suite in suites:
            agreed_prediction((first, checkpoint), suite)
            check_models(alone, suite, agreed_prediction((checkpoint,), suite))
