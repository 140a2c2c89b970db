"""Files are whole or absent, whatever the disk does."""

import errno
import os

import pytest

from imanim.data import files
from imanim.errors import InputError


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch) -> None:
    path = tmp_path / "out.bin"
    files.write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match=r"out\.bin: the disk is full"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_damaged_json_is_refused_by_name(tmp_path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1')
    with pytest.raises(InputError, match=r"a\.json: damaged JSON"):
        files.read_json(tmp_path / "a.json")


def test_equal_values_are_equal_bytes(tmp_path) -> None:
    files.write_json(tmp_path / "a", {"b": 1, "a": 2})
    files.write_json(tmp_path / "b", {"a": 2, "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert files.sha256_file(tmp_path / "a") == files.sha256((tmp_path / "b").read_bytes())
