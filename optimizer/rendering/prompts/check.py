"""The prompts of a study's suites read before anything is loaded, and what the user should know about them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from basics.messages import counted
from basics.texts import shortened
from optimizer.families.clip_tokens import CONTEXT, clip_tokenizer
from optimizer.families.registry import model_family
from optimizer.rendering.prediction import Prediction
from optimizer.rendering.prompts.editing import holding_at, unreached
from optimizer.rendering.prompts.reading import PromptReader, Reading
from optimizer.rendering.sampling.second_pass import calls_of_passes
from scorers.networks.clip import tokenizer
from search_spaces.blocks import Architecture
from search_spaces.slots import beyond_usual
from studies.spec.a1111_prompts import like_a_lora_tag, tags_in, without_comments, without_lora_tags
from studies.spec.pag import NO_PAG
from studies.spec.samplers import SAMPLER_INFOS, Sampling
from studies.spec.suite import SuiteSettings, Syntax

# What one program gives a meaning and the other reads as words.
_BREAK = re.compile(r"\bBREAK\b")
_SIGNS = re.compile(r"[\[\]:|]")
_ONLY_COMFYUI = re.compile(r"\bembedding:\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPrompt:
    """A prompt as a pass reads it."""

    reading: Reading
    calls: int  # of the U-Net for an image
    calls_in_step: int  # but for a step to level 0
    is_second: bool = False  # whether the pass is the second

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
    positive: dict[tuple[str, Sampling], tuple[ReadPrompt, ...]] = {}
    negative: dict[tuple[str, Sampling], tuple[ReadPrompt, ...]] = {}
    for suite in suites:
        reader = PromptReader(suite, model_family(architecture), widths)
        for item in suite.items():
            calls = calls_of_passes(item.sampling, prediction, suite.program)
            for read, text, is_negative in ((positive, item.prompt, False), (negative, item.negative, True)):
                key = (text, _alike(item.sampling))
                if key not in read:
                    read[key] = _passes(text, item.sampling, reader, calls, negative=is_negative)
    syntax = suites[0].syntax
    texts = dict.fromkeys(text for text, _ in (*positive, *negative))
    notes = [note for text in texts for note in notes_of(text, syntax)]
    if syntax == "a1111":
        for read in (positive, negative):
            notes += [note for (text, sampling), passes in read.items() for note in _unreached(text, sampling, passes)]
    return SuitePrompts(
        syntax=syntax,
        positive=_shown(positive.values()),
        negative=_shown(negative.values()),
        notes=tuple(dict.fromkeys(notes)),
        slips=(
            *(slip for text in texts for slip in _unread_loras(text, syntax)),
            *_unusual_strengths(suites[0], (passes[0].reading for passes in positive.values())),
        ),
    )


def _alike(sampling: Sampling) -> Sampling:
    """Return a sampling with which prompts are read alike: what else it says is left out."""
    hires = sampling.hires.model_copy(update={"scale": 1, "upscaler": "latent"})
    return replace(sampling, cfg=1, cfg_rescale=0, pag=NO_PAG, hires=hires)


def _passes(
    text: str, sampling: Sampling, reader: PromptReader, calls: Sequence[int], *, negative: bool
) -> tuple[ReadPrompt, ...]:
    """Return a prompt as each pass reads it.

    Args:
        calls: of the U-Net in each pass.

    Raises:
        PromptError: it cannot be read, or names an embedding that cannot be used.
    """
    in_step, steps, second = SAMPLER_INFOS[sampling.sampler].calls, sampling.prompt_steps, sampling.second
    readings = [reader.read(text, steps, negative=negative)]
    if second is not None:
        readings.append(reader.read(text, second.prompt_steps, negative=negative, before=steps))
    return tuple(
        ReadPrompt(reading=reading, calls=made, calls_in_step=in_step, is_second=place > 0)
        for place, (reading, made) in enumerate(zip(readings, calls, strict=True))
    )


def _shown(read: Iterable[Sequence[ReadPrompt]]) -> tuple[ReadPrompt, ...]:
    """Return each prompt as it is read, once; the second pass only where it stands for other texts than the first."""
    found: dict[tuple[str, ReadPrompt], None] = {}
    for first, *others in read:
        texts = {text for each in (first, *others) for text in each.reading.texts}
        for each in (first, *others) if len(texts) > 1 else (first,):
            found[each.reading.prompt, each] = None
    return tuple(each for _, each in found)


def _unread_loras(text: str, syntax: Syntax) -> Iterator[str]:
    """Yield a line for a prompt with a LoRA in a syntax that has none."""
    if syntax != "a1111" and (found := like_a_lora_tag(text)) is not None:
        program = "ComfyUI has no such tag" if syntax == "comfyui" else "a plain prompt has no tags"
        yield (
            f"the prompt {shortened(text, 40)!r} has {found!r}: {program}, and would read it as words; take it out "
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


def _unreached(text: str, sampling: Sampling, passes: Sequence[ReadPrompt]) -> Iterator[str]:
    """Yield a note for each edit that comes after the last call of every pass.

    Args:
        passes: the text as each of them reads it.
    """
    written, steps = without_lora_tags(without_comments(text)), sampling.prompt_steps
    first, *others = passes
    late = unreached(written, steps, first.calls)
    if sampling.second is not None:
        (second,) = others
        later = unreached(written, sampling.second.prompt_steps, second.calls, before=steps)
        late = tuple(edit for edit in late if edit in later)
    number = sum(math.ceil(each.calls / each.calls_in_step) for each in passes)
    for edit in late:
        yield (
            f"the prompt {shortened(text, 40)!r} has {shortened(edit, 60)!r}, which never changes in "
            f"{counted(number, 'step')}: write a lower number of steps, or a share such as 0.5"
        )


def _only_a1111(text: str) -> str | None:
    """Return the first BREAK, else the first tag or changing text; None if there is none."""
    if found := _BREAK.search(text):
        return found[0]
    return next((tag.text for tag in tags_in(text)), None) or _changing(text)


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
    return tokenizer.token_count(prompt, clip_tokenizer())
