"""Published settings as prompts of a suite: `image: FILE` in a spec, and a `suite:` section of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from basics.names import from_home
from studies.spec.published.files import read_published
from studies.spec.published.settings import PublishedError, PublishedSettings


def resolve_images(prompts: Any, base_dir: Path) -> Any:
    """Replace `image: FILE` in a list of prompts by the settings of the file, which the prompt's other keys override.

    Raises:
        ValueError: a file has no settings that can be used.
    """
    if not isinstance(prompts, (list, tuple)):
        return prompts
    return [_resolved(prompt, base_dir) for prompt in prompts]


def _resolved(prompt: Any, base_dir: Path) -> Any:
    if not isinstance(prompt, Mapping) or not isinstance(prompt.get("image"), str):
        return prompt
    path = base_dir / from_home(Path(prompt["image"]))
    try:
        found = prompt_settings(read_published(path))
    except PublishedError as error:
        raise ValueError(f"image: {error}") from error
    return found | {key: value for key, value in prompt.items() if key != "image"}


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
    }


def suite_section(found: Sequence[tuple[str, PublishedSettings]]) -> str:
    """Return YAML with a `suite:` section of pictures that have one syntax and ENSD.

    Args:
        found: each picture's name with its settings, at least one.
    """
    first = found[0][1]
    noise = "  noise: comfyui\n" if first.syntax == "comfyui" else ""
    head = [
        f"suite:\n  syntax: {first.syntax}\n",
        noise,
        f"  ensd: {first.ensd}\n" if first.ensd else "",
        "  prompts:\n",
    ]
    return "".join([*head, *(_entry(name, settings) for name, settings in found)])


def _entry(name: str, settings: PublishedSettings) -> str:
    shown = "".join(each if each.isprintable() else "?" for each in name)
    comments = "".join(f"    # {line}\n" for line in (shown, *settings.notes))
    text = yaml.safe_dump(
        [prompt_settings(settings)], sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=None
    )
    return comments + "".join(f"    {line}\n" for line in text.splitlines())
