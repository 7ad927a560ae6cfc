"""The verdict: which merge, how much better, over which parent, how sure, and what it lost, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from basics.messages import counted
from optimizer.report.prompts import PromptGains
from optimizer.report.results import Results, objective_gain
from optimizer.report.wording import interval, signed, with_interval
from optimizer.trial.objective import SINGLE
from optimizer.trial.ranking import parent_trials
from optimizer.trial.verdict import is_better, is_worse, suspicion
from studies.records.values import Gain
from studies.system.advice import advised

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
        command=None if tone == "worse" else _command(results),
    )


def _headline(results: Results) -> tuple[Tone, str]:
    chosen = results.chosen
    if results.front is not None:
        members = len(results.front.members)
        if members == 1:
            return "open", f"Trial {chosen.number} is the best in every objective"
        return "open", f"{members} trials are on the front, and none is best in every objective"
    if chosen.origin.parent is not None:
        return "worse", f"No merge beats {results.parent_name(chosen.origin.parent)} so far"
    gain = objective_gain(results.gains, results.objective)
    if gain is None:
        return "open", f"Trial {chosen.number} is the best so far"
    parent = results.parent_name(gain.parent)
    if not is_better(gain):
        return "worse", f"No merge beats {parent}"
    if not results.is_held_out:
        return "open", f"Trial {chosen.number} is ahead of {parent}, as far as the search saw"
    if gain.low is not None and gain.low > 0:
        return "better", f"Trial {chosen.number} beats {parent}"
    return "unsure", f"Trial {chosen.number} may beat {parent}"


def _sentences(results: Results, prompts: PromptGains) -> Iterator[str]:
    if results.front is not None:
        yield from _of_front(results)
        return
    gain = objective_gain(results.gains, results.objective)
    if results.chosen.origin.parent is not None:
        yield "Of all complete trials, this parent alone has the best objective."
    elif gain is None:
        yield "It is not compared with a parent, because no parent has scores yet."
    else:
        yield _how_much(results, gain)
        yield _how_sure(results, gain)
        yield from _shrinkage(results, gain)
        yield from _lost(results, prompts)


def _how_much(results: Results, gain: Gain) -> str:
    images = len(results.suite(held_out=results.is_held_out).items())
    where = (
        f"On {counted(images, 'image')} that the search never saw"
        if results.is_held_out
        else (f"On the {counted(images, 'image')} of the search")
    )
    trial, parent = f"trial {results.chosen.number} ({results.chosen.title})", results.parent_name(gain.parent)
    among = (
        f", chosen among {len(results.current_final.candidates)} candidates,"
        if results.current_final is not None and results.is_held_out
        else ""
    )
    if gain.value == 0:
        return f"{where}, {trial}{among} scores the same as {parent}."
    better = "better" if is_better(gain) else "worse"
    amount = signed(gain.value).lstrip("+−")
    return f"{where}, the objective of {trial}{among} is {amount} {better} than that of {parent}."


def _how_sure(results: Results, gain: Gain) -> str:
    if not interval(gain):
        return "A single image gives no interval, so how sure that is cannot be said."
    within = f"The 95 % interval of its gain is {interval(gain)}"
    if not results.is_held_out:
        return f"{within}; the best of many noisy trials owes part of its gain to luck, which a final would show."
    if gain.low is not None and gain.low > 0:
        return f"{within}: all of it is above 0, so the gain is no luck of these images."
    if is_worse(gain):
        return f"{within}: all of it is below 0, so the parent is surely the better model."
    return f"{within}: it reaches across 0, so the difference may be luck."


def _shrinkage(results: Results, gain: Gain) -> Iterator[str]:
    """Yield how large the gain was in the search, where that is another one."""
    searched = results.chosen.gains.get(SINGLE)
    if results.is_held_out and searched is not None:
        less = (
            " The rest was luck of the search's own images." if is_better(gain) and searched.value > gain.value else ""
        )
        yield f"In the search it was {with_interval(searched)}.{less}"


def _lost(results: Results, prompts: PromptGains) -> Iterator[str]:
    """Yield in which scores the chosen merge is behind, and on which prompts."""
    scores = {name: gain for name, gain in results.gains.items() if name != SINGLE}
    surely = [f"{name} {with_interval(gain)}" for name, gain in scores.items() if is_worse(gain)]
    perhaps = [
        f"{name} {with_interval(gain)}" for name, gain in scores.items() if gain.value < 0 and not is_worse(gain)
    ]
    if surely:
        yield f"What it lost: {', '.join(surely)}."
    if perhaps:
        yield f"It is behind in {', '.join(perhaps)}, which may be chance."
    if not surely and not perhaps and len(scores) > 1:
        yield f"It is behind in none of its {len(scores)} scores."
    if prompts.lost:
        count = f"On {len(prompts.lost)} of {counted(prompts.known, 'prompt')}"
        worst = prompts.lost[0]
        yield f"{count} the parent scores higher, most on “{_short(worst.prompt)}” ({signed(worst.gain or 0.0)})."
    elif prompts.known:
        yield f"The parent scores higher on none of the {counted(prompts.known, 'prompt')}."


def _of_front(results: Results) -> Iterator[str]:
    chosen = results.chosen
    yield f"This report shows trial {chosen.number} ({chosen.title}), the member that counts as the best."
    gained = [
        f"{name} {with_interval(gain)}" for name, gain in results.gains.items() if name in results.objective.names
    ]
    if gained:
        where = "on images that the search never saw" if results.is_held_out else "on the images of the search"
        yield f"Its gains {where}, each over the parent that is better in it: {', '.join(gained)}."
    lost = [name for name in results.objective.names if name in results.gains and is_worse(results.gains[name])]
    if lost:
        yield f"It surely loses in {' and '.join(lost)}."


def _warnings(results: Results) -> Iterator[str]:
    final = results.current_final
    missing = [letter for letter in parent_trials(results.trials) if letter not in results.parents]
    if missing:
        yield f"No scores of {', '.join(map(results.parent_name, missing))}: nothing is compared with it."
    if results.final is not None and final is None:
        yield "More trials have finished since the final, so its choice no longer holds."
    if final is None:
        return
    for finalist in final.finalists:
        if finalist.failure is not None:
            yield f"Trial {finalist.number} ({finalist.origin}) failed in the final: {finalist.failure}"
    for candidate in final.candidates:
        if (reason := suspicion(candidate, results.objective)) is not None:
            yield f"Trial {candidate.number} looks gamed: {reason}"
    if results.objective.terms and final.winner is None:
        yield "Every candidate failed in the final, so none is chosen."


def _command(results: Results) -> str:
    """Return the command to go on with."""
    name, url = results.study.name, results.records.database.url
    if results.objective.terms and results.study.spec.final.top and results.current_final is None:
        return advised(f'study finish "{name}"', url)
    chooses = "" if results.objective.terms else f" --trial {results.chosen.number}"
    return advised(f'export "{name}"{chooses}', url)


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 80 else f"{one_line[:79]}…"
