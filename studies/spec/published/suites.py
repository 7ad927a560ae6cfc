"""Published settings as prompts of a suite: `image: FILE` in a spec, and a `suite:` section of a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import TypeAdapter, ValidationError

from basics.names import from_home
from basics.texts import in_comment
from studies.spec.published.files import read_published
from studies.spec.published.settings import SUITE_WIDE, PublishedError, PublishedSettings
from studies.spec.suite import SizeConditioning, SuiteSettings

# What a suite has of these settings where its spec says nothing.
DEFAULTS: Final[Mapping[str, Any]] = {
    **{name: SuiteSettings.model_fields[name].default for name in SUITE_WIDE},
    "emphasis": "original",
}


# ----------------------------------------------------------------------------------- `image:` in a spec


def with_pictures(spec: Mapping[str, Any], base_dir: Path) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Replace `image: FILE` in a spec's prompts by the settings of the file, which the prompt's other keys override.

    Settings of the whole suite that the spec leaves out are those of its pictures.

    Returns:
        The spec, and what the user should know, one line each.

    Raises:
        ValueError: a file has no settings that can be used, or the pictures differ in a setting of the whole suite.
    """
    if not isinstance(spec.get("suite"), Mapping):
        return spec, ()  # which is refused for that
    pictures = _NamedPictures(base_dir)
    changed = {name: pictures.resolved(spec.get(name)) for name in ("suite", "final") if name in spec}
    if not pictures.found:
        return spec, ()
    suite = dict(changed["suite"])
    notes = [f"{name}: {note}" for name, settings in pictures.found.items() for note in settings.notes]
    for setting in SUITE_WIDE:
        if setting == "emphasis" and (suite.get("syntax") or DEFAULTS["syntax"]) != "a1111":
            continue  # it is one of A1111
        made = {name: getattr(each, setting) for name, each in pictures.found.items()}
        made = {name: value for name, value in made.items() if value is not None}
        if suite.get(setting) is not None:
            notes += _differences(setting, suite[setting], made)
        elif made:
            suite[setting] = _agreed(setting, made)
            if suite[setting] != DEFAULTS[setting]:
                notes.append(f"suite: {_shown(setting, suite[setting])} is that of its pictures")
    return {**spec, **changed, "suite": suite}, tuple(notes)


class _NamedPictures:
    """The pictures that a spec names, each read once: its name in the spec -> its settings."""

    def __init__(self, base_dir: Path) -> None:
        self._base_dir = base_dir
        self.found: dict[str, PublishedSettings] = {}

    def resolved(self, section: Any) -> Any:
        """Return a section of a spec with the settings of pictures in its prompts.

        Raises:
            ValueError: a picture has none that can be used.
        """
        prompts = section.get("prompts") if isinstance(section, Mapping) else None
        if not isinstance(prompts, (list, tuple)):
            return section
        return {**section, "prompts": [self._resolved(prompt) for prompt in prompts]}

    def _resolved(self, prompt: Any) -> Any:
        if not isinstance(prompt, Mapping) or not isinstance(prompt.get("image"), str):
            return prompt
        name = prompt["image"]
        if name not in self.found:
            try:
                self.found[name] = read_published(self._base_dir / from_home(Path(name)))
            except PublishedError as error:
                raise ValueError(f"image: {error}") from error
        return prompt_settings(self.found[name]) | {key: value for key, value in prompt.items() if key != "image"}


def _agreed(setting: str, made: Mapping[str, Any]) -> Any:
    """Return the one value that all pictures were made with.

    Raises:
        ValueError: there are several.
    """
    (first, value), *others = made.items()
    for name, other in others:
        if other != value:
            raise ValueError(
                f"suite: the pictures differ in a setting that a suite has one of: {first} was made with "
                f"{_shown(setting, value)} and {name} with {_shown(setting, other)}; write the `{setting}` that all "
                "prompts are to have, or leave one of them out"
            )
    return value


def _differences(setting: str, said: Any, made: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each picture that was made with another value than the spec says."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(SuiteSettings.model_fields[setting].rebuild_annotation())
        wanted = adapter.validate_python(said)
    except ValidationError:  # which the spec is refused for
        return
    for name, value in made.items():
        if value != wanted:
            yield f"{name}: it was made with {_shown(setting, value)}, and the suite has {_shown(setting, wanted)}"


def _shown(setting: str, value: Any) -> str:
    """Return a setting as a spec has it."""
    if isinstance(value, SizeConditioning):
        sizes = {key: size for key, size in value.model_dump().items() if size is not None}
        value = "{" + ", ".join(f"{key}: [{width}, {height}]" for key, (width, height) in sizes.items()) + "}"
    return f"`{setting}: {str(value).lower() if isinstance(value, bool) else value}`"


# --------------------------------------------------------------------------------- a section of a folder


def prompt_settings(settings: PublishedSettings) -> dict[str, Any]:
    """Return settings as a prompt of a suite has them."""
    return {
        "prompt": settings.prompt,
        "negative": settings.negative,
        "seeds": [settings.seed],
        "sizes": [[settings.width, settings.height]],
        "steps": settings.steps,
        "cfg": settings.cfg,
        "sampler": settings.sampler,
        "schedule": settings.schedule or "auto",
        "clip_skip": settings.clip_skip,
        **({} if settings.cfg_rescale is None else {"cfg_rescale": settings.cfg_rescale}),
        **({} if settings.pag is None else {"pag": settings.pag.model_dump(mode="json")}),
        **({} if settings.hires is None else {"hires": settings.hires.model_dump(mode="json", exclude_none=True)}),
    }


Pictures = Sequence[tuple[str, PublishedSettings]]  # each picture's name with its settings


@dataclass(frozen=True, kw_only=True)
class OneSuite:
    """The pictures that a suite can have together."""

    settings: Mapping[str, Any]  # of the whole suite
    pictures: Pictures
    left_out: tuple[tuple[str, str], ...]  # name and reason


def one_suite(found: Pictures) -> OneSuite:
    """Choose the pictures whose settings of a whole suite are those that most of them have."""
    suite: dict[str, Any] = {}
    left_out: list[tuple[str, str]] = []
    kept = list(found)
    for setting in SUITE_WIDE:
        made = {name: getattr(settings, setting) for name, settings in kept}
        said = [value for value in made.values() if value is not None]
        if not said:
            continue
        suite[setting] = usual = max(said, key=said.count)
        unlike = {name: value for name, value in made.items() if value not in (None, usual)}
        left_out += [(name, _not_with_others(setting, value, usual)) for name, value in unlike.items()]
        kept = [(name, settings) for name, settings in kept if name not in unlike]
    return OneSuite(settings=suite, pictures=kept, left_out=tuple(left_out))


def _not_with_others(setting: str, value: Any, usual: Any) -> str:
    return (
        f"it was made with {_shown(setting, value)}, and a suite has one for all of its prompts (here "
        f"{_shown(setting, usual)}): import it from a folder of its own"
    )


def suite_section(settings: Mapping[str, Any], pictures: Pictures) -> str:
    """Return YAML with a `suite:` section of pictures.

    Args:
        settings: of the whole suite; those that are the default are left out, but the syntax.
        pictures: at least one.
    """
    said = {name: value for name, value in settings.items() if name == "syntax" or value != DEFAULTS[name]}
    written = _yaml({name: _plain(value) for name, value in said.items()}, lists_in_lines=False)
    head = "".join(f"  {line}\n" for line in written.splitlines())
    return f"suite:\n{head}  prompts:\n" + "".join(_entry(name, each) for name, each in pictures)


def _plain(value: Any) -> Any:
    """Return a setting as YAML has it."""
    return value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, SizeConditioning) else value


def _entry(name: str, settings: PublishedSettings) -> str:
    comments = "".join(f"    # {in_comment(line)}\n" for line in (name, *settings.notes))
    return comments + "".join(f"    {line}\n" for line in _yaml([prompt_settings(settings)]).split("\n")[:-1])


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they look, where YAML can."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(value: Any, *, lists_in_lines: bool | None = None) -> str:
    """Return YAML.

    Args:
        lists_in_lines: False for a line for each value, None for one line where a list or mapping holds only scalars.
    """
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=lists_in_lines
    )
