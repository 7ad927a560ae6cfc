"""Words and short forms of other programs in a spec: keys with other names, values in other spellings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final, get_args

IMAGES: Final = "write several `seeds`: each is an image of every prompt"
PICTURES: Final = "write a picture as a prompt, `prompts: [image: FILE]`, and for more images more `seeds`"
LORAS: Final = "LoRAs on top of every render stand under `loras` of the suite, those of the merge beside `suite`"
MODELS: Final = "name checkpoints under `parents` of the study, beside `suite`"
NOT_HERE: Final = "there is no such step here: an image is rendered, and once more at a larger size with `hires`"

# Keys of A1111's, ComfyUI's, InvokeAI's and diffusers' settings -> ours, or what to do; in lower case without signs.
_RENDERING: Final[Mapping[str, str]] = {
    **dict.fromkeys(("cfgscale", "guidancescale", "guidance", "scale", "cfgs"), "cfg"),
    **dict.fromkeys(("samplername", "samplerindex", "samplingmethod", "method"), "sampler"),
    **dict.fromkeys(
        ("scheduler", "schedulername", "scheduletype", "noiseschedule", "noisescheduler", "sigmas"), "schedule"
    ),
    **dict.fromkeys(("negativeprompt", "negativeprompts", "negatives", "neg", "uncond"), "negative"),
    **dict.fromkeys(("size", "resolution", "resolutions", "dimensions"), "sizes"),
    **dict.fromkeys(("width", "height"), "write `sizes: [512x768]`, the width first"),
    **dict.fromkeys(("seed", "noiseseed"), "seeds"),
    **dict.fromkeys(("step", "numinferencesteps", "samplingsteps", "numsteps"), "steps"),
    **dict.fromkeys(
        ("clipskips", "clipstopatlastlayers", "clipstopatlayer", "stopatcliplayer", "cliplayer", "skip"), "clip_skip"
    ),
    **dict.fromkeys(
        (
            "batch",
            "batchsize",
            "batchcount",
            "batches",
            "niter",
            "nsamples",
            "numimages",
            "numimagesperprompt",
            "count",
        ),
        IMAGES,
    ),
    **dict.fromkeys(("lora", "lycoris"), LORAS),
    **dict.fromkeys(("model", "models", "modelname", "checkpoint", "checkpoints", "ckptname", "sdmodel"), MODELS),
    **dict.fromkeys(("hiresfix", "highresfix", "enablehr", "upscale", "hiresupscale"), "hires"),
    **dict.fromkeys(("denoise", "denoisingstrength"), "it is `denoise` of `hires: {scale: 2, denoise: 0.5}`"),
    **dict.fromkeys(("refiner", "adetailer"), NOT_HERE),
}
SUITE_WORDS: Final[Mapping[str, str]] = {
    **_RENDERING,
    **dict.fromkeys(("prompt", "positive", "positiveprompt", "text", "texts"), "prompts"),
    **dict.fromkeys(("image", "images", "picture", "pictures"), PICTURES),
    "etanoiseseeddelta": "ensd",
    **dict.fromkeys(("embedding", "textualinversion", "textualinversions"), "embeddings"),
    **dict.fromkeys(("wildcard", "wildcardsfolder"), "wildcards"),
    **dict.fromkeys(("noise", "rng"), "program"),
    "predictiontype": "prediction",
    "parameterization": "prediction",
    "rescalebetaszerosnr": "zero_snr",
    "ztsnr": "zero_snr",
}
PROMPT_WORDS: Final[Mapping[str, str]] = {
    **_RENDERING,
    **dict.fromkeys(("images", "picture", "pictures", "png", "file"), "image"),
    **dict.fromkeys(("prompts", "positive", "positiveprompt", "text"), "prompt"),
    **dict.fromkeys(("exclude", "skipscorers", "withoutscorers"), "without"),
    **dict.fromkeys(("groups", "promptgroup"), "group"),
}
STUDY_WORDS: Final[Mapping[str, str]] = {
    "name": "study",
    **dict.fromkeys(("model", "models", "checkpoint", "checkpoints"), "parents"),
    **dict.fromkeys(("lora", "lycoris"), "loras"),
    "scorer": "scorers",
    "rounds": "only `mergetune bracket` reads `rounds`: take them out of a study's spec",
}
_PROGRAMS: Final[Mapping[str, str]] = {
    "automatic1111": "a1111",
    "webui": "a1111",
    "automatic": "a1111",
    "comfy": "comfyui",
}
_ALIKE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("forge", "reforge", "forgeneo", "sdnext", "vladmandic"), "a1111"),
    **dict.fromkeys(("swarmui", "swarm"), "comfyui"),
}
_SIZE: Final = re.compile(r"\s*(\d{1,5})\s*[xX×*]\s*(\d{1,5})\s*")


def letters(text: str) -> str:
    """Return the letters and digits of a word in lower case."""
    return "".join(each for each in text.casefold() if each.isalnum())


def as_named(value: Any, names: Any) -> Any:
    """Return a name as the program writes it, whatever its capitals and signs; what is no text stays.

    Args:
        names: a Literal of those that there are.

    Raises:
        ValueError: none is called so; the message has what to write.
    """
    known = {letters(name): name for name in get_args(names)}
    if not isinstance(value, str) or value in known.values():
        return value
    word = _PROGRAMS.get(letters(value), letters(value))
    if word in known:
        return known[word]
    like = known.get(_ALIKE.get(word, ""))
    if like is not None:
        msg = f"{value[:60]!r} is not known here: write {like}, which comes closest to it"
        raise ValueError(msg)
    close = get_close_matches(word, known, n=1)
    meant = f"did you mean {known[close[0]]}?" if close else f"use one of {', '.join(known.values())}"
    msg = f"there is no {value[:60]!r}: {meant}"
    raise ValueError(msg)


def as_list(value: Any) -> Any:
    """Return a list of the one value that stands in place of a list; nothing, and a mapping, is no value."""
    return (value,) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value


def as_size(value: Any) -> Any:
    """Return width and height of a number, which means a square, and of a text such as 512x768.

    Raises:
        ValueError: a text is no size.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return value
    if isinstance(value, int):
        return value, value
    if (found := _SIZE.fullmatch(value)) is None:
        msg = "write a size as 512x768, as [512, 768], or as 512 for a square"
        raise ValueError(msg)
    return int(found[1]), int(found[2])
