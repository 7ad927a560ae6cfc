"""Samplers and schedules of noise levels by the names that people know them by.

The names are ComfyUI's, which has the two apart. A1111's are understood as well, its joint ones included ("DPM++ 2M SDE
Karras"), however capitals, spaces, underscores and plus signs are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Literal, get_args

SamplerName = Literal[
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "lms_a1111",
    "lms_comfyui",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
    "ddim",
    "ddim_a1111",
    "ddim_comfyui",
    "lcm",
    "lcm_a1111",
    "lcm_comfyui",
    "res_multistep",
    "uni_pc",
    "uni_pc_a1111",
    "uni_pc_comfyui",
    "uni_pc_bh2",
]
ScheduleName = Literal[
    "normal",
    "simple",
    "karras",
    "exponential",
    "sgm_uniform",
    "ddim_uniform",
    "beta",
    "kl_optimal",
    "align_your_steps",
    "turbo",
    "time_uniform",
]
ProgramName = Literal["a1111", "comfyui"]
PROGRAMS: Final[tuple[ProgramName, ...]] = get_args(ProgramName)
SAMPLERS: Final[tuple[SamplerName, ...]] = get_args(SamplerName)
SCHEDULES: Final[tuple[ScheduleName, ...]] = get_args(ScheduleName)

# Samplers that are another one in A1111 than in ComfyUI under the same name: a name that says the program means its
# form whatever the suite's `noise`, and the plain name becomes A1111's form where `noise` says so. A suite that is
# written out has the plain name for ComfyUI's noise only.
A1111_FORMS: Final[Mapping[SamplerName, SamplerName]] = {
    "lms": "lms_a1111",
    "ddim": "ddim_a1111",
    "lcm": "lcm_a1111",
    "uni_pc": "uni_pc_a1111",
}
COMFYUI_FORMS: Final[Mapping[SamplerName, SamplerName]] = {
    "lms": "lms_comfyui",
    "ddim": "ddim_comfyui",
    "lcm": "lcm_comfyui",
    "uni_pc": "uni_pc_comfyui",
}
# Samplers with times of their own in A1111 (modules/sd_samplers_timesteps.py), where the chosen schedule is not read.
OWN_SCHEDULES: Final[Mapping[SamplerName, ScheduleName]] = {
    "ddim_a1111": "ddim_uniform",
    "uni_pc_a1111": "time_uniform",
}

# What A1111's "Automatic" means for a sampler (modules/sd_samplers_kdiffusion.py, `scheduler` of its options), and for
# ComfyUI's LCM what its models want.
USUAL_SCHEDULES: Final[Mapping[SamplerName, ScheduleName]] = {
    "dpm_2": "karras",
    "dpm_2_ancestral": "karras",
    "dpmpp_2s_ancestral": "karras",
    "dpmpp_sde": "karras",
    "dpmpp_2m": "karras",
    "dpmpp_2m_sde": "exponential",
    "dpmpp_2m_sde_heun": "exponential",
    "dpmpp_3m_sde": "exponential",
    "ddim": "ddim_uniform",
    "ddim_comfyui": "ddim_uniform",
    "lcm": "sgm_uniform",
    "lcm_comfyui": "sgm_uniform",
    **OWN_SCHEDULES,
}

# Samplers that call the U-Net twice in every step but the last.
TWO_CALLS: Final[frozenset[SamplerName]] = frozenset(
    {"heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"}
)

# Other names, as `_letters` writes them. A1111's: "Euler a", "DPM2 a", "DPM++ 2S a", "UniPC"; InvokeAI's: "kdpm_2_a".
_MORE_SAMPLERS: Final[Mapping[str, SamplerName]] = {
    "eulera": "euler_ancestral",
    "dpm2a": "dpm_2_ancestral",
    "kdpm2": "dpm_2",
    "kdpm2a": "dpm_2_ancestral",
    "dpmpp2sa": "dpmpp_2s_ancestral",
    "dpmpp3m": "dpmpp_3m_sde",
    "a1111ddim": "ddim_a1111",
}
# "Uniform" is A1111's name of normal; "DDIM" its name of ddim_uniform. Its polyexponential levels with the usual
# exponent, 1, are the exponential ones. InvokeAI ends names in `_k` for Karras' levels; diffusers calls turbo trailing.
_MORE_SCHEDULES: Final[Mapping[str, ScheduleName]] = {
    "uniform": "normal",
    "ddim": "ddim_uniform",
    "polyexponential": "exponential",
    "k": "karras",
    "ays": "align_your_steps",
    "trailing": "turbo",
}
_AUTOMATIC: Final = frozenset({"auto", "automatic"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How an item's image is sampled from its noise."""

    sampler: SamplerName
    schedule: ScheduleName
    steps: int
    cfg: float  # guidance scale

    @property
    def is_guided(self) -> bool:
        """Whether guidance is on, so that negative prompts are read: 1 is the prompt alone, and 0 turns it off.

        Both programs would render the negative prompt alone at 0, which nobody wants; diffusers' users write 0 for off.
        """
        return self.cfg not in (0, 1)

    @property
    def calls(self) -> int:
        """How often a sampler calls the U-Net for an image: at the last of its steps once in any case."""
        return 2 * self.steps - 1 if self.sampler in TWO_CALLS else self.steps

    @property
    def prompt_steps(self) -> int:
        """The steps among which A1111 divides a prompt that changes on the way: it counts a step of two calls twice."""
        return 2 * self.steps if self.sampler in TWO_CALLS else self.steps


def usual_schedule(sampler: SamplerName) -> ScheduleName:
    """Return the schedule that A1111's "Automatic" means for a sampler."""
    return USUAL_SCHEDULES.get(sampler, "normal")


def in_program(
    sampler: SamplerName, schedule: ScheduleName | None, program: ProgramName
) -> tuple[SamplerName, ScheduleName]:
    """Return what a sampler and a schedule mean in a program.

    Args:
        schedule: None for the usual one.
    """
    if program == "comfyui" or sampler not in A1111_FORMS:
        return sampler, schedule or usual_schedule(sampler)
    form = A1111_FORMS[sampler]
    return form, OWN_SCHEDULES.get(form) or schedule or usual_schedule(form)


def read_sampler(text: str) -> tuple[SamplerName, ScheduleName | None]:
    """Read a sampler's name in any spelling, with the schedule where the name has one: "DPM++ 2M Karras".

    Returns:
        The sampler, and the schedule; None if the name says none, or "Automatic".

    Raises:
        ValueError: nothing is called so; the message has the names that are close.
    """
    letters = _without_k(_letters(text).removesuffix("gpu"))  # ComfyUI: with noise that is drawn on the card
    if letters in _SAMPLERS:
        return _SAMPLERS[letters], None
    for beginning, sampler in _SAMPLERS.items():
        rest = letters.removeprefix(beginning)
        if rest == letters:
            continue
        if rest in _SCHEDULES:
            return sampler, _SCHEDULES[rest]
        if rest in _AUTOMATIC:
            return sampler, None
    raise ValueError(_unknown("sampler", text, letters, SAMPLERS, _SAMPLERS))


def read_schedule(text: str) -> ScheduleName | None:
    """Read a schedule's name in any spelling.

    Returns:
        The schedule; None for "Automatic", which `usual_schedule` gives a meaning.

    Raises:
        ValueError: nothing is called so; the message has the names that are close.
    """
    letters = _letters(text)
    if letters in _AUTOMATIC:
        return None
    if letters not in _SCHEDULES:
        raise ValueError(_unknown("schedule", text, letters, ("auto", *SCHEDULES), _SCHEDULES))
    return _SCHEDULES[letters]


def apart(settings: Mapping[str, Any], default: SamplerName | None = None) -> dict[str, Any]:
    """Return settings as they were written, with the sampler and the schedule that a joint name of `sampler` means.

    The schedule is None for the usual one. Names that do not exist stay for the settings' own validation.

    Args:
        default: the sampler of settings that name none.

    Raises:
        ValueError: both name a schedule, and not the same.
    """
    try:
        sampler, joint = read_sampler(settings.get("sampler", default))
        schedule = None if settings.get("schedule") is None else read_schedule(settings["schedule"])
    except (TypeError, ValueError):
        return dict(settings)
    if joint is not None and schedule is not None and schedule != joint:
        msg = (
            f"the sampler {settings['sampler']!r} has the schedule {joint} in its name, and `schedule` says "
            f"{schedule}: leave one of them out"
        )
        raise ValueError(msg)
    return {**settings, "sampler": sampler, "schedule": joint or schedule}


def only_sampler(value: Any) -> Any:
    """Return the sampler of a name in any spelling; what is no text is left to the settings' validation.

    Raises:
        ValueError: as for `read_sampler`.
    """
    return read_sampler(value)[0] if isinstance(value, str) else value


def only_schedule(value: Any) -> Any:
    """Return the schedule of a name in any spelling; what is no text is left to the settings' validation.

    Raises:
        ValueError: as for `read_schedule`, or it is "auto" where no sampler is named.
    """
    if not isinstance(value, str):
        return value
    schedule = read_schedule(value)
    if schedule is None:
        msg = "auto is the usual schedule of a sampler: name the sampler beside it"
        raise ValueError(msg)
    return schedule


def _letters(text: object) -> str:
    """Return the letters and digits of a name in lower case, a plus sign as the letter p: DPM++ is dpmpp.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(text, str):
        msg = f"expected a name, got {text!r}"
        raise TypeError(msg)
    return "".join(each for each in text.casefold().replace("+", "p") if each.isalnum())


def _without_k(letters: str) -> str:
    """Return a name without the `k_` that k-diffusion's samplers once had in A1111."""
    rest = letters.removeprefix("k")
    return rest if letters not in _SAMPLERS and any(map(rest.startswith, _SAMPLERS)) else letters


def _unknown(kind: str, text: str, letters: str, names: Iterable[str], known: Mapping[str, str]) -> str:
    close = list(dict.fromkeys(known[each] for each in get_close_matches(letters, known)))
    advice = f"did you mean {' or '.join(close)}?" if close else f"use one of {', '.join(names)}"
    return f"there is no {kind} {text[:60]!r}: {advice}"


_SAMPLERS: Final[Mapping[str, SamplerName]] = {**{_letters(name): name for name in SAMPLERS}, **_MORE_SAMPLERS}
_SCHEDULES: Final[Mapping[str, ScheduleName]] = {**{_letters(name): name for name in SCHEDULES}, **_MORE_SCHEDULES}
