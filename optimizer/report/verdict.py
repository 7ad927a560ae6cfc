"""The verdict: which merge, how much better, over which parent, how sure, and what it lost, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from basics.messages import counted
from optimizer.outcome.in_words import preferred_to_parent
from optimizer.report.prompts import PromptGains
from optimizer.report.results import Results
from optimizer.report.wording import interval, signed, with_interval
from optimizer.trial.gain_text import basis_notes
from optimizer.trial.judgement import flaws, is_ahead, is_surely_better, is_surely_worse, surely_loses
from optimizer.trial.objective import SINGLE
from optimizer.trial.ranking import is_feasible, parent_trials, whole_merges
from studies.records.values import Gain

Tone = Literal["better", "unsure", "worse", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came out of a study."""

    tone: Tone
    headline: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    command: str | None  # what to do next


def verdict_of(results: Results, prompts: PromptGains) -> Verdict:
    """Say what came out of a study."""
    tone, headline = _headline(results)
    return Verdict(
        tone=tone,
        headline=headline,
        sentences=tuple(_sentences(results, prompts)),
        warnings=tuple(_warnings(results)),
        command=_command(results),
    )


# ------------------------------------------------------------------------------------------- the headline


def _headline(results: Results) -> tuple[Tone, str]:
    best = results.best
    if best.caveat is not None:
        return "unsure" if best.refusal is None else "worse", _sentence(best.caveat)
    if results.front is not None:
        return _headline_of_front(results)
    if best.trial.origin.parent is not None:
        return "worse", f"No merge beats {results.parent_name(best.trial.origin.parent)} so far"
    gain = results.gain
    if gain is None:
        return "open", f"Trial {best.trial.number} is the best so far"
    parent = results.parent_name(gain.parent)
    if not is_ahead(gain):
        return "worse", f"No merge beats {parent}"
    if not results.is_held_out:
        return "open", f"Trial {best.trial.number} leads {parent} in the search; no final has checked it yet"
    if is_surely_better(gain):
        return "better", f"Trial {best.trial.number} beats {parent}"
    return "unsure", f"Trial {best.trial.number} may beat {parent}"


def _headline_of_front(results: Results) -> tuple[Tone, str]:
    assert results.front is not None  # noqa: S101
    members, letter = len(results.front.members), results.best.trial.origin.parent
    if members > 1:
        return "open", f"{members} trials are on the front, and none is best in every objective"
    if letter is not None:
        return "worse", f"No merge beats {results.parent_name(letter)} in any objective so far"
    return "open", f"Trial {results.best.trial.number} is the best in every objective of the search"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# ------------------------------------------------------------------------------------------- the sentences


def _sentences(results: Results, prompts: PromptGains) -> Iterator[str]:
    if results.front is not None:
        yield from _of_front(results)
    elif results.shown.origin.parent is not None:
        yield "Of all complete trials, this parent alone has the best objective."
    elif results.gain is not None:
        yield _how_much(results, results.gain)
        yield _how_sure(results, results.gain)
        yield from _preferred(results)
        suite = results.suite(held_out=results.is_held_out)
        yield from (f"{_sentence(note)}." for note in basis_notes([{SINGLE: results.gain}], suite))
        yield from _shrinkage(results, results.gain)
        yield from _lost(results, prompts)
    elif results.parents:
        yield f"This report shows trial {results.shown.number} ({results.shown.title}), the best merge of the search."
    else:
        yield "It is not compared with a parent, because no parent has scores."


def _how_much(results: Results, gain: Gain) -> str:
    images = counted(len(results.suite(held_out=results.is_held_out).items()), "image")
    where = f"On {images} that the search never saw" if results.is_held_out else f"On the {images} of the search"
    trial, parent = f"trial {results.shown.number} ({results.shown.title})", results.parent_name(gain.parent)
    among = _among(results)
    if gain.value == 0:
        return f"{where}, {trial}{among} scores the same as {parent}."
    better = "better" if is_ahead(gain) else "worse"
    amount = signed(gain.value).lstrip("+−")
    return f"{where}, the objective of {trial}{among} is {amount} {better} than that of {parent}."


def _among(results: Results) -> str:
    """Say among how many candidates the merge shown is the best, where a final that still holds says so."""
    final = results.current_final
    if final is None or final.winner is None or final.winner.number != results.shown.number:
        return ""
    return f", the best of {counted(len(final.candidates), 'candidate')} there,"


def _how_sure(results: Results, gain: Gain) -> str:
    if not interval(gain):
        return "With one image there is no interval, so the uncertainty is unknown."
    within = f"The 95 % interval of its gain is {interval(gain)}"
    if not results.is_held_out:
        luck = "; the best of many noisy trials owes part of its gain to luck, which a final would show"
        return f"{within}{luck if is_ahead(gain) else ''}."
    if is_surely_better(gain):
        return f"{within}: all of it is above 0, so chance alone does not explain the gain."
    if is_surely_worse(gain):
        return f"{within}: all of it is below 0, so the parent is surely the better model."
    return f"{within}: it includes 0, so the difference may be luck."


def _preferred(results: Results) -> Iterator[str]:
    """Yield in how many votes the merge shown was preferred to the better parent, where a final asked for votes."""
    final = results.current_final
    winner = None if final is None else final.winner
    if final is None or winner is None or winner.number != results.shown.number:
        return
    told = preferred_to_parent(results.records, final, winner)
    if told is not None:
        yield f"{_sentence(told)}."


def _shrinkage(results: Results, gain: Gain) -> Iterator[str]:
    """Yield how large the gain was in the search, where that is another one."""
    searched = results.shown.gains.get(SINGLE)
    if results.is_held_out and searched is not None:
        shrank = is_ahead(gain) and searched.value > gain.value
        why = " Choosing the best of many trials explains such a drop." if shrank else ""
        over = f" over parent {searched.parent}" if searched.parent != gain.parent else ""
        yield f"In the search it was {with_interval(searched)}{over}.{why}"


def _lost(results: Results, prompts: PromptGains) -> Iterator[str]:
    """Yield in which scores the merge shown is behind, and on which prompts.

    A score that is all of the objective was told with it.
    """
    terms = results.objective.terms
    told = {SINGLE, terms[0].scorer} if len(terms) == 1 else {SINGLE}
    scores = {name: gain for name, gain in results.gains.items() if name not in told}
    compared = results.objective.is_compared
    behind = {name: gain for name, gain in scores.items() if gain.value < 0 and not compared(name, gain.parent)}
    surely = [f"{name} {with_interval(gain)}" for name, gain in behind.items() if is_surely_worse(gain)]
    perhaps = [f"{name} {with_interval(gain)}" for name, gain in behind.items() if not is_surely_worse(gain)]
    if surely:
        yield f"What it lost: {', '.join(surely)}."
    if perhaps:
        yield f"It is behind in {', '.join(perhaps)}, which may be chance."
    if not behind and len(scores) > 1:
        yield f"It is behind in none of its {len(scores)} {'other ' if len(told) > 1 else ''}scores."
    if prompts.lost:
        count = f"On {len(prompts.lost)} of {counted(prompts.known, 'prompt')}"
        worst = prompts.lost[0]
        yield f"{count} the parent scores higher, most on “{_short(worst.prompt)}” ({signed(worst.gain or 0.0)})."
    elif prompts.known:
        yield f"The parent scores higher on none of the {counted(prompts.known, 'prompt')}."


def _of_front(results: Results) -> Iterator[str]:
    best, shown = results.best, results.shown
    letter = best.trial.origin.parent
    if letter is not None:
        yield f"The best is {results.parent_name(letter)}: {best.reason}."
    what = "the best merge" if letter is not None else f"the best: {best.reason}"
    if shown.origin.parent is None:
        yield f"This report shows trial {shown.number} ({shown.title}), {what}."
    gained = {name: results.gains[name] for name in results.objective.names if name in results.gains}
    if gained:
        where = "on images that the search never saw" if results.is_held_out else "on the images of the search"
        told = ", ".join(f"{name} {with_interval(gain)}" for name, gain in gained.items())
        yield f"Its gains {where}, each over the parent that is better in it: {told}."
        suite = results.suite(held_out=results.is_held_out)
        yield from (f"{_sentence(note)}." for note in basis_notes([gained], suite))
    lost = [name for name, gain in gained.items() if surely_loses(name, gain, results.objective)]
    if lost and best.caveat is None:
        yield f"It surely loses in {' and '.join(lost)}."


# ------------------------------------------------------------------------------------------- warnings and the command


def _warnings(results: Results) -> Iterator[str]:
    final = results.current_final
    missing = [letter for letter in parent_trials(results.trials) if letter not in results.parents]
    if missing:
        names = _sentence(" and ".join(map(results.parent_name, missing)))
        verb, them = ("has", "it") if len(missing) == 1 else ("have", "them")
        yield f"{names} {verb} no scores, so nothing is compared with {them}."
    if results.final is not None and final is None:
        yield "More trials have finished since the final, so its choice no longer holds."
    if final is not None:
        yield from map(_sentence, flaws(final, results.objective))


def _command(results: Results) -> str | None:
    """Return the command to go on with, which names no database: a report is sent to others. None: there is none."""
    name = results.study.name
    if results.objective.terms and _may_hold_a_final(results):
        return f'mergetune study finish "{name}"'
    if results.best.refusal is not None:
        return None
    chooses = "" if results.objective.terms else f" --trial {results.best.trial.number}"
    return f'mergetune export "{name}"{chooses}'


def _may_hold_a_final(results: Results) -> bool:
    """Return whether a final is missing that can be held: a parent and a merge are there to be compared."""
    merges = any(is_feasible(trial, results.objective) for trial in whole_merges(results.trials))
    return bool(results.study.spec.final.top and results.current_final is None and results.parents and merges)


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 80 else f"{one_line[:79]}…"
