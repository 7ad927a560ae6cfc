"""Stores for the files of studies: a folder, or a bucket of an S3-compatible store.

A store holds files under names with slashes, such as `studies/KEY/3-0f2a/0000.png`. Both kinds use Optuna's artifact
stores and raise the same errors: `ArtifactsAwayError` if waiting may help, else `ArtifactError`.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from optuna.artifacts import Boto3ArtifactStore, FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from basics.files import open_to_write, replacing
from studies.errors import ArtifactError, ArtifactsAwayError, ArtifactsReplacedError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

SCHEME: Final = "s3://"
CONNECT_SECONDS: Final = 10
ANSWER_SECONDS: Final = 60
LOOK_AGAIN_SECONDS: Final = 60.0  # after which a folder's content is noted anew, by which it is known
ATTEMPTS: Final = 3  # of botocore, within a second or two; the worker waits for longer outages

AWAY: Final = frozenset(
    {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH}
)  # errors of a network share whose server cannot be reached
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
BUSY: Final = frozenset({"RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError"})  # S3 error codes


@dataclass(frozen=True, slots=True, order=True)
class StoredFile:
    """A file of a store with its size."""

    name: str
    bytes: int


class Store(Protocol):
    """A store of files by name. Every method raises ArtifactError or ArtifactsAwayError if the store fails."""

    @property
    def location(self) -> str:
        """A folder's path, or `s3://bucket/prefix`; for people."""

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            ArtifactNotFound: there is no such file. The class is Optuna's.
        """

    def write(self, name: str, content: bytes) -> None:
        """Store a file whole or not at all, replacing one of the same name."""

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""

    def files(self, prefix: str) -> Iterator[StoredFile]:
        """Yield the files whose names begin with `prefix`, unordered, including those that were only partly written.

        What is no file, such as a pipe or a link that leads to itself, is left out.
        """


class FolderStore:
    """A store in a folder, which may be on a network share.

    Args:
        folder: an absolute path. Only `make` creates it: if a share is not mounted, its mount point is an empty folder,
            and nothing must be written there.
        required: whether a missing folder counts as an outage; otherwise it counts as an empty one.
    """

    def __init__(self, folder: Path, *, required: bool = True) -> None:
        self.folder, self._required = folder, required
        self._files = FileSystemArtifactStore(folder)
        self._identity: tuple[int, int] | None = None  # device and inode of the base
        self._known: set[str] = set()  # what this process saw in it, or put there
        self._looked = 0.0  # when it last saw all, by time.monotonic()

    @property
    def location(self) -> str:
        return str(self.folder)

    def make(self) -> None:
        """Create the folder, if it does not exist.

        Raises:
            ArtifactError: it cannot be created.
        """
        try:
            self._base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"the artifact folder {self.folder} cannot be created: {error.strerror}") from error
        with self._explained("studies"):
            self._require_base()

    @property
    def _base(self) -> Path:
        return self.folder / "studies"

    def read(self, name: str) -> bytes:
        with self._explained(name):
            self._require_readable(name)
            try:
                with self._files.open_reader(name) as file:
                    return file.read()
            except ArtifactNotFound:
                self._require_base()
                raise

    def write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        with self._explained(name):
            self._require_base()
            if not path.parent.resolve().is_relative_to(self.folder) or path.name == "..":
                raise ValueError(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part, open_to_write(part) as file:
                file.write(content)
            self._note(path)

    def remove(self, name: str) -> None:
        with self._explained(name):
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
            except OSError:  # it is not empty, perhaps since a moment ago
                return
            folder = folder.parent

    def files(self, prefix: str) -> Iterator[StoredFile]:
        with self._explained(prefix):
            self._require_base()
            start = self.folder / prefix.rpartition("/")[0]
            for folder, folders, names in os.walk(start, onerror=_raise_unless_gone):
                inner = {each: f"{(Path(folder) / each).relative_to(self.folder).as_posix()}/" for each in folders}
                folders[:] = [each for each, at in inner.items() if at.startswith(prefix) or prefix.startswith(at)]
                for name in names:
                    path = Path(folder) / name
                    relative = path.relative_to(self.folder).as_posix()
                    status = _status(path) if relative.startswith(prefix) else None
                    if status is not None and stat.S_ISREG(status.st_mode):
                        yield StoredFile(relative, status.st_size)

    def _require_readable(self, name: str) -> None:
        """Refuse what is no file: reading a pipe would never end.

        Raises:
            ArtifactNotFound: something else bears the name.
        """
        path = self.folder / name
        if path.is_symlink() or path.exists():
            status = _status(path)
            if status is None or not stat.S_ISREG(status.st_mode):
                raise ArtifactNotFound(f"{name} is no file")

    def _require_base(self) -> None:
        """Refuse to go on where the folder is missing, or another one by now.

        A share that was mounted anew may have other numbers, so those alone prove nothing: the folder is another one if
        nothing is in it that was there before.
        """
        if not self._required:
            return
        if not self._base.is_dir():
            raise ArtifactsAwayError(f"the artifact folder {self.folder} is missing: is a share not mounted?")
        found = self._base.stat()
        identity = (found.st_dev, found.st_ino)
        if identity == self._identity and time.monotonic() - self._looked < LOOK_AGAIN_SECONDS:
            return
        is_same = identity == self._identity
        there = {entry.name for entry in self._base.iterdir()}
        if not is_same and self._known and not self._known & there:
            raise ArtifactsReplacedError(
                f"the artifact folder {self.folder} was replaced by another one while it was in use: nothing more is "
                "written; put the folder back, or restore a backup, and resume the study"
            )
        self._identity, self._known, self._looked = identity, there, time.monotonic()

    def _note(self, path: Path) -> None:
        """Note what was written below the base, by which the folder will be known."""
        if path.is_relative_to(self._base):
            self._known.add(path.relative_to(self._base).parts[0])

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn errors of the file system in the block into ours."""
        try:
            yield
        except OSError as error:
            reason = f"artifact folder {self.folder}: {error.strerror or error} ({name})"
            if error.errno in AWAY:
                raise ArtifactsAwayError(reason) from error
            if error.errno in FULL:
                reason += ": make room, for example by pruning a study's artifacts"
            raise ArtifactError(reason) from error
        except ValueError as error:  # Optuna's error for such a name
            raise ArtifactError(f"artifact folder {self.folder}: {name!r} is outside it") from error


class BucketStore:
    """A store under a prefix of an S3-compatible bucket; boto3 finds endpoint, region and credentials.

    Args:
        bucket: must exist.
        prefix: "" or ends with a slash.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix

    @property
    def location(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=ANSWER_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        return boto3.Session().client("s3", config=config)  # boto3's default session is not thread-safe

    @cached_property
    def _files(self) -> Boto3ArtifactStore:
        return Boto3ArtifactStore(self.bucket, client=self._client)

    def require(self) -> None:
        """Make a first request, so that a wrong configuration is reported early.

        Raises:
            ArtifactError: the bucket cannot be used.
        """
        next(self.files("studies/"), None)

    def read(self, name: str) -> bytes:
        with self._explained():
            return self._files.open_reader(self.prefix + name).read()

    def write(self, name: str, content: bytes) -> None:
        with self._explained():
            self._files.write(self.prefix + name, io.BytesIO(content))

    def remove(self, name: str) -> None:
        with self._explained():
            self._files.remove(self.prefix + name)

    def files(self, prefix: str) -> Iterator[StoredFile]:
        with self._explained():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield StoredFile(entry["Key"].removeprefix(self.prefix), entry["Size"])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of boto3 in the block into ours."""
        try:
            from botocore import exceptions as boto
        except ImportError as error:
            raise ArtifactError(
                f"artifacts in {self.location} need boto3, which is not installed: pip install 'mergetune[s3]'"
            ) from error
        try:
            yield
        except boto.ClientError as error:
            raise self._refusal(error) from error
        except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, OSError) as error:
            raise ArtifactsAwayError(f"artifact store {self.location}: {_one_line(error)}") from error
        except (boto.BotoCoreError, ValueError) as error:  # ValueError: the endpoint is not a URL
            raise ArtifactError(f"artifact store {self.location}: {_one_line(error)}") from error

    def _refusal(self, error: ClientError) -> ArtifactError:
        answer: Any = error.response
        code = str(answer.get("Error", {}).get("Code", ""))
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return ArtifactError(f"artifact store {self.location}: there is no bucket {self.bucket!r}: create it first")
        if status >= 500 or code in BUSY:
            return ArtifactsAwayError(f"artifact store {self.location}: {_one_line(error)}")
        return ArtifactError(f"artifact store {self.location}: {_one_line(error)}: check its credentials and policy")


def _status(path: Path) -> os.stat_result | None:
    """Look at a file; None for one that was removed just now, and for a link that leads nowhere, or to itself."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ELOOP}:
            raise
        return None


def _raise_unless_gone(error: OSError) -> None:
    """Ignore missing folders: they may vanish during the walk, or never have existed."""
    if error.errno != errno.ENOENT:
        raise error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def bucket_store(url: str) -> BucketStore:
    """Return the store at `s3://bucket/prefix`, without making a request yet.

    Raises:
        ArtifactError: the URL has another form.
    """
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    if "@" in bucket or ":" in bucket:  # the URL is not shown, because it may contain a secret
        raise ArtifactError(
            "an artifact store is written s3://bucket/prefix: credentials and endpoint are taken from boto3's "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL) or its files"
        )
    if not bucket or "?" in url or "//" in f"/{prefix}":
        raise ArtifactError(f"an artifact store is written s3://bucket/prefix, got {url!r}")
    prefix = prefix.strip("/")
    return BucketStore(bucket, f"{prefix}/" if prefix else "")
