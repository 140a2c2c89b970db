"""Tars that other tools wrote: what is taken, what is left out and why, and that they train like our own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from test_sample_and_shards import make_sample

from imanim.data import indexing
from imanim.data.indexing import REPORT, IndexConfig
from imanim.data.sample import encode
from imanim.data.shards import ShardSet, index_path, write_manifest, write_shard
from imanim.errors import InputError


@pytest.fixture(scope="module")
def samples() -> dict[str, dict[str, bytes]]:
    return {f"s{i}": encode(make_sample(f"s{i}", seed=i)) for i in range(4)}


def write(path: Path, files: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def files(samples: dict[str, dict[str, bytes]], folder: str = "") -> list[tuple[str, bytes]]:
    return [(f"{folder}{key}.{name}", data) for key, members in samples.items() for name, data in members.items()]


def run(folder: Path, **settings) -> indexing.Outcome:
    return indexing.run(IndexConfig(input=str(folder), **settings), progress=False)


def report(folder: Path, tar: str) -> dict:
    return json.loads((folder / REPORT).read_text())["tars"][tar]


def test_tars_of_the_webdataset_package_give_its_samples(tmp_path: Path, samples) -> None:
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "train-000000.tar"), encoder=False) as writer:
        for key, members in samples.items():
            writer.write({"__key__": key, **dict(reversed(members.items())), "caption.txt": b"a person"})
    before = (tmp_path / "train-000000.tar").read_bytes()
    assert run(tmp_path).left_out == 0
    shards = ShardSet(tmp_path, "train")
    assert shards.keys == list(samples) and shards.shapes == [(5, 32, 16)] * 4
    assert [shards.read(i)[1] for i in range(4)] == list(samples.values())
    shards.verify()
    assert (tmp_path / "train-000000.tar").read_bytes() == before


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_folders_and_notes_are_read(tmp_path: Path, samples, format: int) -> None:
    long = "./" + "a_rather_long_folder_name/" * 6
    with tarfile.open(tmp_path / "clips.tar", "w", format=format) as tar:
        tar.addfile(directory(long))
        for name, data in [*files(samples, long), ("__meta__", b"by another tool")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    run(tmp_path, split="train")
    shards = ShardSet(tmp_path, "train")
    assert shards.keys == [f"{long[2:]}{key}" for key in samples]
    assert [shards.read(i)[1] for i in range(4)] == list(samples.values())


def directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def test_what_breaks_the_contract_is_left_out_by_name(tmp_path: Path, samples) -> None:
    a, b, c, d = samples.values()
    lacking = {name: data for name, data in b.items() if name != "faces.npy"}
    torn = files({"c": c})
    old = {**d, "meta.json": json.dumps({"schema": 99}).encode()}
    listed = [*torn[:2], *files({"a": a, "b": lacking, "d": old}), *torn[2:], *files({"e": a}), ("e.faces.npy", b"x")]
    write(tmp_path / "train-0.tar", listed)
    found = run(tmp_path)
    assert ShardSet(tmp_path, "train").keys == ["a"] and found.left_out == 4
    dropped = report(tmp_path, "train-0.tar")["dropped"]
    assert dropped.pop("d").startswith("schema 99")
    assert dropped == {
        "b": "no faces.npy",
        "c": "its members do not stand together",
        "e": "two members faces.npy",
    }


def test_damage_inside_a_sample_is_found_by_decoding(tmp_path: Path, samples) -> None:
    hurt = {**samples["s1"], "joints.npy": b"not numbers"}
    write(tmp_path / "train-0.tar", files({"s0": samples["s0"], "s1": hurt}))
    assert run(tmp_path).left_out == 0
    assert run(tmp_path, decode=True, again=True).left_out == 1
    assert ShardSet(tmp_path, "train").keys == ["s0"]
    assert report(tmp_path, "train-0.tar")["dropped"]["s1"].startswith("joints.npy is damaged")


def test_a_meta_that_tells_no_size_sends_us_to_the_video(tmp_path: Path, samples) -> None:
    meta = {k: v for k, v in json.loads(samples["s0"]["meta.json"]).items() if k not in ("frames", "size")}
    write(tmp_path / "train-0.tar", files({"s0": {**samples["s0"], "meta.json": json.dumps(meta).encode()}}))
    run(tmp_path)
    assert ShardSet(tmp_path, "train").shapes == [(5, 32, 16)]


@pytest.mark.parametrize("keep", ["one member", "half", "no end"])
def test_a_tar_that_was_cut_off_is_left_out_and_the_others_are_not(tmp_path: Path, samples, keep: str) -> None:
    write(tmp_path / "train-0.tar", files(samples))
    bad = write(tmp_path / "train-1.tar", files(samples))
    with tarfile.open(bad) as tar:
        last = tar.getmembers()[-1]
        second = tar.getmembers()[1]
    end = last.offset_data + -(-last.size // 512) * 512
    os.truncate(bad, {"one member": second.offset, "half": last.offset_data + 10, "no end": end}[keep])
    found = run(tmp_path)
    assert found.left_out == 1 and "train-1.tar" in report(tmp_path, "train-1.tar")["problem"]
    assert len(ShardSet(tmp_path, "train")) == 4


def test_the_same_command_again_reads_only_what_has_changed(tmp_path: Path, samples, monkeypatch) -> None:
    for i in range(3):
        write(tmp_path / f"train-{i}.tar", files(samples))
    run(tmp_path)
    write(tmp_path / "train-1.tar", files({"s0": samples["s0"]}))
    write(tmp_path / "val-0.tar", files({"s3": samples["s3"]}))
    said = indexing.run(IndexConfig(input=str(tmp_path)), dry_run=True).lines
    assert "4 tars (3 train, 1 val), 2 to read" in said[0]
    kept = index_path(tmp_path / "train-0.tar").stat().st_mtime_ns
    run(tmp_path)
    assert index_path(tmp_path / "train-0.tar").stat().st_mtime_ns == kept
    assert len(ShardSet(tmp_path, "train")) == 9 and len(ShardSet(tmp_path, "val")) == 1
    whole = (tmp_path / "manifest.json").read_bytes()
    run(tmp_path, again=True, workers=2)
    assert (tmp_path / "manifest.json").read_bytes() == whole


def test_our_own_shards_keep_what_their_manifest_says(tmp_path: Path, samples) -> None:
    write_shard(tmp_path, "train", 0, list(samples.items()))
    before = write_manifest(tmp_path, {"licence": "x"})
    index = json.loads(index_path(tmp_path / "train-00000.tar").read_text())
    run(tmp_path, again=True)
    assert json.loads((tmp_path / "manifest.json").read_text()) == before
    assert json.loads(index_path(tmp_path / "train-00000.tar").read_text()) == index


def test_a_folder_without_usable_tars_is_refused(tmp_path: Path, samples) -> None:
    with pytest.raises(InputError, match="no such folder"):
        run(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no \.tar; give the folder"):
        run(tmp_path)
    (tmp_path / "train-0.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"unpack train-0\.tar\.gz"):
        run(tmp_path)
    write(tmp_path / "clips.tar", [("a.jpg", b"x")])
    with pytest.raises(InputError, match="tells no split"):
        run(tmp_path)
    with pytest.raises(InputError, match=r"not one sample .*no driving\.mp4"):
        run(tmp_path, split="train")
    assert not (tmp_path / "manifest.json").exists()


def test_the_command_says_what_it_made_and_ends_with_1_when_something_was_left_out(tmp_path: Path, samples) -> None:
    write(tmp_path / "train-0.tar", [*files(samples), ("x.meta.json", b"{}")])
    launcher = Path(__file__).resolve().parents[2] / "launchers/index.py"
    done = subprocess.run([sys.executable, str(launcher), f"input={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 1 and "4 samples (4 train)" in done.stdout and "left out: 1 samples" in done.stdout
