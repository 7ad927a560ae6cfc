"""How prompts are read: the texts that each stands for, their chunks, weights and embeddings."""

from __future__ import annotations

from collections.abc import Iterator

from basics.texts import visible
from optimizer.cli.common import console, escaped
from optimizer.rendering.prompts.check import SuitePrompts
from optimizer.rendering.prompts.networks import NamedLora
from optimizer.rendering.prompts.reading import Reading, Text


def print_prompts(prompts: SuitePrompts) -> None:
    """Print how each prompt is read, negative ones after the others."""
    console.print(f"prompts, read as {prompts.syntax}:")
    for title, readings in (("prompt", prompts.positive), ("negative prompt", prompts.negative)):
        for reading in readings:
            console.print(f"[bold]{title}[/] {escaped(_quoted(reading.prompt))}", soft_wrap=True)
            for line in _lines(reading):
                console.print(f"  {escaped(line)}", soft_wrap=True)


def _lines(reading: Reading) -> Iterator[str]:
    """Yield the lines for one prompt."""
    if reading.loras:
        yield "LoRAs on top: " + ", ".join(map(_lora, reading.loras))
    if len(reading.phases) == 1:
        yield from _text_lines(reading.texts[0])
        return
    start = 0
    for end, index in reading.phases:
        text = reading.texts[index]
        yield f"calls {start} to {end} of the U-Net: {_quoted(text.text)}"
        start = end + 1
    for text in reading.texts:
        yield f"{_quoted(text.text)}:"
        yield from (f"  {line}" for line in _text_lines(text))


def _text_lines(text: Text) -> Iterator[str]:
    counts = ", ".join(str(row[0].token_count) for row in text.rows)
    chunks = "1 chunk" if len(text.rows) == 1 else f"{len(text.rows)} chunks"
    yield f"{chunks} of 75 tokens, filled with {counts}"
    weighted = [piece for piece in text.pieces if piece.weight != 1 and piece.text.strip()]
    if weighted:
        yield "weights: " + ", ".join(f"{_quoted(piece.text.strip())} {piece.weight:.4g}" for piece in weighted)
    used: dict[str, int] = {}
    for row in text.rows:
        for vector in row[0].vectors:
            used[vector.inversion] = used.get(vector.inversion, 0) + 1
    if used:
        yield "embeddings: " + ", ".join(f"{name} ({count} vectors)" for name, count in used.items())


def _lora(lora: NamedLora) -> str:
    if lora.unet == lora.text:
        return f"{visible(lora.name)} at {lora.unet:g}"
    return f"{visible(lora.name)} at {lora.unet:g} (text encoders {lora.text:g})"


def _quoted(text: str) -> str:
    return f'"{visible(text)}"'
