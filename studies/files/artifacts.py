"""The files of studies: contact sheets, kept renders, features of set scores; in a folder or an S3-compatible store.

    studies/KEY/NUMBER-WORKER/sheet.jpg, 0000.png, features.npz     of a trial, as one worker made it
    uploads/ID                                                      what people put into a study in the dashboard
    NAME.png, NAME-final.png                                        pictures of a study, for people

A study's key is its own among all databases, so that these may share a store. The worker's name is in a trial's, so
that one that was wrongly taken for dead can neither overwrite nor remove what its successor stored: the row of a trial
names the worker whose files are meant.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.artifacts import ArtifactMeta
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX  # optuna-dashboard has a copy of it too
from optuna.artifacts.exceptions import ArtifactNotFound
from PIL import Image

from studies.errors import ArtifactError
from studies.files.png import encode_png
from studies.files.stores import SCHEME, FolderStore, Store, bucket_store
from studies.system.database_url import database_file, from_home

SHEET: Final = "sheet.jpg"
FEATURES: Final = "features.npz"
SHEET_ID: Final = re.compile(r"([0-9a-z]+)-([0-9]+-[0-9a-z]+)")  # an upload's is a UUID, with four dashes
WORKER_LETTERS: Final = 12

Features = Mapping[str, NDArray[Any]]  # set scorer -> [items, d]


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Everything in one store."""

    store: Store

    @classmethod
    def beside(cls, url: str, place: str | Path | None = None) -> Artifacts:
        """In `place`, or in `NAME-artifacts` beside a SQLite file, or in `mergetune-artifacts` here.

        Args:
            place: a folder, made if it is missing, or `s3://bucket/prefix`.

        Raises:
            ArtifactError: it cannot be used.
        """
        found = usual_folder(url) if place is None else place
        if is_bucket(found):
            bucket = bucket_store(str(found))
            bucket.require()
            return cls(bucket)
        folder = FolderStore(_folder(found))
        folder.make()
        return cls(folder)

    @classmethod
    def known(cls, url: str, place: str | Path | None = None) -> Artifacts:
        """As `beside`, to be read only: a folder that is not there has nothing in it, and nothing is asked yet."""
        found = usual_folder(url) if place is None else place
        if is_bucket(found):
            return cls(bucket_store(str(found)))
        return cls(FolderStore(_folder(found), required=False))

    @property
    def place(self) -> str:
        """Where everything is, for people."""
        return self.store.place

    def of_trial(self, key: str, number: int, worker_id: str) -> TrialFiles:
        """The files of study `key`'s trial, as that worker made them."""
        return TrialFiles(self.store, f"studies/{key}", f"{number}-{worker_id[:WORKER_LETTERS]}")

    def remove_others(self, key: str, number: int, worker_id: str) -> None:
        """Remove what other workers left of a trial: those that died over it, or gave it back."""
        ours = self.of_trial(key, number, worker_id).folder
        for file in list(self.store.files(f"studies/{key}/{number}-")):
            if not file.name.startswith(f"{ours}/"):
                self.store.remove(file.name)

    def open_render(self, name: str) -> Image.Image:
        """A kept render, by the name that the database has. Raises ArtifactNotFound where it is gone."""
        with Image.open(io.BytesIO(self.store.read(name))) as file:
            return file.convert("RGB")

    def save_picture(self, name: str, picture: Image.Image) -> str:
        """Store a picture of a study losslessly, for people; returns where it is."""
        self.store.write(name, _encoded(picture, format="PNG"))
        return f"{self.place}/{name}"

    @property
    def shown(self) -> ShownArtifacts:
        """What the dashboard shows."""
        return ShownArtifacts(self.store)


@dataclass(frozen=True, slots=True)
class TrialFiles:
    """The files of one trial.

    Args:
        study: name of the study's part of the store.
        attempt: number and worker.
    """

    store: Store
    study: str
    attempt: str

    @property
    def folder(self) -> str:
        return f"{self.study}/{self.attempt}"

    @property
    def sheet_id(self) -> str:
        """By which Optuna knows the contact sheet: hexadecimal digits and dashes, as the dashboard wants it."""
        return f"{self.study.rpartition('/')[2]}-{self.attempt}"

    def name(self, file: str) -> str:
        return f"{self.folder}/{file}"

    def save_sheet(self, sheet: Image.Image) -> str:
        """Store a contact sheet; returns its artifact id. It is to look at: a PNG takes ten times as long."""
        self.store.write(self.name(SHEET), _encoded(sheet, format="JPEG", quality=90, subsampling=0))
        return self.sheet_id

    def save_render(self, item: int, pixels: NDArray[np.uint8]) -> str:
        """Store one render, [3, h, w], losslessly; returns its name in the store. Several threads may do so at once."""
        name = self.name(render_file(item))
        self.store.write(name, encode_png(pixels))
        return name

    def save_features(self, features: Features) -> None:
        """Store scorer -> [items, d]; what the bootstrap of a set score needs after a restart."""
        # Bracketed, a scorer called `file` or `x.npy` is not taken for an argument or a member's name.
        named = {f"[{name}]": rows for name, rows in features.items()}
        with io.BytesIO() as buffer:
            np.savez(buffer, allow_pickle=False, **named)
            self.store.write(self.name(FEATURES), buffer.getvalue())

    def load_features(self) -> dict[str, NDArray[Any]]:
        """Empty when there are none."""
        try:
            content = self.store.read(self.name(FEATURES))
        except ArtifactNotFound:
            return {}
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name[1:-1]: stored[name] for name in stored.files if name.startswith("[")}

    def files(self) -> frozenset[str]:
        """What there is, as the names of files without the folder's."""
        return frozenset(file.name.rpartition("/")[2] for file in self.store.files(f"{self.folder}/"))

    def copy(self, file: str, source: TrialFiles) -> str:
        """Store a copy of another trial's file; returns its name. Raises ArtifactNotFound where that is gone."""
        self.store.write(self.name(file), source.store.read(source.name(file)))
        return self.name(file)

    def remove(self) -> None:
        """All of them, also parts of files."""
        for file in list(self.store.files(f"{self.folder}/")):
            self.store.remove(file.name)


def render_file(item: int) -> str:
    """What the render of a suite's item is called."""
    return f"{item:04d}.png"


def sheet_attributes(sheet: str, number: int) -> dict[str, str]:
    """The system attributes by which an Optuna trial has its contact sheet, as Optuna's `upload_artifact` sets them.

    That sets them first and stores the file then: a trial would have what there is not.
    """
    meta = ArtifactMeta(artifact_id=sheet, filename=f"trial {number}.jpg", mimetype="image/jpeg", encoding=None)
    return {ARTIFACTS_ATTR_PREFIX + sheet: json.dumps(asdict(meta))}


def attach_sheet(trial: optuna.Trial, sheet: str) -> None:
    """Give a running trial its contact sheet, which is stored; may be done again."""
    for key, value in sheet_attributes(sheet, trial.number).items():
        trial.storage.set_trial_system_attr(trial._trial_id, key, value)  # noqa: SLF001 - as Optuna's own


@dataclass(frozen=True, slots=True)
class ShownArtifacts:
    """The store as optuna-dashboard, or any other user of Optuna's artifacts, wants it: by artifact id."""

    store: Store

    def open_reader(self, artifact_id: str) -> BinaryIO:
        return io.BytesIO(self.store.read(stored_name(artifact_id)))

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self.store.write(stored_name(artifact_id), content_body.read())

    def remove(self, artifact_id: str) -> None:
        self.store.remove(stored_name(artifact_id))


def stored_name(artifact_id: str) -> str:
    """Where the file of an artifact id is: a contact sheet's, or what someone has uploaded."""
    sheet = SHEET_ID.fullmatch(artifact_id)
    return f"uploads/{artifact_id}" if sheet is None else f"studies/{sheet[1]}/{sheet[2]}/{SHEET}"


def _encoded(picture: Image.Image, **options: Any) -> bytes:
    with io.BytesIO() as buffer:
        picture.save(buffer, **options)
        return buffer.getvalue()


def is_bucket(place: str | Path) -> bool:
    return isinstance(place, str) and place.startswith(SCHEME)


def _folder(place: str | Path) -> Path:
    """Return a folder from the root on. Raises ArtifactError for a URL, which would be a folder named `gs:`."""
    if isinstance(place, str) and "://" in place:
        raise ArtifactError(f"artifacts are kept in a folder or in s3://bucket/prefix, got {place!r}")
    return from_home(Path(place)).resolve()


def usual_folder(url: str) -> Path:
    """`NAME-artifacts` beside a SQLite file, or `mergetune-artifacts` here."""
    file = database_file(url)
    return file.with_name(f"{file.stem}-artifacts") if file is not None else Path("mergetune-artifacts")
