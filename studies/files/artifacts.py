"""The artifacts of studies: contact sheets, stored renders and features, in a folder or an S3-compatible store.

    studies/KEY/NUMBER-WORKER/sheet.jpg, features.npz, RENDER.png   a trial's files, as one worker made them
    studies/KEY/final/RENDER.png                                    renders of the final, which the search never saw
    uploads/ID                                                      files that people upload in the dashboard
    NAME~KEY-best.png, -latest.png, -final.png, -report.html        what a study shows, with the key's beginning

A render's file is called `trial-12-prompt-03-seed-1.png`; one of an earlier version has its item's number, `0002.png`.

A study's key is unique across databases, so several databases may share a store. The name of a trial's folder contains
its worker's id, so a worker that was wrongly declared dead can neither overwrite nor remove its successor's files. The
trial's row in the database names the worker whose files count.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.artifacts import ArtifactMeta
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX  # optuna-dashboard has a copy of it too
from optuna.artifacts.exceptions import ArtifactNotFound
from PIL import Image

from basics.names import typed_path
from basics.pictures import UNREADABLE
from studies.errors import ArtifactError, RenderLostError
from studies.files.jpeg import encode_jpeg
from studies.files.png import encode_png, picture_png
from studies.files.stores import SCHEME, FolderStore, Store, bucket_store
from studies.system.database_url import database_file

SHEET: Final = "sheet.jpg"
FEATURES: Final = "features.npz"
FINAL: Final = "final"
SHEET_ID: Final = re.compile(r"([0-9a-z]+)-([0-9]+-[0-9a-z]+)")  # an upload's id is a UUID, with four dashes
STUDY_SHEET: Final = re.compile(r"[^/\\]+~[0-9a-f]+-[a-z]+\.png")  # as `sheet_name` makes it
STUDY_SHEET_ID: Final = re.compile(r"((?:[0-9a-f]{2})+)-f11e")
LONGEST_ID: Final = 400  # characters: Optuna's keys, of which an id is a part, have 512 at most
KEY_DIGITS: Final = 8  # of a study's key in the names of its contact sheets and its report
WORKER_LETTERS: Final = 12  # of a worker's id in the name of a trial's folder
WRITERS: Final = 4  # threads that encode renders and write them

# The parents beside the best trial, or beside the best so far while the study runs, or beside the final's candidates.
SheetKind = Literal["best", "latest", "final"]
Features = Mapping[str, NDArray[Any]]  # set scorer -> [items, d]


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The artifacts of all studies of a store."""

    store: Store

    @classmethod
    def beside(cls, url: str, location: str | Path | None = None) -> Artifacts:
        """Open the artifact store of a database, creating its folder if necessary.

        Args:
            url: of the database.
            location: a folder or `s3://bucket/prefix`; None: as `default_folder`.

        Raises:
            ArtifactError: it cannot be used.
        """
        chosen = default_folder(url) if location is None else location
        if is_bucket(chosen):
            bucket = bucket_store(str(chosen))
            bucket.require()
            return cls(bucket)
        folder = FolderStore(_folder(chosen))
        folder.make()
        return cls(folder)

    @classmethod
    def existing(cls, url: str, location: str | Path | None = None) -> Artifacts:
        """Open the artifact store of a database for reading: nothing is created, and a missing folder is empty.

        Args:
            url, location: as `beside` takes them.
        """
        chosen = default_folder(url) if location is None else location
        if is_bucket(chosen):
            return cls(bucket_store(str(chosen)))
        return cls(FolderStore(_folder(chosen), required=False))

    @property
    def location(self) -> str:
        """The store's folder or URL, for people."""
        return self.store.location

    def of_trial(self, key: str, number: int, worker_id: str) -> TrialFiles:
        """Return the files of a trial of study `key`, as that worker made them."""
        return TrialFiles(self.store, f"studies/{key}", f"{number}-{worker_id[:WORKER_LETTERS]}")

    def of_final(self, key: str) -> TrialFiles:
        """Return the renders of the final of study `key`, those of all who took part."""
        return TrialFiles(self.store, f"studies/{key}", FINAL)

    def remove_others(self, key: str, number: int, worker_id: str) -> None:
        """Remove a trial's files of other workers, which died during the trial or gave it back."""
        ours = self.of_trial(key, number, worker_id).folder
        for file in list(self.store.files(f"studies/{key}/{number}-")):
            if not file.name.startswith(f"{ours}/"):
                self.store.remove(file.name)

    def open_render(self, name: str) -> Image.Image:
        """Decode a stored render.

        Args:
            name: in the store, as the database has it.

        Raises:
            RenderLostError: it is gone, or damaged.
            ArtifactError: the store fails.
        """
        with _damage_told(name), Image.open(io.BytesIO(self._png(name)), formats=("PNG",)) as file:
            return file.convert("RGB")

    def render_png(self, name: str) -> bytes:
        """Return a stored render as the PNG that it is, checked but for its pixels.

        Args:
            name: in the store, as the database has it.

        Raises:
            RenderLostError: it is gone, or damaged.
            ArtifactError: the store fails.
        """
        content = self._png(name)
        with _damage_told(name), Image.open(io.BytesIO(content), formats=("PNG",)) as file:
            file.verify()
        return content

    def _png(self, name: str) -> bytes:
        try:
            return self.store.read(name)
        except ArtifactNotFound as error:
            raise RenderLostError(f"{name} is gone") from error

    def save_contact_sheet(self, name: str, key: str, shows: SheetKind, sheet: Image.Image) -> str:
        """Store a contact sheet of a study losslessly, and return its path or URL.

        Args:
            name, key: of the study.
        """
        file = sheet_name(name, key, shows)
        self.store.write(file, picture_png(sheet))
        return f"{self.location}/{file}"

    def save_report(self, name: str, key: str, page: str) -> str:
        """Store the report of a study, an HTML page, and return its path or URL.

        Args:
            name, key: of the study.
        """
        file = report_name(name, key)
        self.store.write(file, page.encode())
        return f"{self.location}/{file}"

    def has_contact_sheet(self, name: str, key: str, shows: SheetKind) -> bool:
        """Return whether a contact sheet of a study is stored.

        Args:
            name, key: of the study.
        """
        file = sheet_name(name, key, shows)
        return any(stored.name == file for stored in self.store.files(file))

    def shown_files(self, name: str, key: str) -> list[str]:
        """List the contact sheets and the report of a study, as they are called in the store.

        Args:
            name, key: of the study.
        """
        return sorted(file.name for file in self.store.files(f"{name}~{key[:KEY_DIGITS]}-"))

    @property
    def for_optuna(self) -> OptunaArtifacts:
        """The same store by artifact id, as the dashboard reads it."""
        return OptunaArtifacts(self.store)


@contextmanager
def _damage_told(name: str) -> Iterator[None]:
    """Report in the block that a stored render is damaged.

    Raises:
        RenderLostError: it is.
    """
    try:
        yield
    except UNREADABLE as error:
        raise RenderLostError(f"{name} cannot be read") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderFile:
    """A render to be stored."""

    file: str  # its name, without folder: see `studies/records/kept_renders.py`
    pixels: NDArray[np.uint8]  # [3, h, w]
    texts: Mapping[str, str] = field(default_factory=dict)  # keyword -> what the file says about the render


@dataclass(frozen=True, slots=True)
class TrialFiles:
    """The files of one trial, or of the final.

    Args:
        study: the study's folder in the store.
        attempt: the trial's number and worker, or `FINAL`.
    """

    store: Store
    study: str
    attempt: str

    @property
    def folder(self) -> str:
        return f"{self.study}/{self.attempt}"

    @property
    def sheet_id(self) -> str:
        """The contact sheet's artifact id in Optuna: hexadecimal digits and dashes, as the dashboard expects."""
        return f"{self.study.rpartition('/')[2]}-{self.attempt}"

    def name(self, file: str) -> str:
        """Return the name in the store of one of the trial's files."""
        return f"{self.folder}/{file}"

    def save_sheet(self, sheet: Image.Image) -> str:
        """Store a contact sheet as JPEG, and return its artifact id.

        It is only looked at, and a PNG takes ten times as long.
        """
        self.store.write(self.name(SHEET), encoded_sheet(sheet))
        return self.sheet_id

    def save_renders(self, renders: Sequence[RenderFile]) -> list[str]:
        """Store renders losslessly, and return their names in the store."""
        with ThreadPoolExecutor(WRITERS) as threads:  # leaving waits for all: no file is written after a failure
            return list(threads.map(self._save_render, renders))

    def _save_render(self, render: RenderFile) -> str:
        name = self.name(render.file)
        self.store.write(name, encode_png(render.pixels, render.texts))
        return name

    def save_features(self, features: Features) -> None:
        """Store the features of set scorers: after a restart, the bootstrap of a set score needs them."""
        # In brackets, a scorer called `file` or `x.npy` is not mistaken for an argument or a member's name.
        named = {f"[{name}]": array for name, array in features.items()}
        with io.BytesIO() as buffer:
            np.savez(buffer, allow_pickle=False, **named)
            self.store.write(self.name(FEATURES), buffer.getvalue())

    def load_features(self) -> dict[str, NDArray[Any]]:
        """Load the features of set scorers; empty if none are stored."""
        try:
            content = self.store.read(self.name(FEATURES))
        except ArtifactNotFound:
            return {}
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name[1:-1]: stored[name] for name in stored.files if name.startswith("[")}

    def files(self) -> frozenset[str]:
        """Return the names of all files, without the folder's."""
        return frozenset(file.name.rpartition("/")[2] for file in self.store.files(f"{self.folder}/"))

    def copy(self, file: str, source: TrialFiles, as_file: str | None = None) -> str:
        """Store a copy of another trial's file, and return its name in the store.

        Args:
            as_file: what the copy is called; None: as the other.

        Raises:
            ArtifactNotFound: the other file no longer exists.
        """
        name = self.name(as_file or file)
        self.store.write(name, source.store.read(source.name(file)))
        return name

    def remove(self) -> None:
        """Remove all files, including those that were only partly written."""
        for file in list(self.store.files(f"{self.folder}/")):
            self.store.remove(file.name)


def sheet_name(name: str, key: str, shows: SheetKind) -> str:
    """Return the name in the store of a contact sheet of a study, which no other study's has.

    The key tells studies apart whose names differ in case only, or that come from different databases. A study's name
    has no `~`, so no study can be called what another one's sheet is.
    """
    return f"{name}~{key[:KEY_DIGITS]}-{shows}.png"


def study_sheet_id(file: str) -> str | None:
    """Return the artifact id in Optuna of a study's contact sheet: its file name, spelled in hexadecimal digits.

    None for a name that is too long for a key of Optuna's.
    """
    spelled = f"{file.encode().hex()}-f11e"
    return spelled if len(spelled) <= LONGEST_ID else None


def study_sheet_attributes(file: str, title: str) -> dict[str, str]:
    """Return the system attributes that link an Optuna study to one of its contact sheets; none where it has no id.

    Args:
        title: what the dashboard calls it.
    """
    spelled = study_sheet_id(file)
    if spelled is None:
        return {}
    meta = ArtifactMeta(artifact_id=spelled, filename=f"{title}.png", mimetype="image/png", encoding=None)
    return {ARTIFACTS_ATTR_PREFIX + spelled: json.dumps(asdict(meta))}


def report_name(name: str, key: str) -> str:
    """Return the name in the store of a study's report; see `sheet_name`."""
    return f"{name}~{key[:KEY_DIGITS]}-report.html"


def sheet_attributes(sheet: str, number: int) -> dict[str, str]:
    """Return the system attributes that link an Optuna trial to its contact sheet.

    Optuna's `upload_artifact` sets the same ones, but before it stores the file: a trial could then link to nothing.
    """
    meta = ArtifactMeta(artifact_id=sheet, filename=f"trial {number}.jpg", mimetype="image/jpeg", encoding=None)
    return {ARTIFACTS_ATTR_PREFIX + sheet: json.dumps(asdict(meta))}


def attach_sheet(trial: optuna.Trial, sheet: str) -> None:
    """Link a running trial to its stored contact sheet; repeating it does no harm."""
    for key, value in sheet_attributes(sheet, trial.number).items():
        trial.storage.set_trial_system_attr(trial._trial_id, key, value)  # noqa: SLF001 - as Optuna's own


@dataclass(frozen=True, slots=True)
class OptunaArtifacts:
    """An Optuna artifact store: the same files by artifact id, for optuna-dashboard."""

    store: Store

    def open_reader(self, artifact_id: str) -> BinaryIO:
        return io.BytesIO(self.store.read(stored_name(artifact_id)))

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self.store.write(stored_name(artifact_id), content_body.read())

    def remove(self, artifact_id: str) -> None:
        self.store.remove(stored_name(artifact_id))


def stored_name(artifact_id: str) -> str:
    """Return the name in the store of an artifact: a contact sheet of a study or of a trial, or an upload."""
    spelled = STUDY_SHEET_ID.fullmatch(artifact_id)
    name = "" if spelled is None else bytes.fromhex(spelled[1]).decode(errors="replace")
    if STUDY_SHEET.fullmatch(name):
        return name
    sheet = SHEET_ID.fullmatch(artifact_id)
    return f"uploads/{artifact_id}" if sheet is None else f"studies/{sheet[1]}/{sheet[2]}/{SHEET}"


def encoded_sheet(sheet: Image.Image) -> bytes:
    """Return a contact sheet as it is stored."""
    return encode_jpeg(sheet, 90, full_colour=True)


def is_bucket(location: str | Path) -> bool:
    """Return whether it is the URL of a bucket rather than a folder."""
    return isinstance(location, str) and location.startswith(SCHEME)


def _folder(location: str | Path) -> Path:
    """Return a folder from the root on. Raises ArtifactError for a URL, which would be a folder named `gs:`."""
    if isinstance(location, str) and "://" in location:
        raise ArtifactError(f"artifacts are kept in a folder or in s3://bucket/prefix, got {location!r}")
    return typed_path(location).resolve()


def default_folder(url: str) -> Path:
    """Return `NAME-artifacts` beside a SQLite file; for a server, `mergetune-artifacts` in the current folder."""
    file = database_file(url)
    return file.with_name(f"{file.stem}-artifacts") if file is not None else Path("mergetune-artifacts")
