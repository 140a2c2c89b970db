"""An S3-compatible server on this machine, to read and write against: moto's, from its own package."""

from __future__ import annotations

import logging
from typing import Any

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from imanim.data import storage

BUCKET = "shards-of-tests"


class Server:
    """Can be stopped and started again on the same port; what was stored stays as long as the process."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.start(0)

    def start(self, port: int | None = None) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", self.port if port is None else port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    def environment(self, patch: pytest.MonkeyPatch) -> None:
        """What a user would export."""
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{self.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        # Otherwise a machine without credentials asks the cloud that it may be in.
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        forget()

    def client(self) -> Any:
        """boto3's own: what lies there is looked at by other code than that under test."""
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1")


def forget() -> None:
    """Connections are kept by URL: those that were made under another environment must go."""
    storage._connection.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
