"""What the keys of A1111's text say about a picture that a suite has no setting for.

A1111 writes most of them only where they are not the default (modules/processing.py, `create_infotext`, and `infotext=`
in modules/shared_options.py); extensions and forks have keys of their own. A key that is not known is told by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

SHOWN: Final = 8  # keys that are not known, by their names
# Keys that are read, and those that shape no picture, or whose part in it stands elsewhere in the text.
_KNOWN: Final = frozenset(
    {
        "Steps", "Sampler", "Schedule type", "Scheduler", "CFG scale", "Seed", "Size", "Clip skip", "ENSD", "RNG",
        "Emphasis", "SGM noise multiplier", "Denoising strength", "Hires upscale", "Hires resize", "Hires steps",
        "Hires upscaler", "Prompt", "Negative prompt", "Version", "User", "App",
        "Model", "Model hash", "VAE", "VAE hash", "Hashes", "Lora hashes", "TI", "TI hashes", "lora", "embed",
        "Cache FP16 weight for LoRA", "Batch size", "Batch pos", "Template", "Negative Template", "Wildcard prompt",
        "Wildcard negative prompt", "Civitai resources", "Civitai metadata", "Created Date", "Time taken", "Backend",
        "Sampler options", "Hashes version",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Way:
    """Something that shapes a picture."""

    name: str
    defaults: tuple[str, ...] = ()  # values with which it shapes none; numbers are compared as such


def _unless(*defaults: str, name: str) -> _Way:
    return _Way(name=name, defaults=defaults)


_SECOND: Final = "the second pass's own"
_LEVELS: Final = _unless("0", name="its own noise levels")
_UNIPC: Final = "its own UniPC"
# Beginning of a key -> what it says; the first that fits counts.
_WAYS: Final[Mapping[str, _Way]] = {
    "Hires CFG Scale": _Way(name=f"{_SECOND} CFG"),
    "Hires prompt": _Way(name=f"{_SECOND} prompt"),
    "Hires negative prompt": _Way(name=f"{_SECOND} negative prompt"),
    "Hires sampler": _unless("Use same sampler", name=f"{_SECOND} sampler"),
    "Hires schedule type": _unless("Use same scheduler", name=f"{_SECOND} schedule"),
    "Hires checkpoint": _unless("Use same checkpoint", name=f"{_SECOND} checkpoint"),
    "Hires Module": _unless("Use same choices", "Built-in", name=f"{_SECOND} modules"),
    "Hires": _Way(name=f"{_SECOND} settings"),
    "First pass size": _Way(name="hires fix (the first pass alone is rendered)"),
    "Refiner": _Way(name="the refiner"),
    "ADetailer": _Way(name="ADetailer"),
    "ControlNet": _Way(name="ControlNet"),
    "Regional Prompter": _Way(name="regional prompts"),
    "RP ": _Way(name="regional prompts"),
    "Latent Couple": _Way(name="regional prompts"),
    "Face restoration": _Way(name="face restoration"),
    "Variation seed": _Way(name="variation seeds"),
    "Seed resize from": _Way(name="seed resizing"),
    "Tiling": _Way(name="tiling"),
    "FreeU": _Way(name="FreeU"),
    "freeu": _Way(name="FreeU"),
    "Dynamic thresholding": _Way(name="dynamic thresholding"),
    "Mimic": _Way(name="dynamic thresholding"),
    "CFG Rescale": _unless("0", name="its CFG rescale (see `cfg_rescale` of a suite)"),
    "PAG ": _Way(name="perturbed-attention guidance (see `pag` of a suite)"),
    "pagi_": _Way(name="perturbed-attention guidance (see `pag` of a suite)"),
    "Token merging": _unless("0", name="token merging"),
    "Hypertile": _Way(name="HyperTile"),
    "Hypernet": _Way(name="a hypernetwork"),
    "AddNet": _Way(name="LoRAs of Additional Networks (see `loras` of a suite)"),
    "Aesthetic": _Way(name="aesthetic gradients"),
    "Script": _Way(name="a script"),
    "Extra noise": _unless("0", name="extra noise"),
    "Noise multiplier": _unless("1", name="multiplied noise"),
    "Image CFG scale": _Way(name="guidance by an image"),
    "Conditional mask weight": _unless("1", name="the weight of its mask"),
    "Discard penultimate sigma": _Way(name="a level that is left out"),
    "Noise Schedule": _unless("Default", name="its noise schedule (see `zero_snr` of a suite)"),
    "Downcast alphas_cumprod": _Way(name="levels in half precision (Downcast alphas_cumprod)"),
    "Schedule rho": _LEVELS,
    "Schedule max sigma": _LEVELS,
    "Schedule min sigma": _LEVELS,
    "Beta schedule": _unless("0.6", name="its own levels of the schedule Beta"),
    "Use old karras": _Way(name="its own noise levels"),
    "Sigma noise": _unless("1", name="its churn (sigma churn, tmin, tmax, noise)"),
    "Sigma tmax": _unless("0", "999", "inf", name="its churn (sigma churn, tmin, tmax, noise)"),
    "Sigma ": _unless("0", name="its churn (sigma churn, tmin, tmax, noise)"),
    "Eta DDIM": _unless("0", name="its eta"),
    "Eta": _Way(name="its eta"),
    "UniPC variant": _unless("bh1", name=_UNIPC),
    "UniPC order": _unless("3", name=_UNIPC),
    "UniPC skip type": _unless("time_uniform", name=_UNIPC),
    "UniPC lower order final": _unless("True", name=_UNIPC),
    "NGMS": _unless("0", name="steps without the negative prompt (NGMS)"),
    "Skip Early CFG": _unless("0", name="early steps without guidance"),
    "Pad conds": _Way(name="padded prompts"),
    "Old prompt editing timelines": _Way(name="prompt editing as before A1111 1.6"),
    "Use old emphasis implementation": _Way(name="its old way of emphasis"),
    "FP8 weight": _unless("Disable", name="weights in 8 bits"),
    "VAE Decoder": _unless("Full", name="a decoder in place of the VAE's"),
    "VAE Encoder": _unless("Full", name="an encoder in place of the VAE's"),
}


def notes_of_ways(pairs: Mapping[str, str]) -> Iterator[str]:
    """Yield a note of what cannot be repeated, if there is something.

    Args:
        pairs: key -> value of the line of settings.
    """
    told = [
        way.name
        for key in pairs
        if (way := _way(key)) is not None and not _is_off(pairs[key], way) and not _is_the_firsts(key, pairs)
    ]
    if told:
        yield f"not repeated: {', '.join(dict.fromkeys(told))}"


def notes_of_unknown(pairs: Mapping[str, str]) -> Iterator[str]:
    """Yield a note of the keys that are not known, if there are some.

    Args:
        pairs: as for `notes_of_ways`.
    """
    unknown = [key for key in pairs if key not in _KNOWN and _way(key) is None]
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        yield f"settings that are not known here, and so not repeated: {', '.join(unknown[:SHOWN])}{more}"


def _is_the_firsts(key: str, pairs: Mapping[str, str]) -> bool:
    """Return whether a setting of the second pass has the value that the first pass's has."""
    firsts = {"Hires CFG Scale": "CFG scale", "Hires sampler": "Sampler", "Hires schedule type": "Schedule type"}
    return key in firsts and pairs[key] == pairs.get(firsts[key])


def _way(key: str) -> _Way | None:
    if key in _KNOWN:
        return None
    return next((way for beginning, way in _WAYS.items() if key.startswith(beginning)), None)


def _is_off(value: str, way: _Way) -> bool:
    """Return whether a value is one with which nothing differs from the usual."""
    if value in way.defaults or (value == "False" and "True" not in way.defaults):
        return True
    try:
        return float(value) in {float(each) for each in way.defaults}
    except ValueError:
        return False
