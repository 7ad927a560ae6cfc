"""The text of a first spec: YAML that says why each value is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from basics.messages import counted
from basics.texts import visible
from optimizer.drafting.draft import Draft
from optimizer.drafting.scorers import ScorerChoice
from optimizer.drafting.sizing import Sizing
from search_spaces.blocks import VAE, place_label
from studies.recipe.recipe import LETTERS


def spec_text(draft: Draft) -> str:
    """Return the YAML text of a spec."""
    return "\n".join([*_head(draft), "", *_space(draft), "", *_suite(draft), "", *_scorers(draft.scorers), "",
                      *_budget(draft)]) + "\n"  # fmt: skip


def quoted(value: Any) -> str:
    """Return a text or number as a YAML value on one line, whatever characters it has: JSON's values are YAML's.

    What cannot be seen is written as a number, for YAML refuses some of it, or takes it for the end of a line.
    """
    return "".join(map(_seen, json.dumps(value, ensure_ascii=False)))


def _seen(sign: str) -> str:
    if sign.isprintable():
        return sign
    return f"\\u{ord(sign):04x}" if ord(sign) < 1 << 16 else f"\\U{ord(sign):08x}"


def _head(draft: Draft) -> Iterator[str]:
    yield "# A first spec, drafted by mergetune init. Paths are relative to this file."
    yield "# Check it with `mergetune study check`, run it with `mergetune study start`."
    yield f"study: {quoted(draft.study)}"
    yield f"# {draft.found.architecture.name}, predicting {draft.found.prediction.description}"
    yield "parents:"
    for index, path in enumerate(draft.named_parents):
        meaning = "a ratio of 0" if index == 0 else "a ratio of 1" if len(draft.named_parents) == 2 else "its own ratio"
        yield f"  - {quoted(path)}  # {LETTERS[index]}: {meaning}"
    if draft.named_loras:
        yield "loras:  # each with a weight that is searched"
        for name, path in draft.named_loras.items():
            yield f"  {quoted(name)}: {{path: {quoted(path)}, weight: [0, 1]}}"
    yield from map(_comment, draft.found.notes)


def _space(draft: Draft) -> Iterator[str]:
    sizing, found = draft.sizing, draft.found
    yield "# How far each parent is from A, in percent of A's weights:"
    for letter, parts in zip(LETTERS[1:], found.distances, strict=False):
        told = ", ".join(f"{part} {100 * distance.relative:.3g}" for part, distance in parts.items())
        yield _comment(f"{letter}: {told}")
    what = "each section (IN, MID, OUT)" if sizing.granularity == "sections" else "each U-Net block"
    yield "space:"
    yield f"  granularity: {sizing.granularity}  # a ratio for {what} and each text encoder; {_why(sizing)}"
    if found.equal_text_encoders:
        frozen = ", ".join(f"{part}: 0" for part in found.equal_text_encoders)
        names = ", ".join(place_label(part, found.architecture) for part in found.equal_text_encoders)
        verb = "is" if len(found.equal_text_encoders) == 1 else "are"
        yield f"  frozen: {{{frozen}}}  # {names} {verb} the same in all parents"
    vae = [parts[VAE].relative for parts in found.distances if VAE in parts]
    if any(vae):
        yield "  # The VAEs differ, and A's is kept. To search its ratio as well:"
        yield "  # merge_vae: true"


def _why(sizing: Sizing) -> str:
    return f"{counted(sizing.trials, 'trial')} {'are few' if sizing.granularity == 'sections' else 'are enough'}"


def _suite(draft: Draft) -> Iterator[str]:
    yield "suite:"
    if not draft.own_prompts:
        yield "  # Examples: write prompts of the kind that the merge is for."
    yield "  prompts:"
    for prompt in draft.prompts:
        yield f"    - {quoted(prompt)}"
    seeds = list(range(1, draft.sizing.seeds + 1))
    yield f"  seeds: {seeds}  # of each prompt: {counted(draft.images, 'image')} in every trial"
    yield f"  sizes: [{draft.found.side}]"
    yield f"  steps: {draft.steps}"
    yield "  cfg: 7"
    yield "  sampler: DPM++ 2M Karras"


def _scorers(choice: ScorerChoice) -> Iterator[str]:
    if not choice.judges:
        yield "# Nothing on this machine judges pictures: sharpness only lets the study run. See the lines below it."
    yield "scorers:"
    for scorer in choice.chosen:
        options = ", ".join(f"{name}: {quoted(value)}" for name, value in scorer.options.items())
        yield f"  {scorer.kind}: {{{options}}}  # {scorer.why}"
    yield from (_comment(line, indent=2) for line in choice.lacking)
    yield ""
    yield "objective:  # the sum of weight x score / unit"
    yield from (f"  {scorer.kind}: {{weight: 1}}" for scorer in choice.chosen)


def _budget(draft: Draft) -> Iterator[str]:
    yield _comment(draft.basis)
    if draft.sizing.seconds is None:
        yield f"budget: {{trials: {draft.sizing.trials}, minutes: {60 * draft.hours:g}}}  # whichever comes first"
    else:
        yield f"budget: {{trials: {draft.sizing.trials}}}"


def _comment(text: str, indent: int = 0) -> str:
    """Return a text of any origin as a comment of one line."""
    return f"{' ' * indent}# {visible(' '.join(text.split()))}"
