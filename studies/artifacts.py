"""The folder beside the database: contact sheets (Optuna's artifact store), kept renders, features of set scores."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import InMemoryStorage
from PIL import Image

from studies.database import database_file
from studies.errors import DatabaseError


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Files of studies, each under the study's key, so that databases may share a folder.

    Paths in the database are relative to `folder`.
    """

    folder: Path

    @classmethod
    def beside(cls, url: str, folder: Path | None = None) -> Artifacts:
        """`folder`, or `NAME-artifacts` beside a SQLite file, or `mergetune-artifacts` here; made if missing."""
        chosen = (folder or usual_folder(url)).resolve()
        try:
            (chosen / "store").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(f"the artifact folder {chosen} cannot be made: {error.strerror}") from error
        return cls(chosen)

    @property
    def store(self) -> FileSystemArtifactStore:
        """Optuna's artifact store: what the dashboard shows."""
        return FileSystemArtifactStore(self.folder / "store")

    def save_sheet(self, trial: optuna.Trial, sheet: Image.Image) -> str:
        """Attach a contact sheet to a trial; returns its artifact id."""
        with TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder) / f"trial {trial.number}.jpg"  # the name the dashboard shows
            sheet.save(path, quality=90, subsampling=0)  # to look at; a PNG takes ten times as long
            artifact: str = upload_artifact(artifact_store=self.store, file_path=str(path), study_or_trial=trial)
        return artifact

    def copy_sheet(self, number: int, source: Path) -> tuple[str, dict[str, Any]]:
        """Store a copy of a contact sheet for a trial that is about to be added.

        Optuna attaches artifacts to running trials only, so a trial in memory stands in for it.

        Returns:
            The artifact id, and the system attributes by which the trial has it.
        """
        study = optuna.create_study(storage=InMemoryStorage())
        stand_in = study.ask()
        with TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder) / f"trial {number}.jpg"
            shutil.copyfile(source, path)
            artifact: str = upload_artifact(artifact_store=self.store, file_path=str(path), study_or_trial=stand_in)
        return artifact, study.trials[0].system_attrs

    def sheet_path(self, artifact: str) -> Path:
        return self.folder / "store" / artifact

    def save_render(self, study: str, number: int, item: int, picture: Image.Image) -> str:
        """Store one render losslessly; returns its path below the folder."""
        relative, path = self._new_render(study, number, item)
        picture.save(path, compress_level=1)  # as lossless, and faster
        return relative

    def copy_render(self, study: str, number: int, item: int, source: Path) -> str:
        """Store a copy of a render's file; returns its path below the folder."""
        relative, path = self._new_render(study, number, item)
        shutil.copyfile(source, path)
        return relative

    def _new_render(self, study: str, number: int, item: int) -> tuple[str, Path]:
        relative = Path("renders") / study / str(number) / f"{item:04d}.png"
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return relative.as_posix(), path

    def open_render(self, relative: str) -> Image.Image:
        with Image.open(self.folder / relative) as file:
            return file.convert("RGB")

    def delete(self, relative: str) -> None:
        (self.folder / relative).unlink(missing_ok=True)

    def save_features(self, study: str, number: int, features: dict[str, NDArray[Any]]) -> None:
        """Set scorer -> [items, d]; what the bootstrap of a set score needs after a restart."""
        path = self.features_path(study, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        try:
            with temporary.open("wb") as file:
                # Bracketed, a scorer called `file` or `x.npy` is not taken for an argument or a member's name.
                named = {f"[{name}]": rows for name, rows in features.items()}
                np.savez(file, allow_pickle=False, **named)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load_features(self, study: str, number: int) -> dict[str, NDArray[Any]]:
        """Empty when there are none."""
        path = self.features_path(study, number)
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as stored:
            return {name[1:-1]: stored[name] for name in stored.files if name.startswith("[")}

    def feature_names(self, study: str, number: int) -> set[str]:
        """The set scorers whose features are stored; those are not read."""
        path = self.features_path(study, number)
        if not path.exists():
            return set()
        with np.load(path, allow_pickle=False) as stored:
            return {name[1:-1] for name in stored.files if name.startswith("[")}

    def copy_features(self, study: str, number: int, source: Path) -> None:
        """A copy of the file that `save_features` wrote for another trial."""
        path = self.features_path(study, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)

    def features_path(self, study: str, number: int) -> Path:
        return self.folder / "features" / study / f"{number}.npz"


def usual_folder(url: str) -> Path:
    """`NAME-artifacts` beside a SQLite file, or `mergetune-artifacts` here."""
    file = database_file(url)
    return file.with_name(f"{file.stem}-artifacts") if file is not None else Path("mergetune-artifacts")
