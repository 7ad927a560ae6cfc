"""LoRAs that a prompt of A1111 names, with their strengths: `<lora:name:0.8>`.

The arguments are those of A1111's extensions-builtin/Lora/extra_networks_lora.py: a strength for the text encoders,
then one for the U-Net, which is the same where it is left out; or `te=` and `unet=`. What extensions add is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from optimizer.errors import PromptError
from optimizer.rendering.prompts.pieces import misread
from studies.spec.a1111_prompts import LORA, Tag, tags_in, without_lora_tags

_NAMED: Final = ("te", "unet")
_BLOCKS: Final = ("lbw", "lbwe")
_OPENINGS: Final = ("<lora:", "<lyco:", "<hypernet:")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedLora:
    """A LoRA that a prompt names."""

    name: str
    unet: float  # strengths
    text: float


def loras_taken_out(prompt: str, *, negative: bool) -> tuple[str, tuple[NamedLora, ...]]:
    """Return a prompt without the tags of LoRAs, and the LoRAs.

    Args:
        prompt: without comments.
        negative: whether it is a negative prompt, in which A1111 reads no tags.

    Raises:
        PromptError: a tag is not that of a LoRA, or its arguments are not two strengths at most.
    """
    loras: dict[str, NamedLora] = {}
    for tag in tags_in(prompt):
        _refuse_other_kinds(prompt, tag, negative=negative)
        if tag.name in loras:
            raise misread(prompt, tag.start, f"the LoRA {tag.name!r} is named twice: name it once")
        loras[tag.name] = _named(prompt, tag)
    words = without_lora_tags(prompt)
    for opening in _OPENINGS:
        if opening in words.lower():
            start = words.lower().index(opening)
            raise misread(words, start, f"{opening!r} is not closed: write {opening}NAME:0.8>, or take it out")
    return words, tuple(loras.values())


def _refuse_other_kinds(prompt: str, tag: Tag, *, negative: bool) -> None:
    """Refuse what is not the tag of a LoRA, or stands where A1111 does not read it.

    Raises:
        PromptError: it is not.
    """
    if tag.kind == LORA and not negative:
        return
    if tag.kind == LORA:
        problem = "A1111 reads LoRAs in the prompt alone, not in the negative one: name it there"
    elif tag.kind.lower() == LORA:
        problem = f"A1111 knows it in small letters alone: write <lora:{tag.name}:0.8>"
    elif tag.kind.lower() == "lyco":
        problem = (
            f"if {tag.name!r} is a plain LoRA, write <lora:{tag.name}:0.8>; other kinds of LyCORIS are not applied"
        )
    else:
        problem = f"a {tag.kind} is not applied: take it out of the prompt"
    in_one_line = " ".join(f"{tag.text} is no text: {problem}".split())  # a tag may have several
    raise misread(prompt, tag.start, in_one_line)


def _named(prompt: str, tag: Tag) -> NamedLora:
    """Return a LoRA with the strengths that its arguments say.

    Raises:
        PromptError: it has no name, or arguments of another kind.
    """
    if not tag.name.strip():
        raise misread(prompt, tag.start, f"{tag.text} names no LoRA: write <lora:NAME:0.8>")
    positional = [each for each in tag.arguments if "=" not in each]
    named = dict(each.split("=", 1) for each in tag.arguments if "=" in each)
    for key in named:
        if key not in _NAMED:
            raise misread(prompt, tag.start, f"{tag.text} has `{key}=`: {_why_not(key)}")
    if len(positional) > 2:
        raise misread(prompt, tag.start, f"{tag.text} has a third number (`dyn`): {_why_not('dyn')}")
    try:
        strengths = [_strength(each) for each in positional] or [1.0]
        text = _strength(named["te"]) if "te" in named else strengths[0]
        unet = strengths[1] if len(strengths) > 1 else text
        return NamedLora(name=tag.name, unet=_strength(named["unet"]) if "unet" in named else unet, text=text)
    except PromptError as error:
        raise misread(prompt, tag.start, f"{tag.text}: {error}") from error


def _why_not(key: str) -> str:
    what = "weights of single blocks are an extension's" if key in _BLOCKS else "that is an extension's"
    return f"{what}, and not read here; write strengths alone, <lora:NAME:0.8>"


def _strength(text: str) -> float:
    """Read a strength.

    Raises:
        PromptError: it is no finite number.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PromptError(f"the strength {text!r} is no number: write one such as 0.8")
    return value
