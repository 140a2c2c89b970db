"""Finding videos, and refusing them."""

import pickle

import pytest

from data_pipeline.sources import Unusable, find_files
from imanim.errors import InputError


def test_a_refusal_crosses_processes_as_it_is():
    error = pickle.loads(pickle.dumps(Unusable("corrupt", "damaged at frame 3")))
    assert (error.reason, error.detail, str(error)) == ("corrupt", "damaged at frame 3", "corrupt: damaged at frame 3")


def test_a_folder_without_videos_is_named(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds no .*mp4"):
        find_files(tmp_path, ["mp4"])
    with pytest.raises(InputError, match="not a folder"):
        find_files(tmp_path / "nowhere", ["mp4"])


def test_subfolders_and_upper_case_endings_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.MP4", "sub/a.mov", "c.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in find_files(tmp_path, ["mp4", "mov"])] == ["b.MP4", "a.mov"]
