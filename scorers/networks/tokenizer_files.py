"""The tokenizers of SigLIP's text towers: where they are, and whether they are here. open_clip is imported late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scorers.config import ClipModelSettings
from scorers.weights.fetch import existing_file, resolve_hub_file
from scorers.weights.public import HubFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Option that names a local file.
SETTING = "clip.tokenizer"


@dataclass(frozen=True, kw_only=True)
class TokenizerNeed:
    """The tokenizer of a SigLIP: the user's own file, or else the public one."""

    settings: ClipModelSettings

    @property
    def title(self) -> str:
        return f"tokenizer of {self.settings.model}"

    @property
    def size_bytes(self) -> int | None:
        return None if self.settings.tokenizer else self._public.size_bytes

    @property
    def licence(self) -> str | None:
        return None if self.settings.tokenizer else self._public.licence

    @property
    def source(self) -> str:
        return str(self.settings.tokenizer or self._public.page)

    def require_named(self) -> None:
        """Refuse a file that is named and not there.

        Raises:
            MissingWeightsError: it is not there.
        """
        if self.settings.tokenizer is not None:
            existing_file(self.settings.tokenizer, SETTING)

    def is_here(self, cache_dir: Path) -> bool:
        if self.settings.tokenizer is not None:
            return self.settings.tokenizer.is_file()
        return self._public.find(cache_dir) is not None

    @property
    def _public(self) -> HubFile:
        from scorers.networks.clip.architecture import architecture_of

        return public_tokenizer(architecture_of(self.settings)["text_cfg"])


def is_of_siglip(text_config: Mapping[str, Any]) -> bool:
    """Return whether a text tower, in the format of open_clip's JSON files, reads the tokens of a SigLIP."""
    return "siglip" in str(text_config.get("hf_tokenizer_name", "")).lower()


def public_tokenizer(text_config: Mapping[str, Any]) -> HubFile:
    """Return the tokenizer of a SigLIP's text tower, which only the hub vouches for."""
    repository = str(text_config.get("hf_tokenizer_name"))
    return HubFile(
        title=f"tokenizer of {repository.rpartition('/')[2]}",
        repository=repository,
        names=("tokenizer.json",),
        size_bytes=34_400_000 if "siglip2" in repository.lower() else 2_420_000,  # by the hub's pages
        licence="Apache-2.0",  # of open_clip's copies of SigLIP
        setting=SETTING,
    )


def resolve_tokenizer(file: Path | None, text_config: Mapping[str, Any]) -> Path:
    """Return the tokenizer of a SigLIP's text tower: the user's own file, or else the public one, downloaded if needed.

    Raises:
        MissingWeightsError: it is not there, or cannot be downloaded.
    """
    if file is not None:
        return existing_file(file, SETTING)
    return resolve_hub_file(public_tokenizer(text_config), f"name its tokenizer.json with option {SETTING!r}")
