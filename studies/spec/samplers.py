"""The samplers and the schedules of noise levels: what is known of each, beside its name.

The names are ComfyUI's, which has the two apart. To add a sampler, write its name and its record here, and how it is
carried out in the table of optimizer/rendering/sampling/methods.py. To add a schedule, write its name and its record
here, and its levels in the table of optimizer/rendering/sampling/schedules.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from studies.spec.hires import NO_HIRES, HiresSettings
from studies.spec.pag import NO_PAG, PagSettings

ProgramName = Literal["a1111", "comfyui"]
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
PROGRAMS: Final[tuple[ProgramName, ...]] = get_args(ProgramName)
SAMPLERS: Final[tuple[SamplerName, ...]] = get_args(SamplerName)
SCHEDULES: Final[tuple[ScheduleName, ...]] = get_args(ScheduleName)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerInfo:
    """What is known of a sampler, but for how it is carried out. Names of it are read in any spelling.

    Some samplers are another one in A1111 than in ComfyUI under the same name. Each program's form has a name of its
    own, which means it whatever the suite's `program`; the plain name becomes A1111's form where that is A1111. So the
    suites that studies store have a plain name for ComfyUI only. It stays there, and means ComfyUI's form,
    because studies that began before there were two forms have stored it and must render the same.
    """

    a1111: str = ""  # its name in A1111's menu, if it stands there
    also: tuple[str, ...] = ()  # further names
    # Samplers of A1111, Forge, ComfyUI and InvokeAI that are not offered, to which this one comes closest: by its
    # method, or because they change it.
    closest_to: tuple[str, ...] = ()
    form_of: SamplerName | None = None  # the plain name that means this form in a program
    program: ProgramName | None = None  # whose form it is
    # What A1111's "Automatic" means for it (modules/sd_samplers_kdiffusion.py, `scheduler` of its options), and for
    # ComfyUI's LCM what its models want.
    usual: ScheduleName = "normal"
    # Whether it has the usual schedule always, and with it A1111's first noise of training's variance: one of those of
    # modules/sd_samplers_timesteps.py, which take times, read no chosen schedule and no "SGM noise multiplier".
    of_times: bool = False
    calls: int = 1  # of the U-Net in every step but one to level 0, which takes one
    is_brownian: bool = False  # whether its noise is the increments of k-diffusion's Brownian path
    says_ensd: bool = False  # whether A1111 says its ENSD with it (`uses_ensd` in modules/sd_samplers_kdiffusion.py)
    # Programs in which it would call the model at the last level before 0, which says little, and so passes it over:
    # "Discard penultimate sigma" in A1111's texts (`discard_next_to_last_sigma` in its code), and ComfyUI's
    # KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS.
    passes_over: tuple[ProgramName, ...] = ()
    for_flow: bool = True  # whether it is defined for a model that follows a flow: A1111 renders none of these families


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleInfo:
    """What is known of a schedule, but for its levels. Names of it are read in any spelling."""

    a1111: str = ""  # its name in A1111's menu, if it stands there
    also: tuple[str, ...] = ()  # further names
    closest_to: tuple[str, ...] = ()  # schedules that are not offered, to which this one comes closest
    for_flow: bool = False  # whether ComfyUI makes it of the levels of a model that follows a flow


# InvokeAI's `kdpm_2` is ComfyUI's dpm_2. Messages list the samplers and schedules of a flow in this order.
SAMPLER_INFOS: Final[Mapping[SamplerName, SamplerInfo]] = {
    "euler": SamplerInfo(
        a1111="Euler",
        closest_to=(
            *("gradient_estimation", "gradient_estimation_cfg_pp"),
            *("Euler CFG++", "Euler Dy", "Euler SMEA Dy"),
        ),
    ),
    "euler_ancestral": SamplerInfo(
        a1111="Euler a", closest_to=("DDPM", "euler_ancestral_cfg_pp", "Euler a CFG++"), says_ensd=True
    ),
    "heun": SamplerInfo(a1111="Heun", closest_to=("Restart", "heunpp2", "exp_heun_2_x0"), calls=2),
    "dpm_2": SamplerInfo(a1111="DPM2", also=("kdpm_2",), usual="karras", calls=2, passes_over=PROGRAMS),
    "dpm_2_ancestral": SamplerInfo(
        a1111="DPM2 a", also=("kdpm_2_a",), usual="karras", calls=2, says_ensd=True, passes_over=PROGRAMS
    ),
    "lms": SamplerInfo(a1111="LMS", closest_to=("ipndm", "ipndm_v", "PNDM", "PLMS")),
    "lms_a1111": SamplerInfo(form_of="lms", program="a1111", for_flow=False),
    "lms_comfyui": SamplerInfo(form_of="lms", program="comfyui"),
    "dpmpp_2s_ancestral": SamplerInfo(
        a1111="DPM++ 2S a", closest_to=("dpmpp_2s_ancestral_cfg_pp",), usual="karras", calls=2, says_ensd=True
    ),
    "dpmpp_2m": SamplerInfo(
        a1111="DPM++ 2M", closest_to=("DPM fast", "DPM adaptive", "DEIS", "dpmpp_2m_cfg_pp"), usual="karras"
    ),
    "ddim": SamplerInfo(a1111="DDIM", closest_to=("DDIM CFG++",), usual="ddim_uniform"),
    "ddim_a1111": SamplerInfo(
        also=("A1111 DDIM",), form_of="ddim", program="a1111", usual="ddim_uniform", of_times=True, for_flow=False
    ),
    "ddim_comfyui": SamplerInfo(form_of="ddim", program="comfyui", usual="ddim_uniform"),
    "lcm": SamplerInfo(a1111="LCM", closest_to=("TCD",), usual="sgm_uniform"),
    "lcm_a1111": SamplerInfo(form_of="lcm", program="a1111", for_flow=False),
    "lcm_comfyui": SamplerInfo(form_of="lcm", program="comfyui", usual="sgm_uniform"),
    "res_multistep": SamplerInfo(
        closest_to=("res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "res_multistep_cfg_pp")
    ),
    "uni_pc": SamplerInfo(a1111="UniPC", passes_over=PROGRAMS),
    "uni_pc_a1111": SamplerInfo(form_of="uni_pc", program="a1111", usual="time_uniform", of_times=True, for_flow=False),
    "uni_pc_comfyui": SamplerInfo(form_of="uni_pc", program="comfyui", passes_over=PROGRAMS),
    "uni_pc_bh2": SamplerInfo(passes_over=PROGRAMS),
    "dpmpp_sde": SamplerInfo(
        a1111="DPM++ SDE", closest_to=("exp_heun_2_x0_sde", "seeds_2"), usual="karras", calls=2, is_brownian=True
    ),
    "dpmpp_2m_sde": SamplerInfo(
        a1111="DPM++ 2M SDE", closest_to=("sa_solver", "sa_solver_pece"), usual="exponential", is_brownian=True
    ),
    "dpmpp_2m_sde_heun": SamplerInfo(a1111="DPM++ 2M SDE Heun", usual="exponential", is_brownian=True),
    "dpmpp_3m_sde": SamplerInfo(
        a1111="DPM++ 3M SDE",
        closest_to=("er_sde", "seeds_3"),
        usual="exponential",
        is_brownian=True,
        passes_over=("a1111",),
    ),
}
# A1111's polyexponential levels with the usual exponent, 1, are the exponential ones. InvokeAI ends names in `_k` for
# Karras' levels; diffusers calls turbo trailing. `align_your_steps` has levels of Stable Diffusion, `turbo` places in
# its table, and `time_uniform` is A1111's: none of them is of a flow.
SCHEDULE_INFOS: Final[Mapping[ScheduleName, ScheduleInfo]] = {
    "normal": ScheduleInfo(a1111="Uniform", for_flow=True),
    "simple": ScheduleInfo(a1111="Simple", closest_to=("linear_quadratic",), for_flow=True),
    "sgm_uniform": ScheduleInfo(a1111="SGM Uniform", for_flow=True),
    "beta": ScheduleInfo(a1111="Beta", for_flow=True),
    "ddim_uniform": ScheduleInfo(a1111="DDIM", for_flow=True),
    "karras": ScheduleInfo(a1111="Karras", also=("k",), for_flow=True),
    "exponential": ScheduleInfo(a1111="Exponential", also=("Polyexponential",), for_flow=True),
    "kl_optimal": ScheduleInfo(a1111="KL Optimal", for_flow=True),
    "align_your_steps": ScheduleInfo(
        a1111="Align Your Steps", also=("AYS",), closest_to=("Align Your Steps GITS", "GITS")
    ),
    "turbo": ScheduleInfo(also=("trailing",)),
    "time_uniform": ScheduleInfo(),
}

A1111_FORMS: Final[Mapping[SamplerName, SamplerName]] = {
    info.form_of: name for name, info in SAMPLER_INFOS.items() if info.form_of and info.program == "a1111"
}
COMFYUI_FORMS: Final[Mapping[SamplerName, SamplerName]] = {
    info.form_of: name for name, info in SAMPLER_INFOS.items() if info.form_of and info.program == "comfyui"
}
OWN_SCHEDULES: Final[Mapping[SamplerName, ScheduleName]] = {
    name: info.usual for name, info in SAMPLER_INFOS.items() if info.of_times
}
FLOW_SAMPLERS: Final = tuple(name for name, info in SAMPLER_INFOS.items() if info.for_flow)
FLOW_SCHEDULES: Final = tuple(name for name, info in SCHEDULE_INFOS.items() if info.for_flow)


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
    def prompt_steps(self) -> int:
        """The steps among which A1111 divides a prompt that changes on the way: it counts a step of two calls twice."""
        return self.steps * SAMPLER_INFOS[self.sampler].calls


def in_a1111(sampler: SamplerName, schedule: ScheduleName) -> tuple[str, str | None]:
    """Return what A1111 calls a sampler and a schedule; ours where it has none, which it then does not know.

    The schedule is None where the sampler has no other.
    """
    info = SAMPLER_INFOS[sampler]
    menu = SAMPLER_INFOS[info.form_of or sampler].a1111 or sampler
    return menu, None if sampler in OWN_SCHEDULES else SCHEDULE_INFOS[schedule].a1111 or schedule


def usual_schedule(sampler: SamplerName) -> ScheduleName:
    """Return the schedule that A1111's "Automatic" means for a sampler."""
    return SAMPLER_INFOS[sampler].usual


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
