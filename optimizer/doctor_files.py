"""The files of a study as `study doctor` sees them: which there are, which its trials have, which can go.

Only what lies under the study's own key is looked through: databases may share an artifact folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from studies.artifacts import Artifacts
from studies.results import StoredRender, StoredStudy, StoredTrial

RENDERS, FEATURES = "renders", "features"


@dataclass(frozen=True, slots=True)
class StudyFiles:
    """One study's part of an artifact folder; names are relative to it."""

    artifacts: Artifacts
    study: StoredStudy

    @property
    def place(self) -> str:
        """For people."""
        return str(self.artifacts.folder)

    def listed(self) -> list[str]:
        """All files of the study's trials but their contact sheets, which Optuna's store keeps without its key."""
        folders = [self.artifacts.folder / kind / self.study.key for kind in (RENDERS, FEATURES)]
        found = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
        return sorted(path.relative_to(self.artifacts.folder).as_posix() for path in found)

    def number(self, name: str) -> int | None:
        """Of the trial that a listed file belongs to; None for what is none of ours."""
        part = PurePosixPath(name).parts[2].split(".")[0]  # renders/KEY/12/0000.png, features/KEY/12.npz
        return int(part) if part.isdecimal() else None

    def exists(self, name: str) -> bool:
        return (self.artifacts.folder / name).is_file()

    def remove(self, name: str) -> None:
        self.artifacts.delete(name)

    def sheet(self, row: StoredTrial) -> str | None:
        """The name of a trial's contact sheet, if it has one."""
        return None if row.sheet is None else self._relative(str(self.artifacts.sheet_path(row.sheet)))

    def features(self, row: StoredTrial) -> str:
        """The name of a trial's features, where a scorer has any."""
        return self._relative(str(self.artifacts.features_path(self.study.key, row.number)))

    def _relative(self, path: str) -> str:
        return PurePosixPath(path).relative_to(self.artifacts.folder.as_posix()).as_posix()

    def kept(self, row: StoredTrial, renders: Sequence[StoredRender]) -> set[str]:
        """Names of all files that a trial has by its row, whether or not they are there."""
        return {render.file for render in renders if render.file is not None} | {self.features(row)}
