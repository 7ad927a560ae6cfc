"""The settings of NovelAI: the JSON text `Comment` beside the prompt as `Description` and the model as `Source`.

Its weights are brackets: {x} weighs 1.05, [x] 1 / 1.05, one within another multiplies, and since version 4 1.5::x::
weighs 1.5. Round brackets are text. Prompts are written as A1111 writes them. No other program
has this grammar, so its brackets are paired here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from studies.spec.published.settings import PublishedError, RawSettings

FACTOR: Final = 1.05
DEPTH: Final = 50  # brackets in each other
TEXT_TO_IMAGE: Final = "PromptGenerateRequest"
ITS_CLIP_SKIP: Final = 2  # and its ENSD, as A1111 reads NovelAI's pictures (modules/images.py, `read_info_from_image`)
ITS_ENSD: Final = 31337
_CLOSING: Final = {"}": "{", "]": "["}
_FACTORS: Final = {"{": FACTOR, "[": 1 / FACTOR}
_SIGNS: Final = re.compile(r"(?:(?<![\w.])(?P<weight>-?\d{1,3}(?:\.\d{0,6})?|-?\.\d{1,6}))?::|[{}\[\]]")
_ESCAPED: Final = re.compile(r"[()\[\]\\]")
_SCHEDULES: Final = {"native": "normal"}


def parse_novelai(texts: Mapping[str, Any], comment: Any, size: tuple[int, int]) -> RawSettings:
    """Read the texts of a picture.

    Args:
        comment: the parsed `Comment`.
        size: of the picture in pixels, width and height, which old ones do not name.

    Raises:
        PublishedError: the settings are no object, the picture was made from another one, or a prompt cannot be read.
    """
    if not isinstance(comment, Mapping):
        raise PublishedError("NovelAI's settings are not a JSON object")
    if str(comment.get("request_type", TEXT_TO_IMAGE)) != TEXT_TO_IMAGE:
        raise PublishedError(f"it was made by {str(comment['request_type'])[:40]}, and only {TEXT_TO_IMAGE} is read")
    sampler, schedule = str(comment.get("sampler", "")), str(comment.get("noise_schedule") or "native")
    source = str(texts.get("Source", ""))
    is_sd1 = source.startswith("Stable Diffusion") and not source.startswith("Stable Diffusion XL")
    return RawSettings(
        made_by="NovelAI",
        syntax="a1111",
        prompt=with_weights(comment.get("prompt", texts.get("Description")), "prompt"),
        negative=with_weights(comment.get("uc") or "", "negative prompt"),
        seed=comment.get("seed"),
        width=comment.get("width") or size[0],
        height=comment.get("height") or size[1],
        steps=comment.get("steps"),
        cfg=comment.get("scale"),
        sampler=sampler.removesuffix("_v3"),
        schedule=None if sampler.startswith("ddim") else _SCHEDULES.get(schedule, schedule),
        clip_skip=ITS_CLIP_SKIP,
        ensd=ITS_ENSD if is_sd1 else None,
        notes=tuple(_notes(comment)),
    )


def _notes(comment: Mapping[str, Any]) -> Iterator[str]:
    yield "NovelAI's models and samplers are its own: the picture cannot be repeated exactly"
    used = {
        "sm": "SMEA",
        "sm_dyn": "dynamic SMEA",
        "dynamic_thresholding": "dynamic thresholding",
        "cfg_rescale": "CFG rescaling",
        "skip_cfg_below_sigma": "late steps without guidance",
        "skip_cfg_above_sigma": "early steps without guidance",
        "controlnet_model": "ControlNet",
        "reference_strength": "vibe transfer",
        "reference_strength_multiple": "vibe transfer",
        "reference_information_extracted_multiple": "vibe transfer",
        "lora_unet_weights": "LoRAs",
        "director_reference_descriptions": "a reference picture",
    }
    found = [what for key, what in used.items() if comment.get(key)]
    if comment.get("uncond_scale") not in (None, 1):
        found.append("the strength of its negative prompt (uncond_scale)")
    if any(map(_has_characters, (comment.get("v4_prompt"), comment.get("v4_negative_prompt")))):
        found.append("the prompts of its characters")
    if found:
        yield f"not repeated: {', '.join(dict.fromkeys(found))}"


def _has_characters(prompt: Any) -> bool:
    caption = prompt.get("caption") if isinstance(prompt, Mapping) else None
    characters = caption.get("char_captions") if isinstance(caption, Mapping) else None
    return isinstance(characters, list) and any(
        isinstance(each, Mapping) and bool(each.get("char_caption")) for each in characters
    )


def with_weights(prompt: Any, what: str) -> Any:
    """Return a prompt of NovelAI with its weights as A1111 writes them; what is no text is left to who checks it.

    Args:
        what: it is, for messages.

    Raises:
        PublishedError: brackets do not fit together, or it has a sign that cannot be written so: a bar, which mixes
            prompts, or a #, which begins a comment in A1111.
    """
    if not isinstance(prompt, str):
        return prompt
    if "|" in prompt:
        raise PublishedError(f"its {what} mixes several with a |, which is not repeated")
    if "#" in prompt:
        raise PublishedError(f"its {what} has a #, after which A1111's syntax reads nothing: copy it without")
    parts: list[str] = []
    opened: list[str] = []
    number, place = 1.0, 0
    for sign in _SIGNS.finditer(prompt):
        parts.append(_weighted(prompt[place : sign.start()], opened, number))
        place = sign.end()
        if sign[0].endswith("::"):
            number = 1.0 if sign["weight"] is None else float(sign["weight"])
        elif sign[0] in _FACTORS:
            opened.append(sign[0])
        elif not opened or opened.pop() != _CLOSING[sign[0]]:
            raise _unreadable(what, f"{sign[0]} at character {sign.start() + 1} closes nothing")
        if len(opened) > DEPTH:
            raise _unreadable(what, f"more than {DEPTH} brackets stand in each other")
    if opened:
        raise _unreadable(what, f"{opened[-1]} is not closed")
    return "".join([*parts, _weighted(prompt[place:], opened, number)])


def _unreadable(what: str, problem: str) -> PublishedError:
    return PublishedError(f"NovelAI's brackets in its {what} do not fit together: {problem}")


def _weighted(text: str, opened: list[str], number: float) -> str:
    """Return a text with the weight that the brackets around it make; spaces and commas at its ends have none.

    Args:
        opened: the brackets that stand around it.
        number: the weight that is written before it.
    """
    escaped = _ESCAPED.sub(lambda found: f"\\{found[0]}", text)
    weight = number
    for bracket in opened:
        weight *= _FACTORS[bracket]
    inner = escaped.strip(" ,\n")
    if not inner or weight == 1:
        return escaped
    before, after = escaped.split(inner, 1)
    return f"{before}({inner}:{f'{weight:.4f}'.rstrip('0').rstrip('.')}){after}"
