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
class _Unrepeated:
    """Something that shapes a picture and that a suite does not repeat."""

    name: str
    defaults: tuple[str, ...] = ()  # values with which it shapes none; numbers are compared as such


def _unless(*defaults: str, name: str) -> _Unrepeated:
    return _Unrepeated(name=name, defaults=defaults)


_SECOND: Final = "the second pass's own"
_LEVELS: Final = _unless("0", name="its own noise levels")
_UNIPC: Final = "its own UniPC"
# Beginning of a key -> what it says; the first that fits counts.
_UNREPEATED: Final[Mapping[str, _Unrepeated]] = {
    "Hires CFG Scale": _Unrepeated(name=f"{_SECOND} CFG"),
    "Hires prompt": _Unrepeated(name=f"{_SECOND} prompt"),
    "Hires negative prompt": _Unrepeated(name=f"{_SECOND} negative prompt"),
    "Hires sampler": _unless("Use same sampler", name=f"{_SECOND} sampler"),
    "Hires schedule type": _unless("Use same scheduler", name=f"{_SECOND} schedule"),
    "Hires checkpoint": _unless("Use same checkpoint", name=f"{_SECOND} checkpoint"),
    "Hires Module": _unless("Use same choices", "Built-in", name=f"{_SECOND} modules"),
    "Hires": _Unrepeated(name=f"{_SECOND} settings"),
    "First pass size": _Unrepeated(name="hires fix (the first pass alone is rendered)"),
    "Refiner": _Unrepeated(name="the refiner"),
    "ADetailer": _Unrepeated(name="ADetailer"),
    "ControlNet": _Unrepeated(name="ControlNet"),
    "Regional Prompter": _Unrepeated(name="regional prompts"),
    "RP ": _Unrepeated(name="regional prompts"),
    "Latent Couple": _Unrepeated(name="regional prompts"),
    "Face restoration": _Unrepeated(name="face restoration"),
    "Variation seed": _Unrepeated(name="variation seeds"),
    "Seed resize from": _Unrepeated(name="seed resizing"),
    "Tiling": _Unrepeated(name="tiling"),
    "FreeU": _Unrepeated(name="FreeU"),
    "freeu": _Unrepeated(name="FreeU"),
    "Dynamic thresholding": _Unrepeated(name="dynamic thresholding"),
    "Mimic": _Unrepeated(name="dynamic thresholding"),
    "CFG Rescale": _unless("0", name="its CFG rescale (see `cfg_rescale` of a suite)"),
    "PAG ": _Unrepeated(name="perturbed-attention guidance (see `pag` of a suite)"),
    "pagi_": _Unrepeated(name="perturbed-attention guidance (see `pag` of a suite)"),
    "Token merging": _unless("0", name="token merging"),
    "Hypertile": _Unrepeated(name="HyperTile"),
    "Hypernet": _Unrepeated(name="a hypernetwork"),
    "AddNet": _Unrepeated(name="LoRAs of Additional Networks (see `loras` of a suite)"),
    "Aesthetic": _Unrepeated(name="aesthetic gradients"),
    "Script": _Unrepeated(name="a script"),
    "Extra noise": _unless("0", name="extra noise"),
    "Noise multiplier": _unless("1", name="multiplied noise"),
    "Image CFG scale": _Unrepeated(name="guidance by an image"),
    "Conditional mask weight": _unless("1", name="the weight of its mask"),
    "Discard penultimate sigma": _Unrepeated(name="a level that is left out"),
    "Noise Schedule": _unless("Default", name="its noise schedule (see `zero_snr` of a suite)"),
    "Downcast alphas_cumprod": _Unrepeated(name="levels in half precision (Downcast alphas_cumprod)"),
    "Schedule rho": _LEVELS,
    "Schedule max sigma": _LEVELS,
    "Schedule min sigma": _LEVELS,
    "Beta schedule": _unless("0.6", name="its own levels of the schedule Beta"),
    "Use old karras": _Unrepeated(name="its own noise levels"),
    "Sigma noise": _unless("1", name="its churn (sigma churn, tmin, tmax, noise)"),
    "Sigma tmax": _unless("0", "999", "inf", name="its churn (sigma churn, tmin, tmax, noise)"),
    "Sigma ": _unless("0", name="its churn (sigma churn, tmin, tmax, noise)"),
    "Eta DDIM": _unless("0", name="its eta"),
    "Eta": _Unrepeated(name="its eta"),
    "UniPC variant": _unless("bh1", name=_UNIPC),
    "UniPC order": _unless("3", name=_UNIPC),
    "UniPC skip type": _unless("time_uniform", name=_UNIPC),
    "UniPC lower order final": _unless("True", name=_UNIPC),
    "NGMS": _unless("0", name="steps without the negative prompt (NGMS)"),
    "Skip Early CFG": _unless("0", name="early steps without guidance"),
    "Pad conds": _Unrepeated(name="padded prompts"),
    "Old prompt editing timelines": _Unrepeated(name="prompt editing as before A1111 1.6"),
    "Use old emphasis implementation": _Unrepeated(name="its old way of emphasis"),
    "FP8 weight": _unless("Disable", name="weights in 8 bits"),
    "VAE Decoder": _unless("Full", name="a decoder in place of the VAE's"),
    "VAE Encoder": _unless("Full", name="an encoder in place of the VAE's"),
}


def notes_of_unrepeated(pairs: Mapping[str, str]) -> Iterator[str]:
    """Yield a note of what cannot be repeated, if there is something.

    Args:
        pairs: key -> value of the line of settings.
    """
    told = [
        found.name
        for key in pairs
        if (found := _unrepeated(key)) is not None and not _is_off(pairs[key], found) and not _is_the_firsts(key, pairs)
    ]
    if told:
        yield f"not repeated: {', '.join(dict.fromkeys(told))}"


def notes_of_unknown(pairs: Mapping[str, str]) -> Iterator[str]:
    """Yield a note of the keys that are not known, if there are some.

    Args:
        pairs: as for `notes_of_unrepeated`.
    """
    unknown = [key for key in pairs if key not in _KNOWN and _unrepeated(key) is None]
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        yield f"settings that are not known here, and so not repeated: {', '.join(unknown[:SHOWN])}{more}"


def _is_the_firsts(key: str, pairs: Mapping[str, str]) -> bool:
    """Return whether a setting of the second pass has the value that the first pass's has."""
    firsts = {"Hires CFG Scale": "CFG scale", "Hires sampler": "Sampler", "Hires schedule type": "Schedule type"}
    return key in firsts and pairs[key] == pairs.get(firsts[key])


def _unrepeated(key: str) -> _Unrepeated | None:
    if key in _KNOWN:
        return None
    return next((found for beginning, found in _UNREPEATED.items() if key.startswith(beginning)), None)


def _is_off(value: str, found: _Unrepeated) -> bool:
    """Return whether a value is one with which nothing differs from the usual."""
    if value in found.defaults or (value == "False" and "True" not in found.defaults):
        return True
    try:
        return float(value) in {float(each) for each in found.defaults}
    except ValueError:
        return False
