"""Samplers and schedules of noise levels by the names that people know them by.

The names are ComfyUI's, which has the two apart. A1111's are understood as well, its joint ones included ("DPM++ 2M SDE
Karras"), however capitals, spaces, underscores and plus signs are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final, Literal, get_args

from studies.spec.guidance import NO_PAG, PagSettings
from studies.spec.hires import NO_HIRES, HiresSettings

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
# form whatever the suite's `noise`, and the plain name becomes A1111's form where `noise` says so. So the suites that
# studies store have a plain name with ComfyUI's noise only. It stays there, and means ComfyUI's form, because studies
# that began before there were two forms have stored it and must render the same.
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

# Samplers of A1111, Forge, ComfyUI and InvokeAI that are not offered, as `_letters` writes them -> the one that comes
# closest: by its method, or the one that it changes.
NOT_OFFERED: Final[Mapping[str, SamplerName]] = {
    "dpmfast": "dpmpp_2m",
    "dpmadaptive": "dpmpp_2m",
    "restart": "heun",
    "heunpp2": "heun",
    "expheun2x0": "heun",
    "expheun2x0sde": "dpmpp_sde",
    "ddpm": "euler_ancestral",
    "ipndm": "lms",
    "ipndmv": "lms",
    "pndm": "lms",
    "plms": "lms",
    "deis": "dpmpp_2m",
    "tcd": "lcm",
    "gradientestimation": "euler",
    "gradientestimationcfgpp": "euler",
    "ersde": "dpmpp_3m_sde",
    "seeds2": "dpmpp_sde",
    "seeds3": "dpmpp_3m_sde",
    "sasolver": "dpmpp_2m_sde",
    "sasolverpece": "dpmpp_2m_sde",
    "resmultistepancestral": "res_multistep",
    "resmultistepancestralcfgpp": "res_multistep",
    "resmultistepcfgpp": "res_multistep",
    "eulercfgpp": "euler",
    "eulerancestralcfgpp": "euler_ancestral",
    "euleracfgpp": "euler_ancestral",
    "eulerdy": "euler",
    "eulersmeady": "euler",
    "dpmpp2mcfgpp": "dpmpp_2m",
    "dpmpp2sancestralcfgpp": "dpmpp_2s_ancestral",
    "ddimcfgpp": "ddim",
}
SCHEDULES_NOT_OFFERED: Final[Mapping[str, ScheduleName]] = {
    "linearquadratic": "simple",
    "alignyourstepsgits": "align_your_steps",
    "gits": "align_your_steps",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How an item's image is sampled from its noise."""

    sampler: SamplerName
    schedule: ScheduleName
    steps: int
    cfg: float  # guidance scale
    cfg_rescale: float = 0.0  # share of the guided output that gets the deviation of the prompt's own
    pag: PagSettings = NO_PAG
    hires: HiresSettings = NO_HIRES  # its steps are given where it is on

    @property
    def second(self) -> Sampling | None:
        """How the second pass is sampled, by itself; None if there is none."""
        if not self.hires.is_on:
            return None
        return replace(self, steps=self.hires.steps or self.steps, hires=NO_HIRES)

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
    letters = _without_k(_letters(text).replace("gpu", ""))  # ComfyUI: with noise that is drawn on the card
    if letters in _SCHEDULES and letters not in _SAMPLERS:
        schedule = _SCHEDULES[letters]
        msg = f"{text!r} is a schedule: write it as `schedule: {schedule}`, and a sampler as `sampler`"
        raise ValueError(msg)
    for sampler, rest in _divided(letters, _SAMPLERS):
        if rest in _SCHEDULES or not rest or rest in _AUTOMATIC:
            return sampler, _SCHEDULES.get(rest)
    raise ValueError(_unknown_sampler(text, letters))


def is_sampler(text: str) -> bool:
    """Return whether a text is a sampler's name in some spelling."""
    try:
        read_sampler(text)
    except ValueError:
        return False
    return True


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
    if letters in _SCHEDULES:
        return _SCHEDULES[letters]
    if letters in _SAMPLERS:
        msg = f"{text!r} is a sampler: write it as `sampler: {_SAMPLERS[letters]}`, and a schedule as `schedule`"
        raise ValueError(msg)
    if letters in SCHEDULES_NOT_OFFERED:
        close = SCHEDULES_NOT_OFFERED[letters]
        msg = f"the schedule {text!r} is not supported: {close} comes closest to it; {_LIST}"
        raise ValueError(msg)
    raise ValueError(f"there is no schedule {text[:60]!r}: {_advice(letters, _SCHEDULES)}")


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
    known = {**_SAMPLERS, **NOT_OFFERED}
    return rest if letters not in known and any(map(rest.startswith, known)) else letters


def _divided(letters: str, names: Mapping[str, SamplerName]) -> list[tuple[SamplerName, str]]:
    """Return the samplers with which a name begins, the longest first, each with what follows it."""
    beginnings = sorted(filter(letters.startswith, names), key=len, reverse=True)
    return [(names[beginning], letters.removeprefix(beginning)) for beginning in beginnings]


def _unknown_sampler(text: str, letters: str) -> str:
    """Return the message for a name that no sampler has: what of it is wrong, and what is close."""
    for close, rest in _divided(letters, NOT_OFFERED):
        if rest in _SCHEDULES or not rest or rest in _AUTOMATIC:
            return f"the sampler {text[:60]!r} is not supported: {close} comes closest to it; {_LIST}"
    for sampler, rest in _divided(letters, _SAMPLERS):
        if _close(rest, _SCHEDULES):
            return f"{text[:60]!r} is {sampler} with a schedule {rest!r} that there is not: {_advice(rest, _SCHEDULES)}"
    return f"there is no sampler {text[:60]!r}: {_advice(letters, _SAMPLERS)}"


def _advice(letters: str, known: Mapping[str, str]) -> str:
    close = _close(letters, known)
    return f"did you mean {' or '.join(close)}?" if close else _LIST


def _close(letters: str, known: Mapping[str, str]) -> list[str]:
    """Return the names that are close to one; a program's form of a sampler is a name that nobody means by a slip."""
    usual = {each: name for each, name in known.items() if name not in _FORMS}
    return list(dict.fromkeys(usual[each] for each in get_close_matches(letters, usual)))


_LIST: Final = "docs/reference/spec.md lists all under Samplers"
_FORMS: Final = frozenset({*A1111_FORMS.values(), *COMFYUI_FORMS.values()})
_SAMPLERS: Final[Mapping[str, SamplerName]] = {**{_letters(name): name for name in SAMPLERS}, **_MORE_SAMPLERS}
_SCHEDULES: Final[Mapping[str, ScheduleName]] = {**{_letters(name): name for name in SCHEDULES}, **_MORE_SCHEDULES}
