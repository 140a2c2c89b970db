"""One evaluation on constructed samples and a random model: what is measured against what, and what survives a stop."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from protocol_samples import config_for, protocol_for, sample, save_model, write_data
from weights_here import need

from evaluation import benchmark, predictions
from evaluation.benchmark import evaluate
from evaluation.metrics import frechet, registry
from evaluation.metrics.base import MetricSpec, NoSettings, Value
from imanim.data.video import read_video, write_png, write_video
from imanim.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def result(data, model, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    cfg = config_for(data, model, output, protocol=protocol_for(source={"video_clips": 2}))
    return output, evaluate(cfg, str(data), progress=False)


def test_every_sample_has_a_row_and_some_have_video(result):
    _, found = result
    assert sorted(r["key"] for r in found["rows"]) == ["s0", "s1", "s2", "s3"]
    filmed = [r for r in found["rows"] if "psnr" in r["methods"]["ours"]]
    assert sorted(r["key"] for r in filmed) == ["s1", "s3"]
    assert set(filmed[0]["methods"]) == {
        *("ours", "hold", "hold_autoencoder", "driver", "autoencoder"),
        *("copy", "scale_shift", "bone_length", "tokens"),
    }
    pictures, joints = {"psnr", "ssim", "psnr_person", "ssim_person"}, {"joint_error", "moving_error", "pck"}
    assert set(filmed[0]["methods"]["ours"]) == pictures | joints


def test_baselines_are_measured_against_the_truth_and_not_against_ours(result):
    row = next(r for r in result[1]["rows"] if r["key"] == "s1")
    # The driver is the truth played backwards: its middle frame is right, its joints are those of another frame.
    assert row["methods"]["copy"]["joint_error"] > 5
    assert row["methods"]["hold"]["psnr"] < 60 and row["methods"]["autoencoder"]["psnr"] is not None


def test_groups_are_everybody_and_the_levels(result):
    groups = result[1]["groups"]
    assert set(groups) == {"all", "L3", "L4"} and groups["all"]["clips"] == 4 and groups["L3"]["clips"] == 2
    assert groups["all"]["counted"]["ours"]["psnr"] == 2


def test_the_result_is_on_disk_whole_with_protocol_weights_and_a_video(result):
    from evaluation import results

    output, found = result
    assert results.load(output) == found
    assert found["protocol"]["name"] == "test" and len(found["method"]["weights_sha256"]) == 7
    assert found["protocol"]["metrics"]["psnr"] and len(found["protocol"]["sha256"]) == 64
    assert [p.name for p in (output / "videos").iterdir()] == ["s3.mp4"]
    assert [p.name for p in (output / "filmstrips").iterdir()] == ["s3.png"]


def test_what_is_measured_is_what_the_model_made_bit_for_bit(result, data):
    output, found = result
    made = read_video(output / "predictions" / "s3.mkv").frames
    from evaluation.metrics.pixels import capped_psnr_over

    truth = read_video(output / "videos" / "s3.mp4").frames
    assert truth.shape == made.shape
    row = next(r for r in found["rows"] if r["key"] == "s3")
    from imanim.data.sample import decode
    from imanim.data.shards import ShardSet

    shards = ShardSet(data, "test")
    true = decode(*shards.read(shards.keys.index("s3"))).truth
    assert row["methods"]["ours"]["psnr"] == capped_psnr_over(made, true, [None])[0]


def test_the_same_command_again_makes_and_measures_nothing_anew(data, model, tmp_path, monkeypatch):
    cfg = config_for(data, model, tmp_path)
    first = evaluate(cfg, str(data), progress=False)
    monkeypatch.setattr("evaluation.generation.Maker._make", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr("evaluation.scoring.Scorer._measure", lambda *_: pytest.fail("measured again"))
    assert evaluate(cfg, str(data), progress=False) == first


def test_a_run_that_was_killed_half_way_goes_on(data, model, tmp_path, monkeypatch):
    whole = evaluate(config_for(data, model, tmp_path / "whole"), str(data), progress=False)
    cfg, count = config_for(data, model, tmp_path / "cut"), []
    write = predictions.write

    def killed(*args):
        count.append(1)
        if len(count) == 8:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(predictions, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(cfg, str(data), progress=False)
    found = evaluate(cfg, str(data), progress=False)
    assert found["rows"] == whole["rows"] and found["sets"] == whole["sets"]


def test_another_model_in_the_same_folder_is_measured_anew(data, model, tmp_path):
    other = save_model(tmp_path / "other", seed=1)
    first = evaluate(config_for(data, model, tmp_path / "out"), str(data), progress=False)
    second = evaluate(config_for(data, other, tmp_path / "out"), str(data), progress=False)
    assert first["rows"] != second["rows"]
    assert second["rows"] == evaluate(config_for(data, other, tmp_path / "fresh"), str(data), progress=False)["rows"]


def test_anybodys_videos_are_measured_without_a_model(data, model, tmp_path):
    ours = evaluate(config_for(data, model, tmp_path / "ours"), str(data), progress=False)
    folder = tmp_path / "theirs"
    made = read_video(tmp_path / "ours" / "predictions" / "s3.mkv").frames
    for i, frame in enumerate(made):
        write_png(folder / "s3" / f"{i}.png", frame)
    write_video(folder / "s0.mp4", made[:5], 12)
    write_video(folder / "s1.mp4", made[:, :32], 12)
    found = evaluate(config_for(data, None, tmp_path / "out", predictions=str(folder)), str(data), progress=False)
    assert [r["key"] for r in found["rows"]] == ["s3"] and found["method"]["kind"] == "predictions"
    # Two candidates for one sample do not stop the rest; a damaged row is measured again.
    (tmp_path / "out" / "rows" / "s3.json").write_text("{")
    assert (
        evaluate(config_for(data, None, tmp_path / "out", predictions=str(folder)), str(data), progress=False) == found
    )
    write_video(folder / "s3.mp4", made, 12)
    with pytest.raises(InputError, match="none of 4 samples could be measured"):
        evaluate(config_for(data, None, tmp_path / "out", predictions=str(folder)), str(data), progress=False)
    (folder / "s3.mp4").unlink()
    theirs, mine = (next(r for r in x["rows"] if r["key"] == "s3")["methods"] for x in (found, ours))
    assert theirs["ours"]["psnr"] == mine["ours"]["psnr"] and theirs["ours"].get("joint_error") is None
    assert theirs["hold"] == mine["hold"] and "autoencoder" not in theirs
    assert found["protocol"]["sha256"] == ours["protocol"]["sha256"] and found["samples"] == ours["samples"]
    reasons = {r["key"]: r["reason"] for r in found["refused"]}
    assert "5 frames, the sample has 9" in reasons["s0"] and "48x32 pixels" in reasons["s1"]
    assert "has no video for sample s2" in reasons["s2"]


def test_when_nothing_can_be_measured_the_first_reason_is_told(data, tmp_path):
    (tmp_path / "empty").mkdir()
    cfg = config_for(data, None, tmp_path / "out", predictions=str(tmp_path / "empty"))
    with pytest.raises(
        InputError, match=r"none of 4 samples could be measured; the first: .*has no video for sample s0"
    ):
        evaluate(cfg, str(data), progress=False)


class Colours:
    """A set metric whose features can be worked out by hand: the mean colour of each frame."""

    values = (Value("colours", "colours", "lower"),)
    key, dim = "colours", 3

    @property
    def extractor(self):
        return self

    def __call__(self, frames):
        return frames.reshape(len(frames), -1, 3).mean(1).astype(np.float32)

    def protocol(self):
        return {"features": "mean colour"}

    def distance(self, made, truth, *, bootstrap, seed):
        return {"colours": frechet.distance(made, truth, bootstrap=bootstrap, seed=seed)}


def test_a_set_metric_is_of_all_measured_samples_and_leaves_out_refused_ones(data, tmp_path, monkeypatch):
    from evaluation.protocols.shards import items

    monkeypatch.setitem(registry.known(), "colours", MetricSpec(NoSettings, lambda settings, machine: Colours()))
    protocol = protocol_for(metrics=["colours"], baselines=["hold"], set_baselines=["hold"], joints=False)
    materials = {item.key: item.load() for item in items(protocol, str(data))}
    rng = np.random.default_rng(0)
    made = {key: rng.integers(0, 256, m.truth.shape, dtype=np.uint8) for key, m in materials.items()}
    for key in ("s0", "s1", "s3"):
        for i, frame in enumerate(made[key]):
            write_png(tmp_path / "theirs" / key / f"{i}.png", frame)
    cfg = config_for(data, None, tmp_path / "out", predictions=str(tmp_path / "theirs"), protocol=protocol)
    found = evaluate(cfg, str(data), progress=False)
    assert [r["key"] for r in found["refused"]] == ["s2"]
    used = [np.concatenate([Colours()(clips[k]) for k in ("s0", "s1", "s3")]).astype(np.float64) for clips in (
        made, {key: m.truth for key, m in materials.items()},
    )]  # fmt: skip
    stats = [stat for rows in used for stat in (rows.mean(0), np.cov(rows, rowvar=False))]
    spread = found["sets"]["all"]["ours"]["colours"]
    assert spread["value"] == pytest.approx(frechet.frechet(*stats), rel=1e-9)
    assert spread["n"] == 27 and len(spread["draws"]) == 20 and set(found["sets"]["all"]) == {"ours", "hold"}


def test_levels_choose_samples(data, model, tmp_path):
    cfg = config_for(data, model, tmp_path, protocol=protocol_for(source={"levels": ["L4"]}))
    assert {r["key"] for r in evaluate(cfg, str(data), progress=False)["rows"]} == {"s1", "s3"}
    with pytest.raises(InputError, match="no clips of level L0"):
        evaluate(config_for(data, model, tmp_path, protocol=protocol_for(source={"levels": ["L0"]})), str(data))


def test_driven_by_itself_the_driver_is_the_truth(data, model, tmp_path):
    protocol = protocol_for(source={"pairing": "self"}, baselines=["driver"], set_baselines=[])
    found = evaluate(config_for(data, model, tmp_path, protocol=protocol), str(data), progress=False)
    assert found["groups"]["all"]["means"]["copy"]["joint_error"] == pytest.approx(0)
    assert found["groups"]["all"]["means"]["driver"]["ssim"] == pytest.approx(1)


def test_a_person_who_drives_himself_is_no_cross_pair(model, tmp_path):
    folder = write_data(tmp_path / "data", [sample(0), sample(1, person="driver")])
    with pytest.raises(InputError, match=r"1 of 2 samples drive themselves \(s1\)"):
        evaluate(config_for(folder, model, tmp_path / "out"), str(folder), progress=False)


def test_a_protocol_of_another_size_refuses_the_data(data, model, tmp_path):
    cfg = config_for(data, model, tmp_path, protocol=protocol_for(frames=17))
    with pytest.raises(InputError, match="number of frames is 9, the protocol wants 17"):
        evaluate(cfg, str(data), progress=False)


def test_a_samples_numbers_do_not_depend_on_its_batch(data, model, tmp_path):
    runs = [
        evaluate(config_for(data, model, tmp_path / str(size), batch_size=size), str(data), progress=False)
        for size in (1, 4)
    ]
    one, four = ({r["key"]: r["methods"]["ours"]["psnr"] for r in run["rows"]} for run in runs)
    for key, value in one.items():
        assert four[key] == pytest.approx(value, abs=0.02)


def test_two_ranks_and_other_batches_give_the_result_of_one(data, model, tmp_path):
    """The same rows, sets and groups, number by number, with a set metric among them."""
    need("inception-2015")
    words = [
        *("--config", "configs/eval/doubles_quick.yaml", f"data={data}", f"model={model}", "saved_videos=0"),
        *("protocol.size=[64,48]", "protocol.frames=9", "protocol.steps=1", "protocol.metrics=[psnr,ssim,fid-clean]"),
        *("protocol.metric_settings.fid-clean={dim: 64, frames_per_clip: 2}", "protocol.bootstrap=20"),
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611"]
    found = []
    for name, launcher, batch in (("one", [sys.executable], 16), ("two", torchrun, 16), ("small", [sys.executable], 1)):
        own = [f"output={tmp_path / name}", f"features={tmp_path / name / 'features'}", f"metric_batch_size={batch}"]
        command = [*launcher, "launchers/evaluate.py", *words, *own]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads((tmp_path / name / benchmark.RESULT).read_text()))
    one, two, small = found
    for part in ("rows", "sets", "groups", "protocol", "samples"):
        assert one[part] == two[part], part
    assert one["rows"] == small["rows"]
    value = one["sets"]["all"]["ours"]["fid_clean"]["value"]
    assert value > 0 and small["sets"]["all"]["ours"]["fid_clean"]["value"] == pytest.approx(value, rel=1e-6)


def test_pairs_of_any_size_go_through_the_models_canvas(model, tmp_path):
    """Pictures and videos of other sizes and lengths than the model's: window by window, and back to the protocol's size."""
    from PIL import Image

    from evaluation.protocols.config import ProtocolConfig, SourceConfig

    rng = np.random.default_rng(0)
    soft = rng.integers(0, 256, (14, 4, 3, 3), dtype=np.uint8)
    clip = np.stack([np.asarray(Image.fromarray(f).resize((96, 130))) for f in soft])
    write_png(tmp_path / "data" / "characters" / "anna.png", clip[0, :128])
    write_video(tmp_path / "data" / "drivers" / "dance.mp4", clip, 12)
    protocol = ProtocolConfig(
        "pairs", 1, SourceConfig("pairs"), ["colours"], frames=12, resize="bicubic", steps=1, baselines=[], set_baselines=[]
    )  # fmt: skip
    cfg = config_for(tmp_path / "data", model, tmp_path / "out", protocol=protocol)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.known(), "colours", MetricSpec(NoSettings, lambda settings, machine: Steady()))
        found = evaluate(cfg, cfg.data, progress=False)
    made = read_video(tmp_path / "out" / "predictions" / "anna--dance.mkv").frames
    assert len(made) == 12 and max(made.shape[1:3]) <= 64
    assert found["rows"][0]["methods"]["ours"]["steady"] == 128 and found["sets"]["all"] == {}
    assert found["rows"][0]["labels"] == {"person": "character anna", "driver_person": "driver dance"}


class Steady:
    """A clip metric that needs no truth: the height at which it is measured."""

    values = (Value("steady", "steady", "none", needs_truth=False),)

    def protocol(self):
        return {}

    def measure(self, clip):
        return {"steady": float(clip.made.shape[1])}


def test_a_damaged_video_of_ours_is_made_again(data, model, tmp_path):
    cfg = config_for(data, model, tmp_path)
    first = evaluate(cfg, str(data), progress=False)
    video = tmp_path / "predictions" / "s1.mkv"
    good = video.read_bytes()
    video.write_bytes(good[: len(good) // 2] + bytes(40) + good[len(good) // 2 + 40 :])
    (tmp_path / "autoencoder" / "s2.json").write_text("{")
    assert evaluate(cfg, str(data), progress=False) == first
    assert video.read_bytes() == good


def test_lossless_videos_come_back_as_they_were_for_any_size():
    for height, width in ((64, 48), (33, 47)):
        frames = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
        np.testing.assert_array_equal(read_video(predictions.lossless(frames, 12)).frames, frames)
        assert predictions.lossless(frames, 12) == predictions.lossless(frames, 12)
