"""Where a run reads and writes, and its configuration: each kind of finding, with the condition faked."""

from __future__ import annotations

import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import fsspec
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "training"))

import toy  # noqa: E402

from imanim.doctor import OK, PROBLEM, WARNING, Finding, Situation, findings, settings, shards, storage  # noqa: E402


def only(found: Iterable[Finding]) -> Finding:
    """The one finding of a check."""
    (one,) = found
    return one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("doctor")
    toy.write_model(path)
    toy.write_shards(path / "shards")
    return path


# ------------------------------------------------------------------------------------------------------------ storage


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB with room for 20 files."""
    point = tmp_path / "tiny"
    point.mkdir()
    options = "size=4m,nr_inodes=20"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting needs root")
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_a_full_disk_few_inodes_and_small_shared_memory_are_named(tiny_disk: Path):
    found = list(storage.check_output(Situation(output=tiny_disk / "runs" / "x")))
    assert [f.level for f in found] == [WARNING, PROBLEM]
    assert "inodes" in found[0].found and found[1].found == f"output {tiny_disk}/runs/x: 4.2 MB free"
    shm = only(storage.check_shared_memory(Situation(shm=tiny_disk)))
    assert shm.level == PROBLEM and "--shm-size" in shm.remedy
    assert not list(tiny_disk.iterdir())


def test_a_small_shared_memory_is_a_warning_and_none_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert only(storage.check_shared_memory(Situation(shm=tmp_path / "none"))).level == PROBLEM
    sizes = os.statvfs_result((4096, 4096, 100_000, 50_000, 50_000, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: sizes)
    found = only(storage.check_shared_memory(Situation(shm=tmp_path)))
    assert found.level == WARNING and "204.8 MB of 409.6 MB free" in found.found


def test_a_folder_that_takes_no_files_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("x")
    assert "is a file" in only(storage.check_output(Situation(output=tmp_path / "file" / "run"))).found
    assert only(storage.check_temporary(Situation(env={"TMPDIR": str(tmp_path / "none")}))).level == PROBLEM

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(os, "fsync", refuse)
    assert "read-only" in only(storage.check_output(Situation(output=tmp_path))).found


def test_a_slow_disk_is_a_warning_and_a_rename_that_does_not_replace_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(storage, "LOW_BYTES", 0.0)
    monkeypatch.setattr(storage, "SLOW_BYTES_PER_SEC", 1e15)
    assert only(storage.check_output(Situation(output=tmp_path))).level == WARNING
    monkeypatch.setattr(storage, "SLOW_BYTES_PER_SEC", 0.0)
    assert only(storage.check_output(Situation(output=tmp_path))).level == OK
    monkeypatch.setattr(os, "replace", lambda a, b: None)
    assert "renamed over another" in only(storage.check_output(Situation(output=tmp_path))).found


def test_a_low_limit_of_open_files_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    found = only(storage.check_open_files(Situation()))
    assert found.level == WARNING and found.remedy == "ulimit -n 4096 before starting"


# --------------------------------------------------------------------------------------------------------------- data


@pytest.fixture(autouse=True)
def idle_machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with more to do than cores looks like slow storage: not what these tests are about."""
    monkeypatch.setattr(shards, "SLOW", math.inf)


def test_samples_that_take_longer_by_the_clock_than_on_the_core_mean_slow_storage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shards, "SLOW", 0.0)
    *_, speed = shards.check_data(Situation(data=folder / "shards"))
    assert speed.level == WARNING and "copy the shards to a local disk" in (speed.remedy or "")


def test_data_that_is_whole_is_counted_and_timed(folder: Path):
    *splits, speed = shards.check_data(Situation(data=folder / "shards"))
    assert [f.found.partition(": ")[2] for f in splits] == [
        "train, 12 samples, first and last decoded",
        "val, 4 samples, first and last decoded",
    ]
    assert speed.level == OK and speed.found.startswith("split train: ") and "samples/s" in speed.found


def test_shards_elsewhere_are_read_too(tmp_path: Path):
    files = fsspec.filesystem("memory")
    for file in toy.write_shards(tmp_path / "shards", train=3, val=2).iterdir():
        files.pipe_file(f"/doctor/{file.name}", file.read_bytes())
    found = list(shards.check_data(Situation(data="memory://doctor")))
    assert [f.found for f in found][:2] == [
        "memory://doctor: train, 3 samples, first and last decoded",
        "memory://doctor: val, 2 samples, first and last decoded",
    ]


def test_a_truncated_shard_a_missing_manifest_and_a_damaged_last_sample_are_problems(tmp_path: Path):
    data = toy.write_shards(tmp_path / "shards", train=3, val=2)
    tar = data / "train-00000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    found = list(shards.check_data(Situation(data=data)))
    assert [f.level for f in found] == [PROBLEM, OK, OK]
    assert "train-00000.tar" in found[0].found and found[0].remedy == "make the folder again"
    # As many bytes as there should be, but the last clip's are others.
    at = whole.rindex(b"mdat")
    tar.write_bytes(whole[:at] + bytes(300) + whole[at + 300 :])
    found = list(shards.check_data(Situation(data=data)))
    assert found[0].level == PROBLEM and "train-002" in found[0].found
    (data / "manifest.json").write_text('{"schema": 1, "splits": {"train": {}}}')
    assert "damaged" in only(shards.check_data(Situation(data=data))).found
    (data / "manifest.json").unlink()
    assert "has no manifest.json" in only(shards.check_data(Situation(data=data))).found
    assert "no such folder" in only(shards.check_data(Situation(data=tmp_path / "none"))).found


# ------------------------------------------------------------------------------------------------------ configuration


def situation(folder: Path, *more: str, stage: int = 1, output: Path | None = None) -> Situation:
    words = [f"data.train={folder / 'shards'}", f"model={folder / 'toy.yaml'}", f"output={output or folder / 'run'}"]
    return Situation(
        config=str(ROOT / "configs" / f"stage{stage}.yaml"), overrides=[*words, *more], output=output or folder / "run"
    )


def test_every_error_of_a_configuration_is_a_line(folder: Path):
    found = list(settings.check_configuration(situation(folder, "monitor.keep=0", "optimizer.lr=-1")))
    assert len(found) == 2 and all(f.level == PROBLEM for f in found)
    found = only(settings.check_configuration(situation(folder, "init_from=/nowhere")))
    assert "no such folder" in found.found and found.remedy.startswith("give a finished run")
    assert only(settings.check_configuration(situation(folder))).level == OK
    assert "no --config" in only(settings.check_configuration(Situation())).found


def test_folders_of_weights_that_are_missing_are_named(folder: Path, tmp_path: Path):
    (tmp_path / "toy.yaml").write_text((folder / "toy.yaml").read_text().replace(str(folder), str(tmp_path)))
    words = (f"model={tmp_path / 'toy.yaml'}", f"init_from={tmp_path}")
    found = only(settings.check_weights(situation(folder, *words, stage=2)))
    assert found.level == PROBLEM and found.found.startswith(f"autoencoder: {tmp_path}/autoencoder lacks")
    assert (
        only(settings.check_weights(situation(folder, f"init_from={tmp_path}", stage=2))).found
        == "1 folders, all there"
    )
    wan = ("model=wan2.1-i2v-14b", "model_settings.base=/nowhere/wan", "init_from=/nowhere")
    found = list(settings.check_weights(situation(folder, *wan, "model_settings.denoiser.lora_rank=4", stage=3)))
    assert len(found) == 4 and all("/nowhere/wan: no such folder" in f.found for f in found), found
    missing = settings.check_weights(
        situation(folder, "init_from=/nowhere", "model_settings.denoiser.attention=sage", stage=3)
    )
    assert any("attention: sage" in f.found for f in missing)


def test_a_run_that_does_not_fit_on_the_disk_or_in_memory_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert [f.level for f in settings.check_room(situation(folder))] == [OK, OK, OK]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    monkeypatch.setattr(settings, "available_bytes", lambda: (1000, 1000))
    disk, memory, shared = settings.check_room(situation(folder, "data.workers=3"))
    assert [disk.level, memory.level, shared.level] == [PROBLEM] * 3
    assert "monitor.keep=1" in disk.remedy and "on the first rank" in memory.found
    # 5 frames of 48x32, driver and target, 8 samples a batch, 2 batches a worker.
    need = findings.size(2 * 5 * 3 * 48 * 32 * 4 * 8 * 2 * 3)
    assert shared.found.startswith(f"3 workers keep 2 batches each: {need} of shared") and "--shm-size" in shared.remedy
    assert len(list(settings.check_room(situation(folder, "data.workers=0")))) == 2


def test_checkpoints_are_as_large_as_was_said(folder: Path):
    """What a checkpoint of the toy's first stage holds: float32 weights and two averages of all that is trained."""
    from imanim.training import transfer

    cfg = settings.load(situation(folder))
    assert cfg is not None
    animator = transfer.build_empty(cfg, transfer.model_config(cfg))
    trained = sum(p.numel() for p in animator.parameters() if p.requires_grad)
    others = sum(p.numel() for p in [*animator.parameters(), *animator.buffers()]) - trained
    one = 12 * trained + 4 * others
    disk, *_ = settings.check_room(situation(folder))
    expected = findings.size(3 * one + 8 * (trained + others))
    assert disk.found.startswith(f"3 checkpoints and the model take up to {expected} of")
