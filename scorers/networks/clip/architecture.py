"""The architecture of a CLIP, in the format of open_clip's JSON files, and the open_clip model that it describes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import open_clip

from basics.foreign import read_json
from basics.messages import nearest
from scorers.errors import ScorerSettingsError
from scorers.networks.clip.files import architecture_file

if TYPE_CHECKING:
    from scorers.config import ClipModelSettings


def architecture_of(settings: ClipModelSettings) -> dict[str, Any]:
    """Return the architecture of the settings, in the format of open_clip's JSON files.

    Raises:
        ScorerSettingsError: open_clip has no such architecture, or the user's own is not in that format.
    """
    return _own_config(settings) or _builtin_config(settings.model)


def make_model(config: dict[str, Any]) -> Any:
    """Make an open_clip model with random weights.

    open_clip.create_model is not used, because it may ask the hub for the weights of either tower.

    Args:
        config: the architecture in the format of open_clip's JSON files.

    Raises:
        ScorerSettingsError: the architecture is a CoCa model, or open_clip cannot build it.
    """
    config = copy.deepcopy(config)
    if "multimodal_cfg" in config:
        raise ScorerSettingsError("expected a CLIP architecture, got a CoCa model: choose another architecture")
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    own_text = "hf_model_name" in config["text_cfg"]
    if own_text:
        config["text_cfg"]["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or own_text
    try:
        return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
    except (TypeError, ValueError, AssertionError) as error:  # an architecture of the user's own
        raise ScorerSettingsError(
            f"open_clip cannot build a CLIP from this architecture ({error}): correct its file in config_dir"
        ) from error


def _own_config(settings: ClipModelSettings) -> dict[str, Any] | None:
    """Read the architecture from config_dir; None if the settings have no config_dir."""
    if settings.config_dir is None:
        return None
    path = architecture_file(settings.config_dir, settings.model)
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise ScorerSettingsError(f"{path} is not JSON ({error}): correct it") from error
    required = {"embed_dim", "vision_cfg", "text_cfg"}
    if not isinstance(config, dict) or not required <= config.keys():
        raise ScorerSettingsError(f"{path} must have the keys {', '.join(sorted(required))}, as open_clip's files do")
    return config


def _builtin_config(model: str) -> dict[str, Any]:
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        names = ", ".join(nearest(model, open_clip.list_models(), count=3)) or "those of open_clip.list_models()"
        raise ScorerSettingsError(
            f"open_clip has no architecture {model!r}: use one such as {names}, or set config_dir for one of your own"
        )
    return dict(config)
