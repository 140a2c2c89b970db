"""A batch from files to shards, with networks that know the test's own videos."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from moving_disc import disc_frames, settings, write

from data_pipeline.jobs import job, merging, unit
from data_pipeline.video import steps
from data_pipeline.video.artefacts import WORK, VideoFolder, known_sha256
from imanim.data.sample import decode
from imanim.data.shards import ShardSet, read_manifest
from imanim.errors import InputError


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Good videos (one of them twice), one with two people, one with a cut, and some that are no good."""
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "long.mp4", disc_frames(80))
    shutil.copy(folder / "long.mp4", folder / "same.mp4")
    write(folder / "other.mkv", disc_frames(60, ground=60, blue=80))
    write(folder / "pair.mp4", np.concatenate([disc_frames(60), disc_frames(60)], axis=2))
    write(folder / "cut.mp4", np.concatenate([disc_frames(40, blue=10), disc_frames(20, ground=180, blue=10)]))
    write(folder / "two.mp4", disc_frames(2))
    write(folder / "nobody.mp4", disc_frames(60, discs=0))
    write(folder / "short.mp4", disc_frames(20))
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("hello " * 200)
    data = (folder / "long.mp4").read_bytes()
    (folder / "torn.mp4").write_bytes(data[: len(data) * 2 // 3])
    return folder


def run(config):
    job.run(config, progress=False)
    return json.loads((config.output / "report.json").read_text())


def rows_of(report):
    return {row["file"]: row for row in report["videos"]}


@pytest.fixture(scope="module")
def done_once(videos, tmp_path_factory):
    config = settings(videos, tmp_path_factory.mktemp("done") / "out")
    return config, run(config)


@pytest.fixture
def done(done_once, tmp_path):
    """A finished run in a folder of the test's own."""
    config, report = done_once
    shutil.copytree(config.output, tmp_path / "out")
    return settings(config.input, tmp_path / "out"), report


def all_samples(folder):
    found = []
    for split in read_manifest(folder)["splits"]:
        part = ShardSet(folder, split)
        found += [decode(*part.read(i)) for i in range(len(part))]
    return found


def bytes_of(folder):
    """The set: every tar, index and the manifest."""
    files = [*Path(folder).glob("*.tar"), *Path(folder).glob("*.index.json"), Path(folder) / "manifest.json"]
    return {path.name: path.read_bytes() for path in sorted(files)}


def worked_on(config):
    """How many videos a run works on."""
    return int(job.run_task(config, 1, 1, progress=False).lines()[0].split("videos, ")[1].split()[0])


def test_every_file_has_a_row_and_the_bad_ones_their_reason(done):
    _, report = done
    rows = rows_of(report)
    assert {name: row.get("reason") for name, row in rows.items()} == {
        "long.mp4": None,
        "other.mkv": None,
        "cut.mp4": None,
        "same.mp4": "duplicate",
        "pair.mp4": "multiple_people",
        "two.mp4": "too_few_frames",
        "nobody.mp4": "no_person",
        "short.mp4": "too_short",
        "empty.mp4": "empty_file",
        "text.mp4": "not_a_video",
        "torn.mp4": rows["torn.mp4"]["reason"],
    }
    assert rows["torn.mp4"]["reason"] in ("truncated", "corrupt", "not_a_video") and rows["torn.mp4"]["quarantined"]
    assert [rows[n]["clips"] for n in ("long.mp4", "other.mkv", "cut.mp4")] == [2, 1, 1]
    assert rows["cut.mp4"]["cuts"] == [40] and rows["cut.mp4"]["left_out"] == {"hard_cut": 1}


def test_the_joints_lie_on_the_person_in_the_re_encoded_clip(done):
    config, _ = done
    samples = all_samples(config.output)
    assert len(samples) == 4
    for sample in samples:
        assert sample.driving.shape == (17, 128, 80, 3) and sample.fps == 12.0 and sample.target is None
        pictures = [*zip(sample.driving, sample.joints), (sample.identity, sample.identity_joints)]
        for image, joints in pictures:
            y, x = np.nonzero((image[..., 0].astype(int) - image[..., 1]) > 80)
            centre = np.array([x.mean() + 0.5, y.mean() + 0.5])
            assert np.abs(joints[0, :2] * (80, 128) - centre).max() < 0.7
        boxes = sample.faces.reshape(-1, 2, 2) * (80, 128)
        assert np.allclose(boxes.mean(axis=1), sample.joints[:, 0, :2] * (80, 128), atol=8)


def test_the_identity_frame_is_from_another_time_of_the_same_video(done):
    config, _ = done
    for sample in all_samples(config.output):
        video = sample.meta["video"]
        outside = video["identity_sec"] < video["start_sec"] or video["identity_sec"] >= video["start_sec"] + 17 / 12
        assert outside
        assert np.abs(sample.identity_joints[0, :2] - sample.joints[:, 0, :2]).max(axis=1).min() > 0.005
        assert sample.meta["licence"] == "unknown" and sample.meta["person"].startswith("person-")


def test_people_and_videos_are_in_one_split_and_both_splits_exist(done):
    config, _ = done
    manifest = read_manifest(config.output)
    assert set(manifest["splits"]) == {"train", "val"} and manifest["samples"] == 4
    assert manifest["videos"] == 3 and manifest["persons"] == 3 and manifest["leakage"]["ok"]
    homes = {}
    for split in manifest["splits"]:
        part = ShardSet(config.output, split)
        for i in range(len(part)):
            meta = json.loads(part.read(i)[1]["meta.json"])
            for who in (meta["person"], meta["video"]["sha256"]):
                homes.setdefault(who, set()).add(split)
    assert len(homes) == 6 and all(len(splits) == 1 for splits in homes.values())
    assert not list((config.output / WORK).rglob("samples-*")), "samples live in the shards alone"


def test_the_report_is_there_and_tells_nobody_where_the_footage_lay(done):
    config, _ = done
    page = (config.output / "report.html").read_text()
    for text in ("long.mp4", "multiple_people", "the same bytes as long.mp4"):
        assert text in page
    assert str(config.input) not in page + (config.output / "manifest.json").read_text()
    for name, data in bytes_of(config.output).items():
        assert str(config.input).encode() not in data, name


def test_a_second_run_redoes_nothing_and_changes_nothing(done):
    config, _ = done
    before = bytes_of(config.output)
    assert worked_on(config) == 0
    run(config)
    assert bytes_of(config.output) == before


def test_new_videos_are_added_to_a_finished_folder(videos, tmp_path):
    some = tmp_path / "some"
    some.mkdir()
    shutil.copy(videos / "long.mp4", some)
    config = settings(some, tmp_path / "out", split__val_fraction=0.0)
    run(config)
    kept = (config.output / "train-00000.tar").read_bytes()
    shutil.copy(videos / "other.mkv", some)
    shutil.copy(videos / "cut.mp4", some)
    job.plan(config)
    assert worked_on(config) == 2
    job.merge(config)
    assert (config.output / "train-00000.tar").read_bytes() == kept
    assert read_manifest(config.output)["samples"] == 4


def test_a_changed_setting_redoes_what_depends_on_it_and_nothing_else(done, videos, tmp_path):
    config, _ = done
    keys = steps.keys(config, unit.load_networks(config).models())
    folder = VideoFolder(config.output, known_sha256(config.output, "long.mp4"))
    people = folder.path / f"people-{keys['people']}.npz"
    touched = people.stat().st_mtime_ns
    config.framing.margin = 0.4
    run(config)
    assert people.stat().st_mtime_ns == touched
    after = steps.keys(config, unit.load_networks(config).models())
    assert after["clips"] != keys["clips"] and folder.load("clips", after["clips"]) is not None
    row = folder.row(after["samples"])
    assert "people" not in row["stage_frames"] and row["stage_frames"]["encode"] == 34
    fresh = settings(videos, tmp_path / "fresh", framing__margin=0.4)
    run(fresh)
    assert bytes_of(config.output) == bytes_of(fresh.output), "as if it had always been so"


def test_other_splits_repack_and_touch_no_video(done):
    config, _ = done
    config.split.val_fraction, config.samples_per_shard = 0.0, 3
    job.plan(config)
    assert worked_on(config) == 0
    job.merge(config)
    assert [len(s["shards"]) for s in read_manifest(config.output)["splits"].values()] == [2]
    assert len(all_samples(config.output)) == 4


def test_shards_of_another_source_are_left_alone(videos, tmp_path):
    (tmp_path / "train-00000.tar").write_bytes(b"somebody else's")
    with pytest.raises(InputError, match="holds shards of another source"):
        run(settings(videos, tmp_path))
    assert (tmp_path / "train-00000.tar").read_bytes() == b"somebody else's"


def test_a_disk_that_fills_up_costs_nothing_that_was_finished(videos, tmp_path):
    flag = tmp_path / "full"
    config = settings(videos, tmp_path / "out", workers=1, pose__detector=flag)
    job.plan(config)
    flag.write_text("8")  # this many files may be written by each process
    with pytest.raises(InputError, match="disk is full"):
        job.run_task(config, 1, 1, progress=False)
    finished = len(list((config.output / WORK).rglob("row-*.json")))
    flag.unlink()
    assert worked_on(config) == 11 - 1 - finished, "a copy of the same bytes is not worked on either"
    job.merge(config)
    assert read_manifest(config.output)["samples"] == 4


def test_tasks_together_make_what_one_makes(done_once, videos, tmp_path):
    config = settings(videos, tmp_path / "out")
    job.plan(config)
    for task in (3, 1):
        job.run_task(config, task, 3, progress=False)
    with pytest.raises(InputError, match="not finished under these settings"):
        job.merge(config)
    job.run_task(config, 2, 3, progress=False)
    job.merge(config)
    assert bytes_of(config.output) == bytes_of(done_once[0].output)


def test_a_merge_killed_at_any_moment_ends_in_the_same_set(done_once, videos, tmp_path, monkeypatch):
    config = settings(videos, tmp_path / "out")
    job.plan(config)
    job.run_task(config, 1, 1, progress=False)
    for name in ("stage", "commit", "finish", "clear_stage"):

        def dying(*args, name=name, **kwargs):
            getattr(merging.books, f"_real_{name}")(*args, **kwargs)
            raise KeyboardInterrupt

        monkeypatch.setattr(merging.books, f"_real_{name}", getattr(merging.books, name), raising=False)
        monkeypatch.setattr(merging.books, name, dying)
        with pytest.raises(KeyboardInterrupt):
            job.merge(config)
        monkeypatch.setattr(merging.books, name, getattr(merging.books, f"_real_{name}"))
    job.merge(config)
    assert bytes_of(config.output) == bytes_of(done_once[0].output)


def test_a_defect_of_ours_becomes_a_row_and_is_tried_again_when_asked(videos, tmp_path):
    flag = tmp_path / "oops"
    config = settings(videos, tmp_path / "out", pose__detector=flag)
    flag.write_text("defect")
    with pytest.raises(InputError, match="internal_error"):
        run(config)
    flag.unlink()
    assert worked_on(config) == 0
    again = job.retry_failed(config, progress=False).lines()
    assert "6 worked on now" in again[0]
    job.merge(config)
    assert read_manifest(config.output)["samples"] == 4
    assert job.retry_failed(config, progress=False).lines() == ["nothing to try again"]


def test_a_video_that_kills_its_process_is_named_and_the_others_are_done(videos, tmp_path):
    config = settings(videos, tmp_path / "out", captions__backend="moving_disc:deadly_caption")
    rows = rows_of(run(config))
    assert rows["other.mkv"]["reason"] == "crashed" and rows["other.mkv"]["quarantined"]
    assert rows["long.mp4"]["clips"] == 2 and worked_on(config) == 0
    meta = all_samples(config.output)[0].meta
    assert meta["caption"] == "17 frames of a disc"


def test_when_nothing_can_be_used_one_line_says_so_and_the_report_is_written(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.mp4").write_text("no video " * 100)
    config = settings(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="none of the 1 videos") as caught:
        run(config)
    assert "not_a_video 1" in str(caught.value) and "\n" not in str(caught.value)
    assert "not_a_video" in (tmp_path / "out" / "report.html").read_text()


def test_the_same_face_in_two_files_is_one_person(tmp_path):
    (tmp_path / "in").mkdir()
    for name, blue in (("a", 20), ("b", 22), ("c", 90)):
        write(tmp_path / "in" / f"{name}.mp4", disc_frames(80, blue=blue, ground=60 + blue))
    config = settings(tmp_path / "in", tmp_path / "out", split__val_fraction=0.4)
    run(config)
    samples = all_samples(config.output)
    who = {s.meta["video"]["name"]: s.meta["person"] for s in samples}
    assert who["a.mp4"] == who["b.mp4"] != who["c.mp4"]
    assert read_manifest(config.output)["persons"] == 2


def test_one_face_pinned_into_two_splits_fails_the_build(tmp_path):
    (tmp_path / "in").mkdir()
    for name, blue in (("a", 20), ("b", 22)):
        write(tmp_path / "in" / f"{name}.mp4", disc_frames(80, blue=blue, ground=60 + blue))
    config = settings(tmp_path / "in", tmp_path / "out", split__pinned={"a.*": "train", "b.*": "test"})
    with pytest.raises(InputError, match=r"(a|b)\.mp4.*(a|b)\.mp4"):
        run(config)
    assert not (config.output / "manifest.json").exists()


def test_what_stands_beside_a_video_goes_into_its_samples(tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.mp4", disc_frames(80))
    (tmp_path / "in" / "a.json").write_text(
        '{"license": "CC0", "webpage_url": "https://example.org/a", "description": "a disc"}'
    )
    config = settings(tmp_path / "in", tmp_path / "out", captions__backend="sidecar")
    run(config)
    meta = all_samples(config.output)[0].meta
    assert (meta["licence"], meta["origin"], meta["caption"]) == ("CC0", "https://example.org/a", "a disc")
    (tmp_path / "in" / "a.json").write_text('{"licence": "mine"}')
    run(config)
    assert all_samples(config.output)[0].meta["licence"] == "mine"
    (tmp_path / "in" / "a.json").write_text("[")
    with pytest.raises(InputError, match="sidecar 1"):
        run(config)


def test_two_people_apart_become_clips_of_one_each(videos, tmp_path):
    (tmp_path / "in").mkdir()
    wide = np.concatenate([disc_frames(80, blue=20), disc_frames(80, blue=90)], axis=2)
    write(tmp_path / "in" / "pair.mp4", wide)
    config = settings(tmp_path / "in", tmp_path / "out", people__multiple="split")
    run(config)
    samples = all_samples(config.output)
    assert len(samples) == 4 and read_manifest(config.output)["persons"] == 2
    assert len(read_manifest(config.output)["splits"]) == 1, "one video, one split"
    for sample in samples:
        red = (sample.driving[0, ..., 0].astype(int) - sample.driving[0, ..., 1]) > 80
        assert 50 < red.sum() < 1500


def test_a_dry_run_touches_nothing(videos, tmp_path):
    outcome = job.run(settings(videos, tmp_path / "out"), dry_run=True)
    assert "11 videos" in outcome.lines()[0] and not (tmp_path / "out").exists()
