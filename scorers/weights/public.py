"""Public weight files: where they come from, how large they are, and under which licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """A public weight file at an address of its own, pinned by its digest."""

    title: str  # for messages
    name: str  # file name in the cache
    url: str
    sha256: str
    size_bytes: int
    licence: str
    setting: str  # option of the scorer that names a local copy

    @property
    def page(self) -> str:
        """Where a person fetches it."""
        return self.url

    def find(self, cache_dir: Path) -> Path | None:
        """Return the cached file; None if there is none. Its digest is checked when it is used."""
        target = cache_dir / self.name
        return target if target.is_file() else None


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A public weight file in a repository of the Hugging Face hub; pinned by its digest, where one is known."""

    title: str
    repository: str  # owner/name
    names: tuple[str, ...]  # file names that it may have there, most preferred first
    size_bytes: int | None  # roughly; None: not known
    licence: str
    setting: str
    revision: str | None = None  # commit of the repository; None: the newest
    sha256: str | None = None  # None: only the hub vouches for it

    @property
    def page(self) -> str:
        """Where a person fetches it."""
        return f"https://huggingface.co/{self.repository}"

    def find(self, _cache_dir: Path) -> Path | None:
        """Return the file in the hub's own cache; None if it has none."""
        import huggingface_hub

        for name in self.names:
            cached = huggingface_hub.try_to_load_from_cache(self.repository, name, revision=self.revision)
            if isinstance(cached, str):
                return Path(cached)
        return None
