"""What of a suite a plot renders, and the suite with another value of one of its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from basics.messages import counted
from basics.settings import explain
from optimizer.errors import PlotError
from studies.spec.own_settings import for_all_prompts
from studies.spec.sampler_names import read_sampler
from studies.spec.samplers import SAMPLER_INFOS, SamplerName, ScheduleName, usual_schedule
from studies.spec.suite import Size, SuitePrompt, SuiteSettings
from studies.spec.words import SUITE_WORDS, letters

# What an axis may vary -> the setting of the suite. Others, such as what the U-Net predicts, are of the models.
SETTINGS: Final[Mapping[str, str]] = {
    "prompt": "prompts",
    "negative": "negative",
    "seed": "seeds",
    "size": "sizes",
    "sampler": "sampler",
    "schedule": "schedule",
    "steps": "steps",
    "cfg": "cfg",
    "cfg_rescale": "cfg_rescale",
    "pag": "pag",
    "clip_skip": "clip_skip",
    "emphasis": "emphasis",
    "program": "program",
}
_NUMBERS: Final = frozenset({"cfg", "cfg_rescale", "pag"})
_WHOLE_NUMBERS: Final = frozenset({"steps", "clip_skip", "seeds"})
_LISTS: Final = frozenset({"seeds", "sizes"})


def setting_of(name: str) -> str | None:
    """Return the name of an axis over a setting, in whatever spelling or another program's word; None if it is none."""
    word = letters(name)
    names = {letters(known): known for known in SETTINGS} | {letters(key): known for known, key in SETTINGS.items()}
    return names.get(word) or names.get(letters(SUITE_WORDS.get(word, "")))


def own_values(suite: SuiteSettings, name: str) -> tuple[str, ...]:
    """Return all the values that a suite has of a setting: prompts by number, seeds, sizes; else the one."""
    if name == "prompt":
        return tuple(map(str, range(1, len(suite.prompts) + 1)))
    if name == "seed":
        return tuple(dict.fromkeys(str(item.seed) for item in suite.items()))
    if name == "size":
        return tuple(dict.fromkeys(f"{item.width}x{item.height}" for item in suite.items()))
    return ()


def with_setting(suite: SuiteSettings, name: str, value: str) -> SuiteSettings:
    """Return a suite with one setting changed, also in prompts that have a value of their own.

    Args:
        name: among `SETTINGS`.
        value: as it is typed; a prompt is a number of the suite's prompts, counted from 1, or a text.

    Raises:
        PlotError: the suite cannot have this value.
    """
    data = suite.model_dump(mode="json") | {"preset": None}
    changes = _changes(suite, name, value)
    try:
        changed = SuiteSettings.model_validate(data | changes)
        return changed if name == "program" else for_all_prompts(changed, changes)
    except ValidationError as error:
        raise PlotError(f"{name}={value}: {explain(error, SuiteSettings)}") from error


def settings_changed(name: str, value: str) -> frozenset[str]:
    """Return what an axis changes with a value: what it is over, and with a joint name of a sampler the schedule."""
    return frozenset({name, *(_schedule_in(value) if name == "sampler" else ())})


def _changes(suite: SuiteSettings, name: str, value: str) -> dict[str, Any]:
    """Return the settings of a suite that change."""
    if name == "prompt":
        return {"prompts": [_prompt(suite, value).model_dump(mode="json")]}
    changes: dict[str, Any] = {SETTINGS[name]: _read(SETTINGS[name], value)}
    if name == "sampler":
        changes |= _schedule_in(value)
    if name == "program":
        changes |= _general(suite.sampler, suite.schedule)
        changes["prompts"] = [_in_any_program(prompt) for prompt in suite.prompts]
    return changes


def _in_any_program(prompt: SuitePrompt) -> dict[str, Any]:
    """Return a prompt whose own sampler has the name that each program reads in its way."""
    changes = {} if prompt.sampler is None else _general(prompt.sampler, prompt.schedule)
    return {**prompt.model_dump(mode="json"), **changes}


def _general(sampler: SamplerName, schedule: ScheduleName | None) -> dict[str, Any]:
    """Return a sampler by the name that each program reads in its way, and the schedule; None for a usual one."""
    general = SAMPLER_INFOS[sampler].form_of or sampler
    return {"sampler": general, "schedule": None if schedule == usual_schedule(sampler) else schedule}


def _prompt(suite: SuiteSettings, value: str) -> SuitePrompt:
    """Return a prompt by its number, or one of this text.

    Raises:
        PlotError: there is no prompt of this number.
    """
    if not value.isdecimal():
        return SuitePrompt(prompt=value)
    if not 1 <= int(value) <= len(suite.prompts):
        raise PlotError(
            f"prompt={value}: the suite has {counted(len(suite.prompts), 'prompt')}, counted from 1: give one of their "
            "numbers, or a text"
        )
    return suite.prompts[int(value) - 1]


def _read(key: str, value: str) -> Any:
    """Return a value as a spec has it: a number where it is one, a list of one where the setting is a list."""
    if key in _NUMBERS | _WHOLE_NUMBERS:
        try:
            number: Any = int(value) if value.lstrip("+-").isdecimal() else float(value)
        except ValueError:
            number = value
        whole = key in _WHOLE_NUMBERS and isinstance(number, float) and number.is_integer()
        return [int(number) if whole else number] if key in _LISTS else int(number) if whole else number
    return [value] if key in _LISTS else value


def _schedule_in(sampler: str) -> dict[str, Any]:
    """Return the change of the schedule that a joint name such as "DPM++ 2M Karras" means."""
    try:
        _, schedule = read_sampler(sampler)
    except ValueError:  # the setting refuses it
        return {}
    return {} if schedule is None else {"schedule": schedule}


def shown(suite: SuiteSettings, count: int) -> SuiteSettings:
    """Return a suite of some of its images: with the first seeds, of the first size, and evenly spread over prompts.

    Raises:
        PlotError: the suite has too few images.
    """
    usable = _usable(suite)
    by_seed = sorted((place, number) for number, (_, seeds, _) in enumerate(usable) for place, _ in enumerate(seeds))
    if count > len(by_seed):
        raise PlotError(
            f"--images {count}: a cell has at most {counted(len(by_seed), 'image')} here, one for each prompt and seed"
        )
    spread = [(0, index * len(usable) // count) for index in range(count)]
    chosen = spread if count < len(usable) else by_seed[:count]
    prompts = []
    for number, (prompt, seeds, sizes) in enumerate(usable):
        own = tuple(seeds[place] for place, of in chosen if of == number)
        if own:
            prompts.append(prompt.model_copy(update={"seeds": own, "sizes": sizes[:1]}))
    return suite.model_copy(update={"prompts": tuple(prompts)})


def most_images(suite: SuiteSettings) -> int:
    """Return how many images `shown` can choose from."""
    return sum(len(seeds) for _, seeds, _ in _usable(suite))


def _usable(suite: SuiteSettings) -> list[tuple[SuitePrompt, tuple[int, ...], tuple[Size, ...]]]:
    """Return the prompts that have images, with their seeds and sizes."""
    found = [
        (
            prompt,
            suite.seeds if prompt.seeds is None else prompt.seeds,
            suite.sizes if prompt.sizes is None else prompt.sizes,
        )
        for prompt in suite.prompts
    ]
    return [each for each in found if each[1] and each[2]]
