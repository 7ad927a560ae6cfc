"""Models of several files: weights with their configuration, in a folder of the user's or a repository of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scorers.errors import MissingWeightsError
from scorers.weights.fetch import resolve_hub_file
from scorers.weights.public import HubFile


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model of several files: the user's own folder with them, or else a repository of the hub."""

    named: Path | None  # by the option 'folder'
    title: str
    files: tuple[HubFile, ...]  # of one repository, with one licence
    fetched: bool = True  # False: nothing is downloaded, and only a folder of the user's is taken

    @property
    def size_bytes(self) -> int | None:
        return None if self.named else sum(file.size_bytes or 0 for file in self.files)

    @property
    def licence(self) -> str | None:
        return None if self.named else self.files[0].licence

    @property
    def source(self) -> str:
        if self.named is not None:
            return str(self.named)
        return self.files[0].page if self.fetched else "yours: option 'folder'"

    def require_named(self) -> None:
        """Refuse a folder that is named and does not hold the files.

        Raises:
            MissingWeightsError: a file is not there.
        """
        if self.named is not None:
            self._own_files(self.named)

    def is_here(self, cache_dir: Path) -> bool:
        if self.named is not None:
            return all(_find(self.named, file) is not None for file in self.files)
        return self.fetched and all(file.find(cache_dir) is not None for file in self.files)

    def resolve(self) -> tuple[Path, ...]:
        """Return a path for each of `files`, in their order; what is public is downloaded if it is not here.

        Raises:
            MissingWeightsError: a file is not there, or cannot be downloaded.
            WrongWeightsError: a downloaded file has another digest than the pinned one.
        """
        if self.named is not None:
            return self._own_files(self.named)
        if not self.fetched:
            raise MissingWeightsError(
                f"{self.title} ({self.licence}) is not downloaded by mergetune: name a folder with "
                f"{self._names()} with option 'folder'"
            )
        advice = f"name a folder with {self._names()} with option 'folder'"
        return tuple(resolve_hub_file(file, advice) for file in self.files)

    def _own_files(self, folder: Path) -> tuple[Path, ...]:
        if folder.is_file():
            raise MissingWeightsError(
                f"{folder}, named by option 'folder', is a file: give the folder with {self._names()}"
            )
        if not folder.is_dir():
            raise MissingWeightsError(f"no folder at {folder}, named by option 'folder': correct the path")
        found = []
        for file in self.files:
            path = _find(folder, file)
            if path is None:
                raise MissingWeightsError(
                    f"{folder}, named by option 'folder', has no {_either(file)}: {self.title} needs {self._names()}"
                )
            found.append(path)
        return tuple(found)

    def _names(self) -> str:
        *others, last = (_either(file) for file in self.files)
        return f"{', '.join(others)} and {last}"


def _find(folder: Path, file: HubFile) -> Path | None:
    candidates = (folder / Path(name).name for name in file.names)
    return next((path for path in candidates if path.is_file()), None)


def _either(file: HubFile) -> str:
    return " or ".join(Path(name).name for name in file.names)
