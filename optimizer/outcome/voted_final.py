"""A final whose study asks for votes: what people say of its renders, which nobody saw during the search.

The votes of the search chose the candidates, so they say too much good of them, and do not count here. Before the first
vote on a render of the final it has chosen nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optimizer.preference.model import comparisons, fit
from optimizer.preference.voted_scores import VotedScores
from optimizer.trial.constraints import feasible_or_all
from optimizer.trial.gains import terms_of
from optimizer.trial.judgement import choose
from optimizer.trial.objective import Objective, Term
from optimizer.trial.stored_scores import scores_of
from studies.records.finals import Final, Finalist, load_final, store_judged_final
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredStudy
from studies.records.votes import Vote, load_votes


def refresh_final(records: StudyRecords) -> None:
    """Compute the final anew from the votes on its renders, and store it; nothing for other studies."""
    if records.study.spec.voted is None:
        return
    while True:
        final = load_final(records)
        if final is None:
            return
        votes = load_votes(records, held_out=True)
        if store_judged_final(records, by_votes(records.study, final, votes), votes):
            return


def by_votes(study: StoredStudy, final: Final, votes: Sequence[Vote]) -> Final:
    """Return the final as the votes have it; as it is in a study that asks for none.

    Args:
        votes: on its renders. Those on trials that are no finalists any more are left out.
    """
    name = study.spec.voted
    scored = [finalist for finalist in final.finalists if finalist.failure is None]
    if name is None or not scored:
        return final
    numbers = [finalist.number for finalist in scored]
    counted = len(comparisons(votes, {number: index for index, number in enumerate(numbers)}).share)
    items = study.spec.held_out.items()
    stored = {each.number: scores_of(items, each.image_scores, each.set_scores) for each in scored}
    scores = VotedScores.of(name, fit(votes, numbers), stored, len(items))
    objective = Objective.of_study(study)
    judge = _Judge(scores=scores, objective=objective, terms=terms_of(objective, study.spec.infos))
    parents = judge.compared(final)
    finalists = [
        finalist if finalist.failure is not None else judge.judged(finalist, parents) for finalist in final.finalists
    ]
    chosen = choose(finalists, objective) if counted else None
    return replace(
        final,
        finalists=tuple(replace(finalist, chosen=finalist.number == chosen) for finalist in finalists),
        votes=counted,
    )


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """What finalists are judged by."""

    scores: VotedScores
    objective: Objective
    terms: Mapping[str, tuple[Term, ...]]  # objective or scorer -> the sum that is compared

    def compared(self, final: Final) -> dict[str, int]:
        """Return letter -> number of the parents that gains are over, by the same rule as without votes."""
        scored = {str(each.origin.parent): each for each in final.parents if each.failure is None}
        means = {letter: each.constrained_means for letter, each in scored.items()}
        parents = {letter: scored[letter].number for letter in feasible_or_all(means, self.objective.constraints)}
        if not self.objective.terms:
            return parents
        better = self.scores.better(parents, self.objective.terms)
        return {better: parents[better]}

    def judged(self, finalist: Finalist, parents: Mapping[str, int]) -> Finalist:
        """Return one finalist as the votes have it."""
        means, name = self.scores.means(finalist.number), self.scores.name
        held_out = {of: self._gain(finalist, of, parents) for of in finalist.held_out}
        return replace(
            finalist,
            objectives=self.objective.values(means),
            set_scores=dict(finalist.set_scores) | {name: means[name]},
            held_out=held_out,
        )

    def _gain(self, finalist: Finalist, name: str, parents: Mapping[str, int]) -> Gain:
        """Return a gain; one without votes is as the final found it, with an interval that may have needed features."""
        terms = self.terms[name]
        others = {letter: each for letter, each in parents.items() if not self.objective.is_compared(name, letter)}
        over = others or parents
        if not any(term.scorer == self.scores.name for term in terms):
            return finalist.over_each[self.scores.better(over, terms)][name]
        return self.scores.gain(finalist.number, over, terms)
