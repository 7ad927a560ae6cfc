"""Studies that render an image more than once: earlier versions took such suites for suites of different images.

An image that is there twice says nothing that it did not say once, so its scores count once in gains, intervals and
standard errors. What was stored before with every repeat is computed anew from the stored scores of each image. A
distance of a whole set has none, so its stored gain keeps its value and loses its interval.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache

from ftfy import fix_text

from basics.messages import first_of
from optimizer.errors import PromptError
from optimizer.trial.by_prompt import basis_of
from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import difference, difference_interval, standard_errors, terms_of
from optimizer.trial.objective import Objective, Term
from optimizer.trial.ranking import parent_trials
from optimizer.trial.stored_scores import rendered_items, scores_of
from search_spaces.blocks import Architecture
from studies.records.finals import Final, Finalist
from studies.records.stored_renders import load_renders, load_scores
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredTrial
from studies.spec.hires import NO_HIRES
from studies.spec.pag import NO_PAG
from studies.spec.study import StudySpec
from studies.spec.suite import SuiteItem, SuiteSettings, noise_of

LONGEST_BYTES = 75  # of a text that is surely read to its end: CLIP reads 75 tokens, and a token is at least a byte
END = "<end_of_text>"  # what follows may not be read


def first_of_each(suite: SuiteSettings, architecture: Architecture) -> tuple[int, ...] | None:
    """Return for every item the first item that renders the same image; None if all images differ."""
    if not _may_repeat(suite):
        return None
    from optimizer.rendering.sameness import model_inputs  # it loads torch

    try:
        inputs = model_inputs(suite, architecture)
    except PromptError:  # embeddings that are not on this machine; a study with images that repeat is refused
        return None
    first: dict[object, int] = {}
    found = tuple(first.setdefault(given, item) for item, given in enumerate(inputs))
    return None if len(first) == len(found) else found


def positions_once(items: Sequence[int], first: Sequence[int]) -> list[int]:
    """Return the positions of some rendered items at which an image comes for the first time.

    Args:
        first: see `first_of_each`.
    """
    seen: dict[int, int] = {}
    for position, item in enumerate(items):
        seen.setdefault(first[item], position)
    return list(seen.values())


def _may_repeat(suite: SuiteSettings) -> bool:
    """Return whether two items may render one image, without the tokenizer: False only if surely none do."""
    items = suite.items()
    folded = _folded if suite.syntax == "plain" else _letters
    if suite.embeddings is not None or (suite.syntax == "a1111" and any(map(_may_change, items))):
        return True
    return len({_image(item, folded) for item in items}) < len(items)


def _may_change(item: SuiteItem) -> bool:
    """Return whether a prompt may stand for other texts while an image is sampled, hold a comment or name a LoRA."""
    return any(sign in text for text in (item.prompt, item.negative) for sign in "[#<")


def _image(item: SuiteItem, folded: Callable[[str], bytes]) -> tuple[object, ...]:
    negative = folded(item.negative) if item.sampling.is_guided else None
    # One image may have its second pass, and its layers of PAG, written in several ways.
    settings = replace(item.sampling, hires=NO_HIRES, pag=NO_PAG), item.clip_skip
    return noise_of(item.seed), item.width, item.height, folded(item.prompt), negative, settings


@cache
def _letters(text: str) -> bytes:
    """Return a text's letters: what is left of texts that are read alike, without weights and BREAK."""
    mended = html.unescape(html.unescape(fix_text(text))).lower().replace("break", "")
    return "".join(filter(str.isalpha, mended)).encode(errors="replace")


@cache
def _folded(text: str) -> bytes:
    """Return what texts have in common that are read alike: they are mended as the tokenizer does, without spaces."""
    mended = html.unescape(html.unescape(fix_text(text))).lower().partition(END)[0]
    return "".join(mended.split()).encode(errors="replace")[:LONGEST_BYTES]


def note_of_repeats(spec: StudySpec, trials: Sequence[StoredTrial]) -> str | None:
    """Say in one line which images a study renders twice; None if it renders none twice."""
    suites = [spec.suite, *([spec.held_out] if spec.final.top else [])]
    if not trials or not any(map(_may_repeat, suites)):
        return None
    from optimizer.rendering.sameness import repeated_renders  # it loads torch

    try:
        lines = list(repeated_renders(spec, Architecture(trials[0].recipe.architecture), begun=True))
    except PromptError:  # as above
        return None
    return first_of(lines) if lines else None


# ------------------------------------------------------------------------------------ what was stored


def counted_once(records: StudyRecords, trials: Sequence[StoredTrial]) -> list[StoredTrial]:
    """Return a study's trials with gains and standard errors in which every image counts once."""
    spec = records.study.spec
    first = first_of_each(spec.suite, Architecture(trials[0].recipe.architecture)) if trials else None
    if first is None:
        return list(trials)
    objective = Objective.of(spec, spec.infos)
    parents = {letter: _evidence(records, trial) for letter, trial in parent_trials(trials).items() if trial.gains}
    return [_recounted(records, trial, parents, first, objective) if trial.gains else trial for trial in trials]


def _evidence(records: StudyRecords, trial: StoredTrial) -> Evidence:
    """Return the scores that a trial's images have one by one."""
    by_item, _ = load_scores(records, trial)
    return _of_images(rendered_items(records, trial), by_item)


def _of_images(items: Sequence[SuiteItem], by_item: Mapping[str, Sequence[float]]) -> Evidence:
    return Evidence(items=len(items), scores=scores_of(items, by_item, {}))


def _recounted(
    records: StudyRecords,
    trial: StoredTrial,
    parents: Mapping[str, Evidence],
    first: Sequence[int],
    objective: Objective,
) -> StoredTrial:
    items = [render.item for render in load_renders(records, trial)] if trial.estimated else range(len(first))
    positions = positions_once(items, first)
    own = _evidence(records, trial).part(positions)
    others = {letter: parent.part([items[each] for each in positions]) for letter, parent in parents.items()}
    infos = records.study.spec.infos
    gains = _gains(trial.gains, own, others, terms_of(objective, infos))
    return replace(trial, gains=gains, errors=standard_errors(own, objective, infos))


def _gains(
    stored: Mapping[str, Gain], own: Evidence, parents: Mapping[str, Evidence], terms: Mapping[str, tuple[Term, ...]]
) -> dict[str, Gain]:
    return {name: _gain(gain, own, parents.get(gain.parent), terms[name]) for name, gain in stored.items()}


def _gain(stored: Gain, own: Evidence, parent: Evidence | None, terms: Iterable[Term]) -> Gain:
    """Return a gain over the same parent, computed anew if every score in it is one of single images."""
    terms = tuple(terms)
    if parent is None or any(term.scorer not in own.scores.by_item for term in terms):
        return replace(stored, low=None, high=None)
    low, high = difference_interval(own, parent, terms)
    return replace(stored, value=difference(own, parent, terms), low=low, high=high, basis=basis_of(own, terms))


def final_counted_once(records: StudyRecords, final: Final, trials: Sequence[StoredTrial]) -> Final:
    """Return a final in whose gains every image counts once.

    Args:
        trials: those of `counted_once`.
    """
    spec = records.study.spec
    if not trials:
        return final
    searched = {trial.number: trial.gains for trial in trials}
    first = first_of_each(spec.held_out, Architecture(trials[0].recipe.architecture))
    finalists = [
        each if each.is_parent else replace(each, in_sample=searched.get(each.number, each.in_sample))
        for each in final.finalists
    ]
    if first is not None:
        positions = positions_once(range(len(first)), first)
        items = spec.held_out.items()
        parents = {
            str(each.origin.parent): _of_images(items, each.image_scores).part(positions)
            for each in final.parents
            if each.failure is None
        }
        terms = terms_of(Objective.of(spec, spec.infos), spec.infos)
        finalists = [_recounted_finalist(each, items, positions, parents, terms) for each in finalists]
    return replace(final, finalists=tuple(finalists))


def _recounted_finalist(
    finalist: Finalist,
    items: Sequence[SuiteItem],
    positions: Sequence[int],
    parents: Mapping[str, Evidence],
    terms: Mapping[str, tuple[Term, ...]],
) -> Finalist:
    if finalist.failure is not None:
        return finalist
    own = _of_images(items, finalist.image_scores).part(positions)
    return replace(finalist, held_out=_gains(finalist.held_out, own, parents, terms))
