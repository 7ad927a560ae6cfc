"""A real S3-compatible store for tests: moto's server behind a real socket, which can be stopped and started again."""

from __future__ import annotations

import logging
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "merges"
SECRET_KEY = "secret-of-the-tests"


class ObjectStore:
    """An S3-compatible server whose content survives `stop`, like that of a real server.

    A process can have only one at a time, because moto keeps the content in the process.
    """

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.start()
        self.client.create_bucket(Bucket=BUCKET)

    def start(self) -> None:
        """Answer at the port, again with the same content."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from moto.server import ThreadedMotoServer
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Stop answering at the port."""
        self._server.stop()

    @property
    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key=SECRET_KEY,
        )

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of all objects that begin with `prefix`."""
        objects = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return sorted(entry["Key"] for entry in objects)


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run a store with the bucket `merges`, which boto3 finds through the environment."""
    store = ObjectStore()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy"):
            patch.delenv(name, raising=False)
        try:
            yield store
        finally:
            store.stop()
