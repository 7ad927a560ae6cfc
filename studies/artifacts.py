"""The folder beside the database: contact sheets (Optuna's artifact store), kept renders, features of set scores."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from PIL import Image

from studies.database import database_file
from studies.errors import DatabaseError


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Files of the studies in one database. Paths in the database are relative to `folder`."""

    folder: Path

    @classmethod
    def beside(cls, url: str, folder: Path | None = None) -> Artifacts:
        """`folder`, or `NAME-artifacts` beside a SQLite file, or `mergetune-artifacts` here; made if missing."""
        file = database_file(url)
        usual = file.with_name(f"{file.stem}-artifacts") if file is not None else Path("mergetune-artifacts")
        chosen = (folder or usual).resolve()
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

    def sheet_path(self, artifact: str) -> Path:
        return self.folder / "store" / artifact

    def save_render(self, study_id: int, number: int, item: int, picture: Image.Image) -> str:
        """Store one render losslessly; returns its path below the folder."""
        relative = Path("renders") / str(study_id) / str(number) / f"{item:04d}.png"
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, compress_level=1)  # as lossless, and faster
        return relative.as_posix()

    def open_render(self, relative: str) -> Image.Image:
        with Image.open(self.folder / relative) as file:
            return file.convert("RGB")

    def delete(self, relative: str) -> None:
        (self.folder / relative).unlink(missing_ok=True)

    def save_features(self, study_id: int, number: int, features: dict[str, NDArray[Any]]) -> None:
        """Set scorer -> [items, d]; what the bootstrap of a set score needs after a restart."""
        path = self._features(study_id, number)
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

    def load_features(self, study_id: int, number: int) -> dict[str, NDArray[Any]]:
        """Empty when there are none."""
        path = self._features(study_id, number)
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as stored:
            return {name[1:-1]: stored[name] for name in stored.files if name.startswith("[")}

    def _features(self, study_id: int, number: int) -> Path:
        return self.folder / "features" / str(study_id) / f"{number}.npz"
