"""Where the files of studies lie: a folder, or a bucket of an S3-compatible store.

A store holds files under names with slashes, as `studies/KEY/3-0f2a/0000.png`. Both kinds go through Optuna's artifact
stores and tell what goes wrong in the same words: `ArtifactsAwayError` where waiting may help, else `ArtifactError`.
"""

from __future__ import annotations

import errno
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from optuna.artifacts import Boto3ArtifactStore, FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from studies.errors import ArtifactError, ArtifactsAwayError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

SCHEME: Final = "s3://"
CONNECT_SECONDS: Final = 10
ANSWER_SECONDS: Final = 60
ATTEMPTS: Final = 3  # of botocore, within a second or two; what takes longer is waited for by the worker
PART: Final = ".part-"  # of a file's name while it is written

AWAY: Final = frozenset(
    {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH}
)  # what a network share answers whose server is away
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
BUSY: Final = frozenset({"RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError"})  # of S3


@dataclass(frozen=True, slots=True, order=True)
class StoredFile:
    name: str
    bytes: int


class Store(Protocol):
    """Files by name. Every method raises ArtifactError or ArtifactsAwayError when the store fails."""

    @property
    def place(self) -> str:
        """Where it is, for people: a folder's path, or `s3://bucket/prefix`."""

    def read(self, name: str) -> bytes:
        """Raises ArtifactNotFound (Optuna's) where there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """Store a file whole or not at all; replaces one of the same name."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def files(self, prefix: str) -> Iterator[StoredFile]:
        """Files whose names begin with `prefix`, in no order; also the parts of writes that were cut off."""


class FolderStore:
    """A folder, also one of a network share.

    Args:
        folder: absolute; made by `make`, and never again after that: of a share that is away nothing is left but the
            empty folder where it was.
        required: whether it is an outage that the folder is not there; else it is as one without files.
    """

    def __init__(self, folder: Path, *, required: bool = True) -> None:
        self.folder, self._required = folder, required
        self._files = FileSystemArtifactStore(folder)

    @property
    def place(self) -> str:
        return str(self.folder)

    def make(self) -> None:
        """Raises ArtifactError where the folder cannot be made."""
        try:
            self._base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"the artifact folder {self.folder} cannot be made: {error.strerror}") from error

    @property
    def _base(self) -> Path:
        return self.folder / "studies"

    def read(self, name: str) -> bytes:
        with self._told(name):
            try:
                with self._files.open_reader(name) as file:
                    return file.read()
            except ArtifactNotFound:
                self._require_base()
                raise

    def write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        part = f"{name}{PART}{uuid.uuid4().hex[:8]}"
        with self._told(name):
            self._require_base()
            if path.resolve().is_relative_to(self.folder):  # else Optuna's store refuses it
                path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._files.write(part, io.BytesIO(content))
                (self.folder / part).replace(path)
            except BaseException:
                (self.folder / part).unlink(missing_ok=True)
                raise

    def remove(self, name: str) -> None:
        with self._told(name):
            try:
                self._files.remove(name)
            except ArtifactNotFound:
                self._require_base()
                return
            self._drop_empty((self.folder / name).parent)

    def _drop_empty(self, folder: Path) -> None:
        while folder not in {self.folder, self._base} and folder.is_relative_to(self.folder):
            try:
                folder.rmdir()
            except OSError:  # something else is in it, by now perhaps
                return
            folder = folder.parent

    def files(self, prefix: str) -> Iterator[StoredFile]:
        with self._told(prefix):
            self._require_base()
            start = self.folder / prefix.rpartition("/")[0]
            for folder, _, names in os.walk(start, onerror=_raise_unless_gone):
                for name in names:
                    path = Path(folder) / name
                    relative = path.relative_to(self.folder).as_posix()
                    if relative.startswith(prefix):
                        with suppress(FileNotFoundError):  # removed in this moment
                            yield StoredFile(relative, path.stat().st_size)

    def _require_base(self) -> None:
        if self._required and not self._base.is_dir():
            raise ArtifactsAwayError(f"the artifact folder {self.folder} is not there: is a share not mounted?")

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"artifact folder {self.folder}: {error.strerror or error} ({name})"
            if error.errno in AWAY:
                raise ArtifactsAwayError(reason) from error
            if error.errno in FULL:
                reason += ": make room, with `mergetune study prune-artifacts` for example"
            raise ArtifactError(reason) from error
        except ValueError as error:  # Optuna's word for it
            raise ArtifactError(f"artifact folder {self.folder}: {name!r} would lead out of it") from error


class BucketStore:
    """A prefix of a bucket in an S3-compatible store; endpoint, region and credentials are boto3's to find.

    Args:
        bucket: must exist.
        prefix: "" or ends with a slash.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix

    @property
    def place(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        waits = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=ANSWER_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        return boto3.Session().client("s3", config=waits)  # the session that all share is not made for threads

    @cached_property
    def _files(self) -> Boto3ArtifactStore:
        return Boto3ArtifactStore(self.bucket, client=self._client)

    def require(self) -> None:
        """Raises what any request would, as early as possible."""
        next(self.files("studies/"), None)

    def read(self, name: str) -> bytes:
        with self._told():
            return self._files.open_reader(self.prefix + name).read()

    def write(self, name: str, content: bytes) -> None:
        with self._told():
            self._files.write(self.prefix + name, io.BytesIO(content))

    def remove(self, name: str) -> None:
        with self._told():
            self._files.remove(self.prefix + name)

    def files(self, prefix: str) -> Iterator[StoredFile]:
        with self._told():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for row in page.get("Contents", ()):
                    yield StoredFile(row["Key"].removeprefix(self.prefix), row["Size"])

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            from botocore import exceptions as boto
        except ImportError as error:
            raise ArtifactError(
                f"artifacts in {self.place} need boto3, which is not installed: pip install 'mergetune[s3]'"
            ) from error
        try:
            yield
        except boto.ClientError as error:
            raise self._refusal(error) from error
        except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, OSError) as error:
            raise ArtifactsAwayError(f"artifact store {self.place}: {_one_line(error)}") from error
        except (boto.BotoCoreError, ValueError) as error:  # a ValueError for an endpoint that is no URL
            raise ArtifactError(f"artifact store {self.place}: {_one_line(error)}") from error

    def _refusal(self, error: ClientError) -> ArtifactError:
        answer: Any = error.response
        code = str(answer.get("Error", {}).get("Code", ""))
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return ArtifactError(f"artifact store {self.place}: there is no bucket {self.bucket!r}: make it first")
        if status >= 500 or code in BUSY:
            return ArtifactsAwayError(f"artifact store {self.place}: {_one_line(error)}")
        return ArtifactError(f"artifact store {self.place}: {_one_line(error)}: look at its credentials and policy")


def _raise_unless_gone(error: OSError) -> None:
    """Folders may vanish while they are walked through, or never have been."""
    if error.errno != errno.ENOENT:
        raise error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def bucket_store(place: str) -> BucketStore:
    """The store that `s3://bucket/prefix` names; nothing is asked of it yet.

    Raises:
        ArtifactError: it is written in another way.
    """
    bucket, _, prefix = place.removeprefix(SCHEME).partition("/")
    if "@" in bucket or ":" in bucket:  # not shown: it may hold a secret
        raise ArtifactError(
            "an artifact store is written s3://bucket/prefix: credentials and endpoint are taken from boto3's "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL) or its files"
        )
    if not bucket or "?" in place or "//" in f"/{prefix}":
        raise ArtifactError(f"an artifact store is written s3://bucket/prefix, got {place!r}")
    prefix = prefix.strip("/")
    return BucketStore(bucket, f"{prefix}/" if prefix else "")
