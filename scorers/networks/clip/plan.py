"""Which CLIP the settings mean: architecture, activation, file and colours, before any weights are loaded.

Activation: OpenAI trained CLIP with QuickGELU, x * sigmoid(1.702 x); later models use GELU. The activation has no
weights, so OpenAI's file loads into the plain architecture without an error, and every embedding is slightly wrong. For
a tag, open_clip knows the right activation. A file does not tell it, so the settings must give the tag under which a
file for a built-in architecture was published (`trained_as`). Only OpenAI's own archives and architectures named
`-quickgelu` need none. The tag also determines the colour normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import open_clip

from scorers.errors import WrongWeightsError
from scorers.networks.clip.architecture import architecture_of
from scorers.networks.clip.files import fetch_tag, tag_config
from scorers.networks.clip.preprocessing import preprocess_of
from scorers.weights.fetch import existing_file
from scorers.weights.tensors import is_torchscript

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scorers.config import ClipModelSettings


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """A choice of CLIP model, file and normalisation, not loaded yet."""

    model: str
    config: dict[str, Any]  # open_clip's architecture, with the right activation
    file: Path
    normalisation: Mapping[str, Any]  # as in open_clip's tags; empty: OpenAI's


def plan_model(settings: ClipModelSettings) -> ClipPlan:
    """Choose architecture, activation, normalisation and file, without loading weights; raises as `load_embedder`."""
    config = architecture_of(settings)
    tag = tag_config(settings)
    normalisation = tag or config.pop("preprocess_cfg", None) or _common_normalisation(settings)
    # The activation comes before the download, so that a contradiction is found first.
    quick_gelu = _needs_quick_gelu(settings, config, tag)
    file = settings.weights_file
    if file is None:
        file = fetch_tag(settings, tag)
    config["quick_gelu"] = quick_gelu
    return ClipPlan(model=settings.model, config=config, file=file, normalisation=normalisation)


def _common_normalisation(settings: ClipModelSettings) -> Mapping[str, Any]:
    """Return what all tags of a built-in architecture agree on, as those of a SigLIP do; empty if they do not."""
    if settings.config_dir is not None:
        return {}
    tags = [
        open_clip.get_pretrained_cfg(settings.model, name)
        for name in open_clip.list_pretrained_tags_by_model(settings.model)
    ]
    same = all(preprocess_of(1, tag) == preprocess_of(1, tags[0]) for tag in tags)
    return tags[0] if tags and same else {}


def _needs_quick_gelu(settings: ClipModelSettings, config: Mapping[str, Any], tag: Mapping[str, Any]) -> bool:
    """Return whether the weights were trained with QuickGELU; see the top of this module.

    Raises:
        WrongWeightsError: a file without a tag may have been trained with either activation.
    """
    if settings.weights_file is not None:
        existing_file(settings.weights_file, "clip.pretrained")
    if tag:
        return bool(tag.get("quick_gelu", False))
    if settings.config_dir is not None or config.get("quick_gelu", False):
        return bool(config.get("quick_gelu", False))
    if settings.weights_file is not None and is_torchscript(settings.weights_file):
        return True  # OpenAI's own archive; read_state opens no other
    tags = open_clip.list_pretrained_tags_by_model(settings.model)
    if any(open_clip.get_pretrained_cfg(settings.model, name).get("quick_gelu") for name in tags):
        raise WrongWeightsError(
            f"{settings.pretrained} does not say whether this {settings.model!r} was trained with QuickGELU, like "
            "OpenAI's, or with GELU, and the wrong one would give wrong scores without an error: set clip.trained_as "
            f"to the open_clip tag of the file, one of {', '.join(tags)}"
        )
    return False
