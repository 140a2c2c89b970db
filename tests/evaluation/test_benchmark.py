"""The cross-identity protocol on three constructed samples and a random model: what is measured against what."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluation import benchmark
from evaluation.benchmark import EvalConfig, evaluate, spread
from imanim import config
from imanim.data.sample import JOINTS, Sample, encode
from imanim.data.shards import write_manifest, write_shard
from imanim.errors import ConfigError, InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "inference"))

from small_model import moving_square, save_model


def sample(i: int, frames: int = 9) -> Sample:
    rng = np.random.default_rng(i)
    joints = np.concatenate([rng.uniform(0.2, 0.8, (frames, len(JOINTS), 2)), np.ones((frames, len(JOINTS), 1))], -1)
    parts = np.zeros((frames, 64, 48), np.uint8)
    parts[:, 20:40, 10:30] = 7
    clip = moving_square(frames, 64, 48)
    meta = {"level": f"L{3 + i % 2}", "motion": {"kind": "walk", "seed": i // 2, "id": f"walk-{i // 2}"}}
    return Sample(
        key=f"s{i}",
        driving=clip,
        fps=12.0,
        identity=clip[0],
        joints=joints.astype(np.float32),
        faces=np.full((frames, 4), np.nan, np.float32),
        meta=meta,
        target=clip[::-1].copy(),
        driving_joints=joints[::-1].astype(np.float32).copy(),
        identity_joints=joints[0].astype(np.float32),
        parts=parts,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder, "test", 0, [(f"s{i}", encode(sample(i))) for i in range(4)])
    write_manifest(folder, {})
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def result(data, model, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    cfg = EvalConfig(
        data=str(data), model=str(model), output=str(output), video_clips=2, saved_videos=1, steps=1, batch_size=2
    )
    return output, evaluate(cfg, progress=False)


def test_every_clip_has_a_row_and_some_have_video(result):
    _, found = result
    assert sorted(r["key"] for r in found["rows"]) == ["s0", "s1", "s2", "s3"]
    with_video = [r for r in found["rows"] if "psnr" in r["methods"]["ours"]]
    assert sorted(r["key"] for r in with_video) == ["s1", "s3"]
    assert set(with_video[0]["methods"]) == {
        "ours",
        "hold",
        "hold_autoencoder",
        "driver",
        "autoencoder",
        "copy",
        "scale_shift",
        "bone_length",
        "tokens",
    }
    assert set(with_video[0]["methods"]["ours"]) == {"psnr", "ssim", "psnr_person", "ssim_person", "joint_error", "pck"}


def test_baselines_are_measured_against_the_truth_and_not_against_ours(result):
    _, found = result
    row = next(r for r in found["rows"] if r["key"] == "s1")
    # The driver is the truth played backwards: its middle frame is right, its joints are those of another frame.
    assert row["methods"]["copy"]["joint_error"] > 5
    assert row["methods"]["driver"]["psnr"] is not None and row["methods"]["hold"]["psnr"] < 60


def test_groups_are_splits_and_levels(result):
    _, found = result
    assert set(found["groups"]) == {"test", "test L3", "test L4"}
    assert found["groups"]["test"]["clips"] == 4 and found["groups"]["test"]["video_clips"] == 2
    metrics = {(c["metric"], c["baseline"]) for c in found["groups"]["test"]["comparisons"]}
    assert metrics == {(m, b) for m, names in benchmark.BASELINES.items() for b in names}
    assert found["groups"]["test"]["comparisons"][0]["motions"] == 2


def test_the_result_is_on_disk_with_protocol_weights_and_a_video(result):
    output, found = result
    assert json.loads((output / "result.json").read_text()) == found
    assert found["protocol"]["name"] == benchmark.PROTOCOL and len(found["model"]["weights_sha256"]) == 7
    assert [p.name for p in (output / "videos").iterdir()] == ["s3.mp4"]
    assert [p.name for p in (output / "filmstrips").iterdir()] == ["s3.png"]


def test_levels_choose_clips_and_the_same_settings_give_the_same_numbers(data, model, tmp_path):
    results = [
        evaluate(
            EvalConfig(
                data=str(data), model=str(model), output=str(tmp_path / n), levels=["L4"], steps=1, saved_videos=0
            ),
            progress=False,
        )
        for n in "ab"
    ]
    assert {r["key"] for r in results[0]["rows"]} == {"s1", "s3"}
    assert results[0]["rows"] == results[1]["rows"]
    with pytest.raises(InputError, match="no clips of level L0"):
        evaluate(EvalConfig(data=str(data), model=str(model), output=str(tmp_path), levels=["L0"]), progress=False)


def test_a_clips_numbers_do_not_depend_on_its_batch(data, model, tmp_path):
    runs = []
    for size in (1, 4):
        cfg = EvalConfig(
            data=str(data), model=str(model), output=str(tmp_path), steps=1, saved_videos=0, batch_size=size
        )
        runs.append({r["key"]: r["methods"]["ours"]["psnr"] for r in evaluate(cfg, progress=False)["rows"]})
    for key, value in runs[0].items():
        assert runs[1][key] == pytest.approx(value, abs=0.02)


def test_clips_of_another_length_are_refused(model, tmp_path):
    write_shard(tmp_path, "test", 0, [("long", encode(sample(0, 13)))])
    write_manifest(tmp_path, {})
    with pytest.raises(InputError, match=r"13x64x48.*the model makes 9x64x48"):
        evaluate(EvalConfig(data=str(tmp_path), model=str(model), output=str(tmp_path / "out")), progress=False)


def test_clips_are_spread_evenly():
    assert spread(10, 3) == [1, 5, 8] and spread(4, None) == spread(4, 9) == [0, 1, 2, 3] and spread(5, 0) == []


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError) as caught:
        config.load(EvalConfig, None, ["data=x", "steps=0", "splits=[]"])
    assert len(caught.value.problems) == 2
