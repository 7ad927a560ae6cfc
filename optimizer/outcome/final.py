"""The final: whether the best merges are better on renders that the search never saw.

The best observed trial is best partly by luck: of many noisy trials it had the most favourable noise (the winner's
curse). So the best few and all parents are rendered once more on a held-out suite, which decides the gains and the
choice. A merge that gained in the search and loses in the final, or gains by one scorer at another's cost, is named:
its scorer may have been gamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from basics.messages import first_line
from optimizer.errors import FinalError, UnscorableTrial
from optimizer.rendering.render import Renderer
from optimizer.rendering.sameness import seen_seeds
from optimizer.runtime.setup import Runtime
from optimizer.search.shortlist import Rank
from optimizer.trial.constraints import feasible_or_all
from optimizer.trial.evaluation import Evaluator
from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import gains, score_mean
from optimizer.trial.judgement import choose
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.ranking import best_trials, complete_parents, is_feasible, whole_merges
from optimizer.trial.repeats import first_of_each, positions_once
from scorers.protocol import ScorerInfo
from studies.records.finals import Final, Finalist
from studies.records.values import StoredTrial
from studies.spec.final import FinalSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalProgress:
    """Callbacks of a final in progress."""

    started: Callable[[StoredTrial, int], None]  # a trial, and how many there are in all
    rendered: Callable[[int], None]  # images of that trial so far


Keep = Callable[[StoredTrial, Sequence[Tensor]], None]  # is given a trial's images in item order, uint8 [3, h, w]


# ----------------------------------------------------------------------------------------- who takes part


def choose_finalists(
    trials: Sequence[StoredTrial], objective: Objective, rank: Rank, settings: FinalSettings
) -> tuple[dict[str, StoredTrial], list[StoredTrial]]:
    """Choose who takes part: whole trials that keep the constraints only, and every recipe once.

    With several objectives the candidates are members of the Pareto front. Parents take part in any case.

    Returns:
        Parent letter -> its trial, and the candidates by rank.

    Raises:
        FinalError: the spec turns the final off, no parent or no other trial is finished, or none is feasible.
    """
    if settings.top == 0:
        raise FinalError("the study's spec turns the final off (`final: {top: 0}`): there is nothing to finish")
    parents = complete_parents(trials)
    if not parents:
        raise FinalError("no parent's trial is finished, so there is nothing to be better than: resume the study first")
    several = len(objective.names) > 1
    able = best_trials(trials, objective) if several else [trial for trial in trials if trial.is_whole]
    ranked = [trial for trial in rank(able) if trial.number not in {parent.number for parent in parents.values()}]
    feasible = [trial for trial in ranked if is_feasible(trial, objective)]
    merges = whole_merges(trials)
    candidates = {trial.recipe.digest: trial for trial in reversed(feasible)}  # of equal recipes the better ranked
    if not merges:
        raise FinalError("no trial but the parents' own is finished, so there is no candidate: resume the study first")
    if not any(is_feasible(trial, objective) for trial in merges):
        raise FinalError(f"no merge keeps the constraints ({objective.constraints.in_words()}): there is no candidate")
    if not candidates:
        raise FinalError("every merge is behind a parent in all objectives: there is no candidate")
    return parents, list(reversed(candidates.values()))[: settings.top]


# ----------------------------------------------------------------------------------------- rendering


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutResult:
    """What a trial scores on the held-out suite, or why it does not."""

    evidence: Evidence | None = None
    failure: str | None = None


def hold_final(
    runtime: Runtime, trials: Sequence[StoredTrial], rank: Rank, progress: FinalProgress, keep: Keep
) -> Final:
    """Render parents and candidates on the held-out suite, and choose there.

    Args:
        trials: all of the study's.
        rank: puts those that are able to take part in order, the best first.
        keep: is given the renders of each trial that could be rendered.

    Raises:
        FinalError: nothing to compare, every parent renders broken images on the held-out suite, or the search has
            seen its noise.
    """
    if seen := next(seen_seeds(runtime.spec), None):
        raise FinalError(f"{seen}; a study keeps the seeds that it started with, so start a new one with `warm_start`")
    parents, candidates = choose_finalists(trials, runtime.objective, rank, runtime.spec.final)
    finalists = [*parents.values(), *candidates]
    with _held_out_evaluator(runtime) as evaluator:
        results = {trial.number: _result(evaluator, trial, len(finalists), progress, keep) for trial in finalists}
    return judge(
        {letter: (trial, results[trial.number]) for letter, trial in parents.items()},
        [(trial, results[trial.number]) for trial in candidates],
        runtime.objective,
        runtime.infos,
        suite_digest=runtime.spec.held_out.digest,
        complete_trials=sum(trial.state == "complete" for trial in trials),
        first=first_of_each(runtime.spec.held_out, runtime.plan.space.architecture),
        voted=runtime.spec.voted is not None,
    )


@contextmanager
def _held_out_evaluator(runtime: Runtime) -> Iterator[Evaluator]:
    """Give the study's evaluator with the held-out suite in place of its own, over the same models."""
    known = runtime.evaluator
    before = known.renderer
    renderer = Renderer(
        before.models, runtime.spec.held_out, batch_size=before.batch_size, largest_batches=before.largest_batches
    )
    limit = runtime.spec.render.degenerate_limit
    try:
        references = known.references.of_suite(runtime.spec.held_out)
        yield Evaluator(known.resident, renderer, known.scoring.scorers, degenerate_limit=limit, references=references)
    finally:
        known.renderer.text_changed()  # other text encoders have been live since it last embedded


def _result(evaluator: Evaluator, trial: StoredTrial, total: int, progress: FinalProgress, keep: Keep) -> HeldOutResult:
    progress.started(trial, total)
    try:
        evaluation = evaluator.evaluate(trial.recipe, progress.rendered)
    except UnscorableTrial as failure:
        return HeldOutResult(failure=first_line(failure))
    keep(trial, evaluation.images)
    return HeldOutResult(evidence=evaluator.scoring.evidence(evaluation.scores, evaluation.features))


# ----------------------------------------------------------------------------------------- judging


def judge(
    parents: Mapping[str, tuple[StoredTrial, HeldOutResult]],
    candidates: Sequence[tuple[StoredTrial, HeldOutResult]],
    objective: Objective,
    infos: Mapping[str, ScorerInfo],
    *,
    suite_digest: str,
    complete_trials: int,
    first: Sequence[int] | None = None,
    voted: bool = False,
) -> Final:
    """Compare on the held-out suite, and choose the winner there.

    With one objective every gain, of scorers too, is over the parent that is better in the objective there: a merge
    may stay behind the best parent of a single scorer without any harm. With several, each is over the parent that is
    better in it, and nothing is chosen. Ties go to the better ranked. Only parents that keep the constraints there are
    compared with, unless none does, and only such candidates are chosen.

    Args:
        first: for every item the first one of the same image, which alone counts in gains; None: all images differ.
        voted: whether votes will say which parent is the better one, so that gains over each are needed.

    Raises:
        FinalError: no parent has scores there.
    """
    known = {letter: result.evidence for letter, (_, result) in parents.items() if result.evidence is not None}
    if not known:
        reasons = "; ".join(f"{letter}: {result.failure}" for letter, (_, result) in parents.items())
        raise FinalError(f"no parent can be scored on the held-out suite, so nothing can be compared ({reasons})")
    feasible = feasible_or_all({letter: each.scores.means for letter, each in known.items()}, objective.constraints)
    known = {letter: known[letter] for letter in feasible}
    once = _counting_once(first)
    each_alone = {letter: {letter: once(evidence)} for letter, evidence in known.items()} if voted else {}
    if objective.terms:
        better = max(known, key=lambda letter: (objective.values(known[letter].scores.means)[SINGLE], -ord(letter)))
        known = {better: known[better]}
    against = {letter: once(evidence) for letter, evidence in known.items()}
    finalists = [_finalist(trial, result, objective) for trial, result in parents.values()]
    for trial, result in candidates:
        finalist = replace(_finalist(trial, result, objective), in_sample=trial.gains)
        if result.evidence is not None:
            own = once(result.evidence)
            over_each = {letter: gains(own, alone, objective, infos) for letter, alone in each_alone.items()}
            finalist = replace(finalist, held_out=gains(own, against, objective, infos), over_each=over_each)
        finalists.append(finalist)
    chosen = choose(finalists, objective)
    return Final(
        suite_digest=suite_digest,
        complete_trials=complete_trials,
        finalists=tuple(replace(finalist, chosen=finalist.number == chosen) for finalist in finalists),
    )


def _counting_once(first: Sequence[int] | None) -> Callable[[Evidence], Evidence]:
    positions = None if first is None else positions_once(range(len(first)), first)
    return lambda evidence: evidence if positions is None else evidence.part(positions)


def _finalist(trial: StoredTrial, result: HeldOutResult, objective: Objective) -> Finalist:
    if result.evidence is None:
        return Finalist(number=trial.number, origin=trial.origin, failure=result.failure)
    scores = result.evidence.scores
    return Finalist(
        number=trial.number,
        origin=trial.origin,
        objectives=objective.values(scores.means),
        image_scores={name: tuple(map(float, values)) for name, values in scores.by_item.items()},
        set_scores=dict(scores.by_set),
        constrained={name: score_mean(result.evidence, name) for name in objective.constraints.scorers},
    )
