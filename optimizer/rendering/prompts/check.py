"""The prompts of a study's suites read before anything is loaded, and what the user should know about them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from basics.messages import counted
from basics.texts import shortened
from optimizer.families.clip_tokens import CONTEXT, clip_tokenizer
from optimizer.families.registry import model_family
from optimizer.rendering.prediction import Prediction
from optimizer.rendering.prompts.editing import holding_at, unreached
from optimizer.rendering.prompts.reading import PromptReader, Reading
from optimizer.rendering.sampling.methods import calls_of
from scorers import clip
from search_spaces.blocks import Architecture
from search_spaces.slots import beyond_usual
from studies.spec.lora_tags import network_in, without_tags
from studies.spec.samplers import SAMPLER_INFOS
from studies.spec.spellings import without_comments
from studies.spec.suite import SuiteSettings, Syntax

# What one program gives a meaning and the other reads as words.
_BREAK = re.compile(r"\bBREAK\b")
_SIGNS = re.compile(r"[\[\]:|]")
_LORA = re.compile(r"(?i)<lora:[^>]*>?")
_ONLY_COMFYUI = re.compile(r"\bembedding:\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPrompt:
    """A prompt as it is read for a sampling."""

    reading: Reading
    calls: int  # of the U-Net for an image
    calls_in_step: int  # but for a step to level 0

    @property
    def drawn(self) -> tuple[int, ...]:
        """The index of the text that each call gets."""
        ends = [end for end, _ in self.reading.phases]
        return tuple(self.reading.phases[holding_at(ends, call)][1] for call in range(self.calls))


@dataclass(frozen=True, slots=True, kw_only=True)
class SuitePrompts:
    """The prompts of a study, as they are read."""

    syntax: Syntax
    positive: tuple[ReadPrompt, ...]
    negative: tuple[ReadPrompt, ...]
    notes: tuple[str, ...]  # for the user, one line each
    slips: tuple[str, ...]  # for which a new study is refused


def read_suites(
    suites: Sequence[SuiteSettings], architecture: Architecture, widths: Mapping[str, int], prediction: Prediction
) -> SuitePrompts:
    """Read every prompt of suites that are written in one syntax.

    Args:
        widths: component -> features of a token's vector.
        prediction: of the models, whose noise levels decide how many calls there are.

    Raises:
        PromptError: one cannot be read, or names an embedding that cannot be used.
    """
    positive: dict[tuple[str, int, int, int], ReadPrompt] = {}  # by text, steps that count, and calls
    negative: dict[tuple[str, int, int, int], ReadPrompt] = {}
    for suite in suites:
        reader = PromptReader(suite, model_family(architecture), widths)
        for item in suite.items():
            sampling, calls = item.sampling, calls_of(item.sampling, prediction, suite.noise)
            in_step = SAMPLER_INFOS[sampling.sampler].calls
            for read, text, is_negative in ((positive, item.prompt, False), (negative, item.negative, True)):
                key = (text, sampling.prompt_steps, calls, in_step)
                if key not in read:
                    reading = reader.read(text, sampling.prompt_steps, negative=is_negative)
                    read[key] = ReadPrompt(reading=reading, calls=calls, calls_in_step=in_step)
    syntax = suites[0].syntax
    texts = dict.fromkeys(text for text, *_ in (*positive, *negative))
    notes = [note for text in texts for note in notes_of(text, syntax)]
    if syntax == "a1111":
        notes += [
            note
            for read in (positive, negative)
            for (text, counted_as, *_), prompt in read.items()
            for note in _unreached(text, counted_as, prompt)
        ]
    return SuitePrompts(
        syntax=syntax,
        positive=tuple(positive.values()),
        negative=tuple(negative.values()),
        notes=tuple(dict.fromkeys(notes)),
        slips=(
            *(slip for text in texts for slip in _unread_loras(text, syntax)),
            *_unusual_strengths(suites[0], (each.reading for each in positive.values())),
        ),
    )


def _unread_loras(text: str, syntax: Syntax) -> Iterator[str]:
    """Yield a line for a prompt with a LoRA in a syntax that has none."""
    if syntax != "a1111" and (found := _LORA.search(text)):
        program = "ComfyUI has no such mark" if syntax == "comfyui" else "a plain prompt has no marks"
        yield (
            f"the prompt {shortened(text, 40)!r} has {found[0]!r}: {program}, and would read it as words; take it out "
            "and name the file under `loras` of the suite, or write `syntax: a1111`"
        )


def _unusual_strengths(suite: SuiteSettings, readings: Iterable[Reading]) -> Iterator[str]:
    """Yield a line for each LoRA on top of renders that is far stronger than any in use."""
    named = {(lora.name, value) for reading in readings for lora in reading.loras for value in (lora.unet, lora.text)}
    given = {
        (lora.path.name, value)
        for lora, strengths in zip(suite.loras, suite.lora_strengths, strict=True)
        for value in strengths
    }
    for name, value in sorted(given | named):
        if why := beyond_usual("lora", value):
            yield f"suite: the LoRA {name} at {value:g} is {why}"


def notes_of(text: str, syntax: Syntax) -> Iterator[str]:
    """Yield what the user should know about a prompt."""
    if syntax == "plain" and (count := token_count(text)) > CONTEXT:
        yield f"the prompt {text[:40]!r}... has {count} tokens: CLIP reads {CONTEXT} and ignores the rest"
    elif syntax == "comfyui" and (words := _only_a1111(text)) is not None:
        yield f"the prompt {shortened(text, 40)!r} has {words!r}, which ComfyUI reads as words; A1111 does not"
    elif syntax == "a1111" and _ONLY_COMFYUI.search(text):
        names = ", ".join(dict.fromkeys(map(repr, _ONLY_COMFYUI.findall(text))))
        yield f"the prompt {shortened(text, 40)!r} has {names}: A1111 knows an embedding by its bare name"


def _unreached(text: str, calls: int, prompt: ReadPrompt) -> Iterator[str]:
    """Yield a note for each edit that comes after the last call.

    Args:
        calls: see `unreached`.
        prompt: the text as it is read.
    """
    number = math.ceil(prompt.calls / prompt.calls_in_step)
    for edit in unreached(without_tags(without_comments(text)), calls, prompt.calls):
        yield (
            f"the prompt {shortened(text, 40)!r} has {shortened(edit, 60)!r}, which never changes in "
            f"{counted(number, 'step')}: write a lower number of steps, or a share such as 0.5"
        )


def _only_a1111(text: str) -> str | None:
    """Return the first BREAK, network in angle brackets or changing text; None if there is none."""
    found = _BREAK.search(text) or network_in(text)
    return _changing(text) if found is None else found[0]


def _changing(text: str) -> str | None:
    """Return the first square brackets with a colon or a bar in them; None if there are none.

    They are words of ComfyUI, where a backslash before them hides nothing: only what looks like A1111's is looked for.
    """
    opened: list[tuple[int, bool]] = []  # where each open bracket stands, and whether a colon or bar has followed
    for sign in _SIGNS.finditer(text):
        if sign[0] == "[":
            opened.append((sign.start(), False))
        elif opened and sign[0] == "]":
            start, divided = opened.pop()
            if divided:
                return text[start : sign.end()]
        elif opened:
            opened[-1] = (opened[-1][0], True)
    return None


def token_count(prompt: str) -> int:
    """Count a plain prompt's tokens, including start and end token; CLIP reads the first 77."""
    return clip.token_count(prompt, clip_tokenizer())
