"""Stored specs of studies that an earlier version began.

`scheduler` then named a sampler and its noise levels together, `noise` the program, and random methods drew other
numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from studies.errors import RecipeError, StudyChangedError
from studies.recipe.methods import is_random
from studies.recipe.recipe import FORMER_DRAWS, Operation, refuse_other_draws
from studies.spec.samplers import COMFYUI_FORMS
from studies.spec.suite import SuiteSettings

# The pair with the same noise levels. Later noise was that of A1111; what has none was computed as ComfyUI does.
_NOW: Final[Mapping[str, Mapping[str, Any]]] = {
    "ddim": {"sampler": "ddim", "schedule": "ddim_uniform", "program": "comfyui", "sgm_noise_multiplier": True},
    "dpmpp_2m": {"sampler": "dpmpp_2m", "schedule": "sgm_uniform", "program": "comfyui"},
    "dpmpp_2m_karras": {"sampler": "dpmpp_2m", "schedule": "karras", "program": "comfyui"},
    "dpmpp_2m_sde_karras": {"sampler": "dpmpp_2m_sde", "schedule": "karras"},
    "euler": {"sampler": "euler", "schedule": "ddim_uniform", "program": "comfyui", "sgm_noise_multiplier": True},
    "euler_a": {"sampler": "euler_ancestral", "schedule": "ddim_uniform", "sgm_noise_multiplier": True},
    "heun": {"sampler": "heun", "schedule": "ddim_uniform", "program": "comfyui", "sgm_noise_multiplier": True},
    "lcm": {"sampler": "lcm", "schedule": "sgm_uniform"},
    "unipc": {"sampler": "uni_pc_bh2", "schedule": "sgm_uniform", "program": "comfyui"},
}
_DEFAULT: Final = "dpmpp_2m"
_RENDERS_OTHERWISE: Final = frozenset({"ddim", "dpmpp_2m_sde_karras", "lcm", "unipc"})
_LEADING: Final = frozenset({"euler", "euler_a", "heun"})  # levels are the same only where the steps divide 1000


def as_now(text: str) -> str:
    """Return a stored spec in JSON as it is written now: with a sampler, a program, a syntax, and its random numbers.

    A spec that was stored before prompts had a syntax has plain ones; one that was stored before samplers had a form of
    each program has ComfyUI's; one with a random method that was stored before these named their numbers has the former
    ones. One that is new already stays as it is.
    """
    spec = _spec(text)
    if spec is None:
        return text
    now = {**spec, "suite": _suite_now(spec["suite"])}
    if now["suite"].get("program", "a1111") == "a1111":
        now["suite"] = _with_forms(now["suite"])
        if isinstance(spec.get("final"), dict):
            now["final"] = _with_forms(spec["final"])
    if "draws" not in spec and _is_random(spec):
        now["draws"] = FORMER_DRAWS
    return text if now == spec else json.dumps(now)


def _suite_now(suite: Mapping[str, Any]) -> dict[str, Any]:
    scheduler = _scheduler(suite)
    changes: dict[str, Any] = {} if "syntax" in suite else {"syntax": "plain"}
    if scheduler is not None:
        changes |= _NOW[scheduler]
        suite = {key: value for key, value in suite.items() if key != "scheduler"}
    if "noise" in suite:
        changes = {"program": suite["noise"], **changes}
        suite = {key: value for key, value in suite.items() if key != "noise"}
    return {**suite, **changes}


def _with_forms(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings and their prompts with the samplers of ComfyUI that the plain names once meant in A1111, too."""
    changed = dict(settings)
    for plain, form in COMFYUI_FORMS.items():
        if settings.get("sampler") == plain:
            changed["sampler"] = form
    if isinstance(settings.get("prompts"), list):
        changed["prompts"] = [_with_forms(each) if isinstance(each, dict) else each for each in settings["prompts"]]
    return changed


def _is_random(spec: Mapping[str, Any]) -> bool:
    """Return whether a step's method drops elements at random; the spec may be malformed."""
    steps = spec.get("steps")
    each = steps if isinstance(steps, list) else [spec]
    return any(is_random(str(step.get("method"))) for step in each if isinstance(step, dict))


def former_scheduler(text: str) -> str | None:
    """Return the `scheduler` of a stored spec in JSON, which may have left out the default; None for a new one."""
    spec = _spec(text)
    return None if spec is None else _scheduler(spec["suite"])


def _scheduler(suite: Mapping[str, Any]) -> str | None:
    scheduler = None if "sampler" in suite else suite.get("scheduler", _DEFAULT)
    return scheduler if isinstance(scheduler, str) and scheduler in _NOW else None


def _spec(text: str) -> dict[str, Any] | None:
    """Return a stored spec with a suite; None for what is none, which whoever reads it refuses."""
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return spec if isinstance(spec, dict) and isinstance(spec.get("suite"), dict) else None


def refuse_other_renders(scheduler: str | None, suite: SuiteSettings, *, plain_levels: bool) -> None:
    """Refuse to go on with a study whose images would not be those with which it began.

    Args:
        scheduler: the study's former one; None for a study that never had one.
        suite: its suite, as it is written now.
        plain_levels: whether its models have the noise levels of Stable Diffusion, without zero terminal SNR.

    Raises:
        StudyChangedError: the images would differ, so that scores could not be compared.
    """
    if scheduler is None:
        return
    extra_step = scheduler in _LEADING and 1000 % suite.steps != 0
    if scheduler in _RENDERS_OTHERWISE or extra_step or not plain_levels:
        raise StudyChangedError(
            f"this study began with `scheduler: {scheduler}`, whose images an earlier version rendered otherwise than "
            f"`sampler: {suite.sampler}` with `schedule: {suite.schedule}` does now, so scores could not be compared: "
            "start a new study (its trials and export still open)"
        )


def refuse_other_merges(operations: Iterable[Operation]) -> None:
    """Refuse to go on with a study whose merges would not be those with which it began.

    Args:
        operations: all that its trials may carry out.

    Raises:
        StudyChangedError: random methods dropped other elements, so that scores could not be compared.
    """
    try:
        refuse_other_draws(operations)
    except RecipeError as error:
        raise StudyChangedError(f"{error}; start a new study") from error
