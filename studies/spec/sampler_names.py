"""Names of samplers and schedules as people write them.

ComfyUI's names and A1111's are understood, A1111's joint ones included ("DPM++ 2M SDE Karras"), however capitals,
spaces, underscores and plus signs are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from studies.spec.samplers import SAMPLER_INFOS, SCHEDULE_INFOS, SamplerName, ScheduleName

_AUTOMATIC: Final = frozenset({"auto", "automatic"})


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
    if letters in _SCHEDULES_NOT_OFFERED:
        close = _SCHEDULES_NOT_OFFERED[letters]
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
    known = {**_SAMPLERS, **_NOT_OFFERED}
    return rest if letters not in known and any(map(rest.startswith, known)) else letters


def _divided(letters: str, names: Mapping[str, SamplerName]) -> list[tuple[SamplerName, str]]:
    """Return the samplers with which a name begins, the longest first, each with what follows it."""
    beginnings = sorted(filter(letters.startswith, names), key=len, reverse=True)
    return [(names[beginning], letters.removeprefix(beginning)) for beginning in beginnings]


def _unknown_sampler(text: str, letters: str) -> str:
    """Return the message for a name that no sampler has: what of it is wrong, and what is close."""
    for close, rest in _divided(letters, _NOT_OFFERED):
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
_FORMS: Final = frozenset(name for name, info in SAMPLER_INFOS.items() if info.form_of is not None)
# Names as `_letters` writes them -> ours; of samplers and schedules that are not offered, the closest one.
_SAMPLERS: Final[Mapping[str, SamplerName]] = {
    _letters(each): name for name, info in SAMPLER_INFOS.items() for each in (name, info.a1111, *info.also) if each
}
_SCHEDULES: Final[Mapping[str, ScheduleName]] = {
    _letters(each): name for name, info in SCHEDULE_INFOS.items() for each in (name, info.a1111, *info.also) if each
}
_NOT_OFFERED: Final[Mapping[str, SamplerName]] = {
    _letters(each): name for name, info in SAMPLER_INFOS.items() for each in info.closest_to
}
_SCHEDULES_NOT_OFFERED: Final[Mapping[str, ScheduleName]] = {
    _letters(each): name for name, info in SCHEDULE_INFOS.items() for each in info.closest_to
}
