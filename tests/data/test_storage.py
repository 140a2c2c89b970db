"""Shards that are not on this machine: the same samples through fsspec, tried again when the network fails."""

from __future__ import annotations

import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from test_sample_and_shards import make_sample

from imanim.data import storage
from imanim.data.sample import encode
from imanim.data.shards import ShardSet, read_manifest, write_manifest, write_shard
from imanim.data.stream import Loader, SampleDataset
from imanim.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("storage")
    samples = [(f"s{i}", encode(make_sample(f"s{i}", seed=i))) for i in range(5)]
    write_shard(path, "train", 0, samples[:3])
    write_shard(path, "train", 1, samples[3:])
    write_manifest(path, {"licence": "none"})
    return path


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, folder: Path) -> str:
    """The same shards by another protocol."""
    return f"file://{folder}" if request.param == "file" else in_memory(folder)


def in_memory(folder: Path) -> str:
    """The folder's files in fsspec's memory."""
    files = fsspec.filesystem("memory")
    for file in folder.iterdir():
        files.pipe_file(f"/shards/{file.name}", file.read_bytes())
    return "memory://shards"


def test_a_url_gives_the_samples_that_the_folder_gives(folder: Path, url: str) -> None:
    here, there = ShardSet(folder, "train"), ShardSet(url, "train")
    assert there.keys == here.keys and there.shapes == here.shapes == [(5, 32, 16)] * 5
    for i in range(5):
        assert there.read(i) == here.read(i)
        assert there.read(i, ["joints.npy"]) == here.read(i, ["joints.npy"])
    there.verify()
    assert read_manifest(url) == read_manifest(folder)


def test_a_read_that_fails_is_tried_again_and_then_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WAITS_SEC", (0.0, 0.0))
    shards, failures, read = ShardSet(in_memory(folder), "train"), [1, 1], MemoryFileSystem.cat_ranges

    def cut_off(self: MemoryFileSystem, *given: object, **named: object) -> object:
        if failures:
            failures.pop()
            raise ConnectionResetError("the line is dead")
        return read(self, *given, **named)

    monkeypatch.setattr(MemoryFileSystem, "cat_ranges", cut_off)
    assert shards.read(4) == ShardSet(folder, "train").read(4) and not failures
    failures += [1, 1, 1]
    with pytest.raises(InputError, match=r"memory://shards/train-00001\.tar: could not be read in 3 attempts .*dead"):
        shards.read(4)


def test_workers_read_by_url(folder: Path) -> None:
    def keys(place: str | Path) -> list[str]:
        data = SampleDataset(ShardSet(place, "train"), frames=5, height=32, width=16)
        feed = iter(Loader(data, global_batch=2, seed=0, workers=0 if place is folder else 2))
        return [key for _ in range(4) for key in next(feed)["keys"]]

    assert keys(f"file://{folder}") == keys(folder)


def test_what_is_not_there_or_not_itself_is_named(folder: Path) -> None:
    url, files = in_memory(folder), fsspec.filesystem("memory")
    with pytest.raises(InputError, match=r"memory://nowhere/manifest\.json: no such file or folder"):
        read_manifest("memory://nowhere")
    tar, refused = "/shards/train-00001.tar", r"memory://shards/train-00001\.tar: missing or not the shard"
    size = files.size(tar)
    files.pipe_file(tar, b"short")
    with pytest.raises(InputError, match=refused):
        ShardSet(url, "train")
    files.pipe_file(tar, b"\0" * size)
    with pytest.raises(InputError, match="sha256"):
        ShardSet(url, "train").verify()
    files.rm_file(tar)
    with pytest.raises(InputError, match=refused):
        ShardSet(url, "train")
    files.pipe_file("/shards/manifest.json", b"{")
    with pytest.raises(InputError, match=r"memory://shards/manifest\.json: damaged JSON"):
        read_manifest(url)


def test_a_protocol_that_nothing_here_speaks_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"nosuch://bucket/shards: fsspec cannot open nosuch:// here .*available_protocols"
    ):
        ShardSet("nosuch://bucket/shards", "train")
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    monkeypatch.delitem(_registry, "s3", raising=False)  # nor found before, by another test
    with pytest.raises(InputError, match="pip install s3fs"):
        ShardSet("s3://another-bucket/shards", "train")
