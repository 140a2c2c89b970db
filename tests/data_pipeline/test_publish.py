"""Copying a set of shards to a bucket: whole, last the manifest, nobody else's overwritten, and going on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))

from s3_server import BUCKET, Server, forget

from data_pipeline.jobs import publish as copying
from data_pipeline.jobs.publish import PUBLISHING, Place, PublishConfig, publish
from imanim import config
from imanim.data import storage
from imanim.data.files import write_json
from imanim.data.shards import ShardSet, read_manifest, write_manifest, write_shard
from imanim.errors import ConfigError, InputError


def write_set(folder: Path, shards: int = 3, *, mark: str = "f1", seed: int = 0) -> Path:
    """Shards of made-up members: what is in them is nothing to a copy."""
    for number in range(shards):
        samples = [(f"s{number}-{i}", {"meta.json": b"{}", "a.bin": bytes([seed + i]) * 50_000}) for i in range(3)]
        write_shard(folder, "train", number, samples)
    write_manifest(folder, {"licence": "none", "fingerprint": mark})
    write_json(folder / "report.json", {"videos": ["what the user's files are called"]})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(running: Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket."""
    running.environment(monkeypatch)
    found = Bucket(running)
    found.client.create_bucket(Bucket=BUCKET)
    found.clear()
    return found


class Bucket:
    """The bucket as boto3 sees it."""

    url = f"s3://{BUCKET}/set"

    def __init__(self, server: Server):
        self.server, self.client = server, server.client()

    def names(self) -> list[str]:
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix="set/").get("Contents", [])
        return [entry["Key"].removeprefix("set/") for entry in listed]

    def files(self) -> dict[str, bytes]:
        return {n: self.client.get_object(Bucket=BUCKET, Key=f"set/{n}")["Body"].read() for n in self.names()}

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"set/{name}", Body=content)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=f"set/{name}")

    def clear(self) -> None:
        for name in self.names():
            self.delete(name)


def published(folder: Path) -> dict[str, bytes]:
    """What of a folder is to be copied."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "report.json"}


def send(folder: Path, url: str, **named: Any) -> str:
    return "\n".join(publish(folder, url, progress=False, **named).lines)


class Sent:
    """Names of files in the order that they were written, and what comes in between."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.names: list[str] = []
        self.before: Any = lambda name: None
        original = Place.send

        def watched(place: Place, name: str, source: Any) -> None:
            self.before(name)
            original(place, name, source)
            self.names.append(name)

        patch.setattr(Place, "send", watched)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(monkeypatch)


def test_a_set_arrives_byte_for_byte_and_can_be_read(bucket: Bucket, folder: Path) -> None:
    assert send(folder, bucket.url, dry_run=True) == f"{bucket.url}: 3 of 3 shards to copy, 0.5 MB of tars"
    assert bucket.files() == {}
    lines = send(folder, bucket.url)
    assert "9 samples" in lines and "3 copied now" in lines and f"data.train={bucket.url}" in lines
    assert bucket.files() == published(folder)
    there = ShardSet(bucket.url, "train")
    there.verify()
    assert [there.read(i) for i in range(9)] == [ShardSet(folder, "train").read(i) for i in range(9)]


def test_the_manifest_goes_last_and_an_index_after_its_tar(bucket: Bucket, folder: Path, sent: Sent) -> None:
    seen: list[bool] = []
    sent.before = lambda name: seen.append("manifest.json" in bucket.names())
    send(folder, bucket.url, workers=3)
    assert sent.names[0] == PUBLISHING and sent.names[-1] == "manifest.json" and not any(seen)
    for n in range(3):
        assert sent.names.index(f"train-0000{n}.tar") < sent.names.index(f"train-0000{n}.index.json")


def test_what_is_there_is_not_sent_again(bucket: Bucket, folder: Path, sent: Sent) -> None:
    send(folder, bucket.url)
    sent.names.clear()
    assert "0 copied now (0.0 MB), 3 were there" in send(folder, bucket.url) and sent.names == []
    bucket.delete("train-00001.tar")
    bucket.put("train-00002.tar", b"cut off")
    assert "2 copied now" in send(folder, bucket.url, workers=1)
    assert [name for name in sent.names if name.endswith(".tar")] == ["train-00001.tar", "train-00002.tar"]
    assert bucket.files() == published(folder)


def test_a_tar_of_the_right_size_without_its_index_is_sent_again(bucket: Bucket, folder: Path) -> None:
    send(folder, bucket.url)
    bucket.put("train-00001.tar", bytes(len(bucket.files()["train-00001.tar"])))
    bucket.delete("train-00001.index.json")
    assert "1 copied now" in send(folder, bucket.url)
    assert bucket.files() == published(folder)


def test_a_set_that_has_grown_is_completed_and_readable_meanwhile(bucket: Bucket, folder: Path, sent: Sent) -> None:
    send(folder, bucket.url)
    before = read_manifest(bucket.url)
    write_set(folder, 5)
    sent.names.clear()
    sent.before = lambda name: before == read_manifest(bucket.url) or pytest.fail("the old manifest is gone")
    assert "2 copied now" in send(folder, bucket.url)
    assert "train-00000.tar" not in sent.names and bucket.files() == published(folder)


def test_another_set_is_refused_and_stays_as_it_is(bucket: Bucket, folder: Path, tmp_path: Path) -> None:
    send(folder, bucket.url)
    before = bucket.files()
    other = write_set(tmp_path / "other", 2, mark="f2", seed=7)
    with pytest.raises(InputError, match=r"holds a finished copy of another set \(fingerprint f1, this one is f2\)"):
        send(other, bucket.url)
    same_settings = write_set(tmp_path / "same", 3, seed=9)
    with pytest.raises(InputError, match=r"another set \(other shards\); choose another place, or replace it"):
        send(same_settings, bucket.url)
    bucket.put("manifest.json", b"[]")  # of some other tool
    with pytest.raises(InputError, match="another set"):
        send(folder, bucket.url)
    assert {**bucket.files(), "manifest.json": before["manifest.json"]} == before


def test_nobodys_files_under_our_names_are_not_overwritten(bucket: Bucket, folder: Path) -> None:
    bucket.put("train-00001.tar", b"somebody's")
    with pytest.raises(InputError, match=r"set/train-00001\.tar: is there, and not of this set"):
        send(folder, bucket.url)
    assert bucket.files() == {"train-00001.tar": b"somebody's"}


def test_replacing_leaves_the_new_set_alone(bucket: Bucket, folder: Path, tmp_path: Path, sent: Sent) -> None:
    send(folder, bucket.url)
    bucket.put("notes.txt", b"stay")
    other = write_set(tmp_path / "other", 2, mark="f2", seed=7)
    seen: list[bool] = []
    sent.before = lambda name: name == PUBLISHING or seen.append("manifest.json" in bucket.names())
    send(other, bucket.url, replace=True)
    assert seen and not any(seen)
    assert bucket.files() == {**published(other), "notes.txt": b"stay"}


def test_a_replacement_that_broke_off_goes_on_without_being_told(
    bucket: Bucket, folder: Path, tmp_path: Path, sent: Sent
) -> None:
    send(folder, bucket.url)
    other = write_set(tmp_path / "other", 2, mark="f2", seed=7)

    def break_off(name: str) -> None:
        if name == "train-00001.tar":
            raise KeyboardInterrupt

    sent.before = break_off
    with pytest.raises(KeyboardInterrupt):
        send(other, bucket.url, replace=True, workers=1)
    with pytest.raises(InputError, match=r"manifest\.json: no such file"):
        read_manifest(bucket.url)
    with pytest.raises(InputError, match=r"holds an unfinished copy of another set \(fingerprint f2, this one is f1\)"):
        send(folder, bucket.url)
    sent.before = lambda name: None
    assert "1 copied now" in send(other, bucket.url)
    assert bucket.files() == published(other)


def test_a_tar_half_replaced_does_not_pass_for_whole(bucket: Bucket, folder: Path, tmp_path: Path, sent: Sent) -> None:
    """Killed behind its tar: the old index there would vouch for the new tar, which is of the same size."""
    send(folder, bucket.url)
    other = write_set(tmp_path / "other", 3, mark="f2", seed=7)

    def break_off(name: str) -> None:
        if name == "train-00000.index.json":
            raise KeyboardInterrupt

    sent.before = break_off
    with pytest.raises(KeyboardInterrupt):
        send(other, bucket.url, replace=True, workers=1)
    sent.before = lambda name: None
    assert len(bucket.files()["train-00000.tar"]) == (folder / "train-00000.tar").stat().st_size
    send(folder, bucket.url, replace=True)
    assert bucket.files() == published(folder)


KILLED = """
import os, signal, sys
from data_pipeline.jobs.publish import Place, publish
send = Place.send
def watched(place, name, source):
    if name == "train-00002.tar":
        os.kill(os.getpid(), signal.SIGKILL)
    send(place, name, source)
Place.send = watched
publish(sys.argv[1], sys.argv[2], workers=1, progress=False)
"""


def test_a_killed_copy_goes_on_where_it_stopped(bucket: Bucket, folder: Path, sent: Sent) -> None:
    command = [sys.executable, "-c", KILLED, str(folder), bucket.url]
    done = subprocess.run(command, capture_output=True, timeout=1200, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert set(published(folder)) - set(bucket.files()) == {
        "train-00002.tar",
        "train-00002.index.json",
        "manifest.json",
    }
    assert "1 copied now" in send(folder, bucket.url)
    assert [name for name in sent.names if name.endswith(".tar")] == ["train-00002.tar"]
    assert bucket.files() == published(folder)


def test_a_damaged_or_unfinished_folder_is_not_published(bucket: Bucket, folder: Path) -> None:
    tar = folder / "train-00001.tar"
    data = bytearray(tar.read_bytes())
    data[1000] ^= 255
    tar.write_bytes(data)
    with pytest.raises(InputError, match=r"train-00001\.tar: its bytes differ from the manifest's sha256"):
        send(folder, bucket.url)
    assert "manifest.json" not in bucket.files() and "train-00001.tar" not in bucket.files()
    tar.write_bytes(data[:-512])
    with pytest.raises(InputError, match=r"train-00001\.tar: missing or not the shard"):
        send(folder, bucket.url)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="finish preprocessing"):
        send(folder, bucket.url)


def test_an_upload_that_arrives_short_is_tried_again_and_then_refused(
    bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setattr(storage, "WAITS_SEC", (0.0,))
    whole, cut = s3fs.S3FileSystem._put_file, ["train-00000.tar"]

    async def short(self: Any, lpath: str, rpath: str, **named: Any) -> None:
        if Path(rpath).name in cut:
            cut.remove(Path(rpath).name)
            await self._pipe_file(rpath, b"short")
        else:
            await whole(self, lpath, rpath, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", short)
    send(folder, bucket.url)
    assert bucket.files() == published(folder)
    bucket.clear()
    cut += ["train-00000.tar"] * 2
    size = (folder / "train-00000.tar").stat().st_size
    with pytest.raises(InputError, match=rf"could not be written in 2 attempts \(OSError: 5 bytes arrived of {size}\)"):
        send(folder, bucket.url)


def test_the_server_checks_every_tar_by_a_checksum(bucket: Bucket, folder: Path) -> None:
    import base64
    import zlib

    send(folder, bucket.url)
    told = bucket.client.head_object(Bucket=BUCKET, Key="set/train-00000.tar", ChecksumMode="ENABLED")
    crc = zlib.crc32((folder / "train-00000.tar").read_bytes()).to_bytes(4, "big")
    assert base64.b64decode(told["ChecksumCRC32"]) == crc


def test_what_vanishes_while_the_rest_is_copied_is_noticed(bucket: Bucket, folder: Path, sent: Sent) -> None:
    sent.before = lambda name: bucket.delete("train-00000.tar") if name == "train-00002.index.json" else None
    with pytest.raises(InputError, match=r"set/train-00000\.tar: is not there after it was written"):
        send(folder, bucket.url, workers=1)
    assert "manifest.json" not in bucket.files()


def test_what_cannot_be_reached_is_one_line(bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^s3://no-such-bucket/set.*: no such bucket; make it, or check the path$"):
        send(folder, "s3://no-such-bucket/set")
    assert "no-such-bucket" not in [b["Name"] for b in bucket.client.list_buckets()["Buckets"]]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(storage, "WAITS_SEC", ())
    with pytest.raises(InputError, match=r"in 1 attempts .*look after the connection"):
        send(folder, bucket.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget()
    with pytest.raises(InputError, match="no usable credentials"):
        send(folder, bucket.url)


@pytest.mark.parametrize("form", ["{}", "file://{}", "memory:/{}"])
def test_any_place_of_fsspec_will_do(folder: Path, tmp_path: Path, form: str) -> None:
    url = form.format(tmp_path / "deep" / "elsewhere")
    assert "3 copied now" in send(folder, url)
    assert "3 were there" in send(folder, url)
    there = ShardSet(url, "train")
    there.verify()
    assert [there.read(i) for i in range(9)] == [ShardSet(folder, "train").read(i) for i in range(9)]


def test_a_disk_that_is_full_is_said_so_at_once(folder: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "train-00000.tar").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"train-00000\.tar: the disk is full; free some space"):
        send(folder, str(place), replace=True)


def test_a_folder_is_not_published_onto_itself(folder: Path) -> None:
    for same in (str(folder), f"{folder}/", f"file://{folder}"):
        with pytest.raises(InputError, match="is the input"):
            send(folder, same)


def test_settings_are_checked_and_obeyed(bucket: Bucket, folder: Path) -> None:
    with pytest.raises(ConfigError, match="workers: 0 must be at least 1"):
        config.load(PublishConfig, None, [f"input={folder}", f"to={bucket.url}", "workers=0"])
    cfg = config.load(PublishConfig, None, [f"input={folder}", f"to={bucket.url}", "workers=2"])
    assert copying.run(cfg, progress=False).lines[0].startswith(f"{bucket.url}: 9 samples")
    assert json.loads(bucket.files()["manifest.json"]) == read_manifest(folder)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no such folder"):
        copying.run(cfg, progress=False)
