"""The files of a CLIP: where open_clip's tags have them, and whether they are here. open_clip is imported late."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorers.config import ClipModelSettings
from scorers.errors import MissingWeightsError, ScorerSettingsError
from scorers.networks.tokenizer_files import SETTING as TOKENIZER_SETTING
from scorers.weights.fetch import existing_file, resolve_hub_file
from scorers.weights.public import HubFile

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Option that names a local file.
_SETTING = "clip.pretrained"

#: Weight files in the hub repositories of open_clip, most preferred first.
_HUB_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)

#: Sizes of usual models: four bytes for each parameter. open_clip knows no sizes.
_SIZES_BYTES: dict[tuple[str, str | None], int] = {
    ("ViT-L-14-quickgelu", "openai"): 1_710_000_000,
    ("ViT-L-14-336-quickgelu", "openai"): 1_710_000_000,
    ("ViT-SO400M-14-SigLIP-384", "webli"): 3_510_000_000,
}

#: Licences by tag; open_clip knows none. https://github.com/openai/CLIP/blob/main/LICENSE; SigLIP's are those of
#: https://github.com/google-research/big_vision and of google/siglip-so400m-patch14-384 on the hub.
_LICENCES: dict[str | None, str] = {"openai": "MIT", "webli": "Apache-2.0"}


@dataclass(frozen=True, kw_only=True)
class ClipNeed:
    """The weights of a CLIP, and the file of its architecture where that is the user's own."""

    settings: ClipModelSettings

    @property
    def title(self) -> str:
        return title_of(self.settings)

    @property
    def size_bytes(self) -> int | None:
        return _SIZES_BYTES.get((self.settings.model, self.settings.tag))

    @property
    def licence(self) -> str | None:
        return _LICENCES.get(self.settings.tag)

    @property
    def source(self) -> str:
        if self.settings.weights_file is not None:
            return str(self.settings.weights_file)
        public = public_file(self.settings, tag_config(self.settings))
        return public.page if public is not None else str(tag_config(self.settings).get("url"))

    def require_named(self) -> None:
        """Refuse an architecture, weight file or tokenizer that is named and not there.

        Raises:
            ScorerSettingsError: the architecture is not in `config_dir`.
            MissingWeightsError: the weight file, or the tokenizer.
        """
        if self.settings.config_dir is not None:
            architecture_file(self.settings.config_dir, self.settings.model)
        if self.settings.weights_file is not None:
            existing_file(self.settings.weights_file, _SETTING)
        if self.settings.tokenizer is not None:
            existing_file(self.settings.tokenizer, TOKENIZER_SETTING)

    def is_here(self, cache_dir: Path) -> bool:
        """Return whether the weights are on this machine.

        Raises:
            ScorerSettingsError: open_clip has no such tag.
        """
        if self.settings.weights_file is not None:
            return self.settings.weights_file.is_file()
        public = public_file(self.settings, tag_config(self.settings))
        return public is not None and public.find(cache_dir) is not None


def title_of(settings: ClipModelSettings) -> str:
    """Return the name of a CLIP, for people."""
    return f"CLIP {settings.model} / {settings.tag or Path(settings.pretrained).name}"


def architecture_file(folder: Path, model: str) -> Path:
    """Return the file of an architecture of the user's own.

    Raises:
        ScorerSettingsError: the folder has none of this name.
    """
    path = folder / f"{model}.json"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.json")))
        advice = f"choose one of those in config_dir ({names})" if names else "give the folder that has it"
        raise ScorerSettingsError(f"no CLIP architecture {path}: {advice}")
    return path


def tag_config(settings: ClipModelSettings) -> dict[str, Any]:
    """Return open_clip's entry for the tag of the settings; empty without a tag.

    Raises:
        ScorerSettingsError: open_clip has no such tag.
    """
    if settings.tag is None:
        return {}
    import open_clip

    entry = open_clip.get_pretrained_cfg(settings.model, settings.tag)
    if not entry:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(settings.model)) or "none"
        raise ScorerSettingsError(
            f"open_clip has no weights {settings.tag!r} for {settings.model!r}: choose one of {tags}"
        )
    return dict(entry)


def public_file(settings: ClipModelSettings, tag: Mapping[str, Any]) -> HubFile | None:
    """Return the file of a tag; None if it is not on the hub."""
    repository, _, name = str(tag.get("hf_hub", "")).rpartition("/")
    if not repository:
        return None
    return HubFile(
        title=title_of(settings),
        repository=repository,
        names=(name,) if name else _HUB_NAMES,
        size_bytes=None,
        licence="see its page",
        setting=_SETTING,
    )


def fetch_tag(settings: ClipModelSettings, tag: Mapping[str, Any]) -> Path:
    """Return the weight file of a tag, which is downloaded if it is not here.

    Raises:
        MissingWeightsError: it cannot be downloaded.
    """
    advice = f"name the file with clip.pretrained and set clip.trained_as: {settings.pretrained}"
    public = public_file(settings, tag)
    if public is None:
        title = title_of(settings)
        raise MissingWeightsError(f"{title} is not on the hub: fetch it from {tag.get('url')}, then {advice}")
    return resolve_hub_file(public, advice)
