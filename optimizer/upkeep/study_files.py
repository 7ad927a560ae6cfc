"""The files of a study as `study doctor` sees them: which there are, which its trials have, which can go.

Only files under the study's own key count, because databases may share an artifact store.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from studies.files.artifacts import FEATURES, Artifacts, stored_name
from studies.records.values import StoredStudy, StoredTrial


@dataclass(frozen=True)
class StudyFiles:
    """One study's part of an artifact store."""

    artifacts: Artifacts
    study: StoredStudy

    @property
    def location(self) -> str:
        """Where the files are, for people."""
        return self.artifacts.location

    @cached_property
    def listed(self) -> frozenset[str]:
        """Names of all files of the study, as they were when this was asked first."""
        return frozenset(file.name for file in self.artifacts.store.files(f"studies/{self.study.key}/"))

    def number(self, name: str) -> int | None:
        """Return the number of the trial that a listed file belongs to; None for a file that is not of mergetune."""
        part = PurePosixPath(name).parts[2].split("-")[0]  # studies/KEY/12-WORKER/0000.png
        return int(part) if part.isdecimal() else None

    def contact_sheet(self, trial: StoredTrial) -> str | None:
        """Return the name of a trial's contact sheet; None where it has none."""
        return None if trial.contact_sheet is None else stored_name(trial.contact_sheet)

    def features(self, trial: StoredTrial) -> str:
        """Return the name of the features of a trial's set scores."""
        return self.artifacts.of_trial(self.study.key, trial.number, trial.worker_id).name(FEATURES)

    def remove(self, name: str) -> None:
        """Remove a listed file.

        Raises:
            ArtifactError: it cannot be removed.
        """
        self.artifacts.store.remove(name)
