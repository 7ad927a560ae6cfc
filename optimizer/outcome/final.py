"""The final: are the best merges better on renders that the search never saw?

The best observed trial is best partly by luck: of many noisy trials it is the one whose noise was kindest (the
winner's curse). So the best few, and all parents, are rendered once more on a held-out suite, the gains are taken
there, and the choice is made there. What gained in the search and loses in the final, or gains by one scorer at
another's cost, is named: that is what a gamed scorer looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from basics.messages import first_line
from optimizer.errors import FinalError, TrialFailed
from optimizer.rendering.render import Renderer
from optimizer.runtime.setup import Runtime
from optimizer.search.shortlist import Rank
from optimizer.trial.evaluation import Evaluator
from optimizer.trial.gains import Evidence, gains
from optimizer.trial.objective import SINGLE, Objective
from optimizer.trial.ranking import best_trials, parent_trials
from scorers.protocol import ScorerInfo
from studies.records.finals import Final, Finalist
from studies.records.values import StoredTrial
from studies.spec.final import FinalSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalWatch:
    """Told how far a final is."""

    begun: Callable[[StoredTrial, int], None]  # a trial, and how many there are in all
    rendered: Callable[[int], None]  # images of that trial so far
    finished: Callable[[StoredTrial, Sequence[Tensor]], None]  # a trial's images in item order, uint8 [3, h, w]


# ----------------------------------------------------------------------------------------- who takes part


def choose_finalists(
    trials: Sequence[StoredTrial], objective: Objective, rank: Rank, settings: FinalSettings
) -> tuple[dict[str, StoredTrial], list[StoredTrial]]:
    """(parent letter -> its trial, candidates by rank): whole ones only, every recipe once.

    With several objectives the candidates are members of the Pareto front.

    Raises:
        FinalError: the spec turns the final off, or no parent or no other trial is finished.
    """
    if settings.top == 0:
        raise FinalError("the study's spec turns the final off (`final: {top: 0}`): there is nothing to finish")
    parents = {letter: row for letter, row in parent_trials(trials).items() if row.state == "complete"}
    if not parents:
        raise FinalError("no parent's trial is finished, so there is nothing to be better than: resume the study first")
    several = len(objective.names) > 1
    able = best_trials(trials, objective) if several else [row for row in trials if row.is_whole]
    ranked = [row for row in rank(able) if row.number not in {parent.number for parent in parents.values()}]
    candidates = {row.recipe.digest: row for row in reversed(ranked)}  # of equal recipes the better ranked
    if not candidates:
        raise FinalError("no trial but the parents' own is finished, so there is no candidate: resume the study first")
    return parents, list(reversed(candidates.values()))[: settings.top]


# ----------------------------------------------------------------------------------------- rendering


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a trial scores on the held-out suite, or why it does not."""

    evidence: Evidence | None = None
    failure: str | None = None


def hold_final(runtime: Runtime, trials: Sequence[StoredTrial], rank: Rank, watch: FinalWatch) -> Final:
    """Render parents and candidates on the held-out suite, and choose there.

    Raises:
        FinalError: nothing to compare, or every parent renders broken images on the held-out suite.
    """
    parents, candidates = choose_finalists(trials, runtime.objective, rank, runtime.spec.final)
    rows = [*parents.values(), *candidates]
    with _held_out_evaluator(runtime) as evaluator:
        shown = {row.number: _show(evaluator, row, len(rows), watch) for row in rows}
    return judge(
        {letter: (row, shown[row.number]) for letter, row in parents.items()},
        [(row, shown[row.number]) for row in candidates],
        runtime.objective,
        runtime.infos,
        suite_digest=runtime.spec.held_out.digest,
        complete_trials=sum(row.state == "complete" for row in trials),
    )


@contextmanager
def _held_out_evaluator(runtime: Runtime) -> Iterator[Evaluator]:
    """The study's evaluator with the held-out suite in place of its own, over the same models."""
    known = runtime.evaluator
    before = known.renderer
    renderer = Renderer(before.models, runtime.spec.held_out, batch_size=before.batch_size, limits=before.limits)
    limit = runtime.spec.render.degenerate_limit
    try:
        yield Evaluator(known.resident, renderer, known.scoring.scorers, degenerate_limit=limit)
    finally:
        known.renderer.text_changed()  # other text encoders have been live since it last embedded


def _show(evaluator: Evaluator, row: StoredTrial, total: int, watch: FinalWatch) -> Shown:
    watch.begun(row, total)
    try:
        evaluation = evaluator.evaluate(row.recipe, watch.rendered)
    except TrialFailed as failure:
        return Shown(failure=first_line(failure))
    watch.finished(row, evaluation.images)
    return Shown(evidence=evaluator.scoring.evidence(evaluation.sheet, evaluation.features))


# ----------------------------------------------------------------------------------------- judging


def judge(
    parents: Mapping[str, tuple[StoredTrial, Shown]],
    candidates: Sequence[tuple[StoredTrial, Shown]],
    objective: Objective,
    infos: Mapping[str, ScorerInfo],
    *,
    suite_digest: str,
    complete_trials: int,
) -> Final:
    """Gains on the held-out suite, and the choice.

    With one objective every gain, of scorers too, is over the parent that is better in the objective there: a merge
    may stay behind the best parent of a single scorer without any harm. With several, each is over the parent that is
    better in it, and nothing is chosen. Ties go to the better ranked.

    Raises:
        FinalError: no parent has scores there.
    """
    known = {letter: shown.evidence for letter, (_, shown) in parents.items() if shown.evidence is not None}
    if not known:
        reasons = "; ".join(f"{letter}: {shown.failure}" for letter, (_, shown) in parents.items())
        raise FinalError(f"no parent can be scored on the held-out suite, so nothing can be compared ({reasons})")
    if objective.terms:
        better = max(known, key=lambda letter: (objective.values(known[letter].sheet.means)[SINGLE], -ord(letter)))
        known = {better: known[better]}
    rows = [_finalist(row, shown, objective) for row, shown in parents.values()]
    for row, shown in candidates:
        found = {} if shown.evidence is None else gains(shown.evidence, known, objective, infos)
        rows.append(replace(_finalist(row, shown, objective), in_sample=row.gains, held_out=found))
    chosen = _chosen(rows, objective)
    return Final(
        suite_digest=suite_digest,
        complete_trials=complete_trials,
        finalists=tuple(replace(row, chosen=row.number == chosen) for row in rows),
    )


def _finalist(row: StoredTrial, shown: Shown, objective: Objective) -> Finalist:
    if shown.evidence is None:
        return Finalist(number=row.number, origin=row.origin, failure=shown.failure)
    sheet = shown.evidence.sheet
    return Finalist(
        number=row.number,
        origin=row.origin,
        objectives=objective.values(sheet.means),
        image_scores={name: tuple(map(float, values)) for name, values in sheet.by_item.items()},
        set_scores=dict(sheet.by_set),
    )


def _chosen(rows: Sequence[Finalist], objective: Objective) -> int | None:
    able = [row for row in rows if not row.is_parent and row.failure is None]
    if not objective.terms or not able:
        return None
    return max(able, key=lambda row: row.objectives[SINGLE]).number  # the first of equals
