"""What a scorer needs beside the images: weight files, folders, packages. Told without torch, before any is loaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scorers.errors import MissingPackageError, ReferenceImagesError
from scorers.weights.fetch import existing_file
from scorers.weights.public import HubFile, PublicFile


class Need(Protocol):
    """A file, folder or package that a scorer needs."""

    @property
    def title(self) -> str:
        """Its name, for people."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """Its size, roughly; None: not known, or the user's own."""
        ...

    @property
    def licence(self) -> str | None:
        """The licence that it is published under; None: not known, or the user's own."""
        ...

    @property
    def source(self) -> str:
        """Where it comes from: an address, or the option that names it."""
        ...

    def require_named(self) -> None:
        """Refuse what the settings name and which is not there, and a missing package; public files are fetched later.

        Raises:
            ScorerError: it is not there.
        """
        ...

    def is_here(self, cache_dir: Path) -> bool:
        """Return whether it is on this machine; nothing is downloaded, and nobody is asked.

        Args:
            cache_dir: folder of downloaded files.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class WeightNeed:
    """A weight file: the user's own, or else a public one."""

    named: Path | None  # by the settings
    public: PublicFile | HubFile

    @property
    def title(self) -> str:
        return self.public.title

    @property
    def size_bytes(self) -> int | None:
        return None if self.named else self.public.size_bytes

    @property
    def licence(self) -> str | None:
        return None if self.named else self.public.licence

    @property
    def source(self) -> str:
        return str(self.named or self.public.page)

    def require_named(self) -> None:
        if self.named is not None:
            existing_file(self.named, self.public.setting)

    def is_here(self, cache_dir: Path) -> bool:
        return self.named.is_file() if self.named is not None else self.public.find(cache_dir) is not None


@dataclass(frozen=True, kw_only=True)
class OwnFile:
    """A weight file that only the user can name."""

    named: Path | None
    title: str
    setting: str
    size_bytes: None = None
    licence: None = None

    @property
    def source(self) -> str:
        return str(self.named or f"yours: option {self.setting!r}")

    def require_named(self) -> None:
        if self.named is not None:
            existing_file(self.named, self.setting)

    def is_here(self, _cache_dir: Path) -> bool:
        return self.named is not None and self.named.is_file()


@dataclass(frozen=True, kw_only=True)
class ComparedCheckpoint:
    """A checkpoint file of the user's own, with whose renders a scorer compares."""

    named: Path
    title: str = "a checkpoint to compare with"
    size_bytes: None = None
    licence: None = None

    @property
    def source(self) -> str:
        return str(self.named)

    def require_named(self) -> None:
        if not self.named.is_file():
            raise ReferenceImagesError(
                f"no checkpoint file at {self.named}, named by option 'to': correct the path, or name a parent by its "
                "letter, such as A"
            )

    def is_here(self, _cache_dir: Path) -> bool:
        return self.named.is_file()


@dataclass(frozen=True, kw_only=True)
class ReferenceFolder:
    """A folder of the user's own images."""

    named: Path | None
    title: str = "reference images"
    size_bytes: None = None
    licence: None = None

    @property
    def source(self) -> str:
        return str(self.named or "yours: option 'reference'")

    def require_named(self) -> None:
        if self.named is not None:
            require_reference_folder(self.named)

    def is_here(self, _cache_dir: Path) -> bool:
        return self.named is not None and self.named.is_dir()


@dataclass(frozen=True, kw_only=True)
class Package:
    """A Python package that mergetune does not install by itself."""

    module: str
    extra: str  # of mergetune, which installs it
    licence: str
    size_bytes: int | None = None

    @property
    def title(self) -> str:
        return f"package {self.module}"

    @property
    def source(self) -> str:
        return f"pip install 'mergetune[{self.extra}]'"

    def require_named(self) -> None:
        """Refuse a scorer whose package is not installed: it is not fetched later, as public files are.

        Raises:
            MissingPackageError: it is not installed.
        """
        if importlib.util.find_spec(self.module) is None:
            raise MissingPackageError(f"{self.title} ({self.licence}) is not installed: {self.source}")

    def is_here(self, _cache_dir: Path) -> bool:
        return importlib.util.find_spec(self.module) is not None


def require_reference_folder(folder: Path) -> None:
    """Refuse reference images whose folder is not there.

    Raises:
        ReferenceImagesError: there is no such folder.
    """
    if folder.is_file():
        raise ReferenceImagesError(f"{folder}, named by option 'reference', is a file: give a folder of images")
    if not folder.is_dir():
        raise ReferenceImagesError(f"no folder of reference images at {folder}: correct option 'reference'")
