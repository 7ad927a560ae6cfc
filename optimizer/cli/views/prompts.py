"""How prompts are read: the texts that each stands for, their chunks, weights and embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from basics.messages import counted
from basics.texts import visible
from optimizer.cli.common import console, escaped
from optimizer.rendering.prompts.check import ReadPrompt, SuitePrompts
from optimizer.rendering.prompts.networks import NamedLora
from optimizer.rendering.prompts.reading import Text

MOST_IN_TURNS: Final = 60  # texts; alternating words of several kinds multiply


def print_prompts(prompts: SuitePrompts) -> None:
    """Print how each prompt is read, negative ones after the others."""
    console.print(f"prompts, read as {prompts.syntax}:")
    for title, read in (("prompt", prompts.positive), ("negative prompt", prompts.negative)):
        for each in read:
            of = " in the second pass" if each.is_second else ""
            console.print(f"[bold]{title}[/] {escaped(_quoted(each.reading.prompt))}{of}", soft_wrap=True)
            for line in prompt_lines(each):
                console.print(f"  {escaped(line)}", soft_wrap=True)


def prompt_lines(prompt: ReadPrompt) -> Iterator[str]:
    """Yield the lines for one prompt: which text is drawn when, and what each consists of."""
    if prompt.reading.loras:
        yield "LoRAs on top: " + ", ".join(map(_lora, prompt.reading.loras))
    drawn, texts = prompt.drawn, prompt.reading.texts
    different = [texts[index] for index in dict.fromkeys(drawn)]
    if len(different) == 1:
        yield from _text_lines(different[0])
        return
    unit, of = ("step", "") if prompt.calls_in_step == 1 else ("call", f" of {prompt.calls} (two in a step)")
    start = 0
    for end, indices in _runs(drawn):
        place = f"{unit} {start + 1}" if end == start + 1 else f"{unit}s {start + 1} to {end}"
        turns = " in turns" if len(indices) > 1 else ""
        yield f"{place}{of}{turns}: {', '.join(_quoted(texts[index].text) for index in indices)}"
        start, of = end, ""
    for text in different:
        yield f"{_quoted(text.text)}:"
        yield from (f"  {line}" for line in _text_lines(text))


def _runs(drawn: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield what holds for some calls after each other: the number of the last, and the texts that take turns in them.

    The first call has the text of the second always, as A1111 begins to alternate there: it is told with those after.
    """
    start = min(1, len(drawn) - 1)
    while start < len(drawn):
        lengths = {period: _length(drawn, start, period) for period in range(1, MOST_IN_TURNS + 1)}
        period = max(lengths, key=lambda each: (lengths[each] if each == 1 or lengths[each] >= 2 * each else 0, -each))
        yield start + lengths[period], tuple(drawn[start : start + period])
        start += lengths[period]


def _length(drawn: Sequence[int], start: int, period: int) -> int:
    """Return for how many calls the texts from the first one on repeat with a period."""
    end = min(start + period, len(drawn))
    while end < len(drawn) and drawn[end] == drawn[end - period]:
        end += 1
    return end - start


def _text_lines(text: Text) -> Iterator[str]:
    counts = ", ".join(str(row[0].token_count) for row in text.rows)
    yield f"{counted(len(text.rows), 'chunk')} of 75 tokens, filled with {counts}"
    weighted = [piece for piece in text.pieces if piece.weight != 1 and piece.text.strip()]
    if weighted:
        yield "weights: " + ", ".join(f"{_quoted(piece.text.strip())} {piece.weight:.4g}" for piece in weighted)
    used: dict[str, int] = {}
    for row in text.rows:
        for vector in row[0].vectors:
            used[vector.inversion] = used.get(vector.inversion, 0) + 1
    if used:
        yield "embeddings: " + ", ".join(f"{name} ({counted(count, 'vector')})" for name, count in used.items())


def _lora(lora: NamedLora) -> str:
    if lora.unet == lora.text:
        return f"{visible(lora.name)} at {lora.unet:g}"
    return f"{visible(lora.name)} at {lora.unet:g} (text encoders {lora.text:g})"


def _quoted(text: str) -> str:
    return f'"{visible(text)}"'
