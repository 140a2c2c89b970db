"""Shards in a bucket, read through a real client from a real (local) server."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
import torch
from s3_server import BUCKET, Server, forget
from test_sample_and_shards import make_sample

from imanim.data import storage
from imanim.data.sample import encode
from imanim.data.shards import ShardSet, read_manifest, write_manifest, write_shard
from imanim.data.stream import Loader, SampleDataset, close
from imanim.errors import InputError

URL = f"s3://{BUCKET}/set"
LAST = "train-00001.tar"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("s3")
    samples = [(f"s{i}", encode(make_sample(f"s{i}", seed=i))) for i in range(5)]
    write_shard(path, "train", 0, samples[:3])
    write_shard(path, "train", 1, samples[3:])
    write_manifest(path, {"licence": "none"})
    return path


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def server(running: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server with the folder's files, put there by boto3."""
    running.environment(monkeypatch)
    client = running.client()
    client.create_bucket(Bucket=BUCKET)
    for file in folder.iterdir():
        client.put_object(Bucket=BUCKET, Key=f"set/{file.name}", Body=file.read_bytes())
    return running


def refusal(do: Any, *, waits: tuple[float, ...] = ()) -> str:
    """The one line that something ends with, at once: nothing is tried again, ``waits`` seconds later, that will fail again."""
    waited: list[float] = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError) as refused:
        patch.setattr(storage.time, "sleep", waited.append)
        do()
    assert tuple(waited) == waits
    return str(refused.value)


def test_a_bucket_gives_the_samples_that_the_folder_gives(server: Server, folder: Path) -> None:
    here, there = ShardSet(folder, "train"), ShardSet(URL, "train")
    assert there.keys == here.keys and there.shapes == here.shapes and len(there) == 5
    for i in range(5):
        assert there.read(i) == here.read(i)
        assert there.read(i, ["joints.npy", "meta.json"]) == here.read(i, ["joints.npy", "meta.json"])
    there.verify()
    assert read_manifest(URL) == read_manifest(folder)
    names = ["train-00000.tar", "nothing.tar", "manifest.json"]
    assert storage.at(URL).sizes(names) == storage.at(folder).sizes(names)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_streams_from_a_bucket_in_the_order_of_the_folder(
    server: Server, folder: Path, workers: int
) -> None:
    def batches(place: str | Path, workers: int) -> list[Any]:
        data = SampleDataset(ShardSet(place, "train"), frames=5, height=32, width=16)
        feed = iter(Loader(data, global_batch=2, seed=0, workers=workers))
        found = [next(feed) for _ in range(6)]
        close(feed)
        return found

    for there, here in zip(batches(URL, workers), batches(folder, 0)):
        assert there["keys"] == here["keys"]
        assert all(torch.equal(there[n].nan_to_num(), here[n].nan_to_num()) for n in here if n != "keys")


def test_what_is_missing_is_refused_at_once_by_name(server: Server) -> None:
    wrong = refusal(lambda: read_manifest("s3://no-such-bucket/set"))
    assert wrong == "s3://no-such-bucket/set/manifest.json: no such bucket; make it, or check the path"
    nothing = f"s3://{BUCKET}/other/manifest.json: no such file or folder; check the path"
    assert refusal(lambda: read_manifest(f"s3://{BUCKET}/other")) == nothing
    index = "set/train-00001.index.json"
    server.client().delete_object(Bucket=BUCKET, Key=index)
    assert f"s3://{BUCKET}/{index}: no such file" in refusal(lambda: ShardSet(URL, "train"))


def test_a_set_that_changed_is_seen_by_a_connection_that_listed_it_before(server: Server) -> None:
    ShardSet(URL, "train")
    server.client().delete_object(Bucket=BUCKET, Key=f"set/{LAST}")
    assert f"{URL}/{LAST}: missing or not the shard" in refusal(lambda: ShardSet(URL, "train"))
    server.client().put_object(Bucket=BUCKET, Key=f"set/{LAST}", Body=b"short")
    assert f"{URL}/{LAST}: missing or not the shard" in refusal(lambda: ShardSet(URL, "train"))


def test_a_changed_shard_is_found_by_its_hash(server: Server, folder: Path) -> None:
    data = bytearray((folder / LAST).read_bytes())
    data[1000] ^= 255
    server.client().put_object(Bucket=BUCKET, Key=f"set/{LAST}", Body=bytes(data))
    assert f"{URL}/{LAST}: its bytes differ" in refusal(ShardSet(URL, "train").verify)


def test_settings_that_cannot_work_are_refused_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused_with(**changed: str) -> str:
        for name, value in changed.items():
            monkeypatch.setenv(name, value)
        forget()
        line = refusal(lambda: read_manifest(URL))
        server.environment(monkeypatch)
        return line

    assert "cannot be asked for (Invalid endpoint: here)" in refused_with(AWS_ENDPOINT_URL="here")
    assert "(The config profile (nobody) could not be found)" in refused_with(AWS_PROFILE="nobody")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    line = refused_with()
    assert "no usable credentials" in line and "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line


def test_a_key_that_may_not_read_is_refused_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address = {"endpoint_url": f"http://127.0.0.1:{server.port}", "region_name": "us-east-1"}
    user = boto3.client("iam", **address)
    user.create_user(UserName="stranger")
    key = user.create_access_key(UserName="stranger")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    forget()
    with authorising(address["endpoint_url"]):
        line = refusal(lambda: read_manifest(URL))
    assert line.startswith(f"{URL}/manifest.json: permission denied") and "credentials" in line


class authorising:
    """While it lasts, the server looks at who asks (moto otherwise lets everybody in)."""

    def __init__(self, address: str):
        self.address = address + "/moto-api/reset-auth"

    def _post(self, body: bytes) -> None:
        kind = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(self.address, body, kind, method="POST")).close()

    def __enter__(self) -> None:
        self._post(b"0")  # after so many more requests

    def __exit__(self, *why: object) -> None:
        self._post(b"inf")


def test_a_public_bucket_is_read_without_credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.client().put_bucket_acl(Bucket=BUCKET, ACL="public-read")
    server.client().put_object_acl(Bucket=BUCKET, Key="set/manifest.json", ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    told: dict[str, Any] = {}
    fsspec.config.set_conf_env(told, {"FSSPEC_S3_ANON": "true"})  # what fsspec does when it is imported
    monkeypatch.setitem(fsspec.config.conf, "s3", told["s3"])
    forget()
    assert read_manifest(URL)["samples"] == 5


def test_a_dead_server_is_given_up_after_the_attempts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = ShardSet(URL, "train")
    monkeypatch.setattr(storage, "WAITS_SEC", (0.1, 0.2))
    server.stop()
    try:
        line = refusal(lambda: shards.read(0), waits=(0.1, 0.2))
    finally:
        server.start()
    assert line.startswith(f"{URL}/train-00000.tar: could not be read in 3 attempts (EndpointConnectionError: ")
    assert "then run the same command again" in line


def test_reading_goes_on_when_the_server_comes_back(server: Server, folder: Path) -> None:
    data = SampleDataset(ShardSet(URL, "train"), frames=5, height=32, width=16)
    here = SampleDataset(ShardSet(folder, "train"), frames=5, height=32, width=16)
    feed, truth = (iter(Loader(d, global_batch=2, seed=0)) for d in (data, here))
    assert next(feed)["keys"] == next(truth)["keys"]
    server.stop()
    again = threading.Timer(1.0, server.start)
    begun = time.monotonic()
    again.start()
    for _ in range(4):
        assert next(feed)["keys"] == next(truth)["keys"]
    assert time.monotonic() - begun > 1.0
    again.join()


class cut_off:
    """A port before the server that breaks off its first replies with a tar's bytes in the middle."""

    def __init__(self, server: Server, replies: int):
        self.upstream, self.left = ("127.0.0.1", server.port), replies
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self.socket.accept()
            except OSError:
                return
            with caller, socket.create_connection(self.upstream) as other:
                request = caller.recv(1 << 16)
                other.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
                reply = b"".join(iter(lambda: other.recv(1 << 16), b""))
                if b".tar" in request and b"Range: " in request.title() and self.left:
                    self.left, reply = self.left - 1, reply[: len(reply) // 2]
                caller.sendall(reply)


def test_replies_that_break_off_are_asked_for_again(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = cut_off(server, 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{line.port}")
    monkeypatch.setattr(storage, "WAITS_SEC", (0.0, 0.0))
    forget()
    there = ShardSet(URL, "train")
    assert there.read(1) == ShardSet(folder, "train").read(1) and line.left == 0
    line.left = 3
    with pytest.raises(InputError, match=r"train-00000\.tar: could not be read in 3 attempts"):
        there.read(1)
    assert line.left == 0
    line.socket.close()
