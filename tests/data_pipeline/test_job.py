"""A batch from files to shards, with a network that knows the test's own videos."""

import errno
import json
import shutil

import numpy as np
import pytest
from moving_disc import DiscFaces, DiscNetwork, disc_frames, work_or_die, write

from data_pipeline import job, ledger
from data_pipeline.config import VideosConfig
from data_pipeline.one_video import Networks
from imanim.data import files, shards
from imanim.data.sample import decode
from imanim.data.shards import ShardSet, read_manifest
from imanim.errors import InputError


@pytest.fixture(autouse=True, scope="module")
def disc_networks():
    """The disc finder in the place of the real networks."""
    made = Networks(DiscNetwork(), DiscFaces())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "load_networks", lambda config: made)
        yield


@pytest.fixture
def networks(monkeypatch):
    """The names of the videos that were worked on, in order."""
    seen, real = [], job.process
    monkeypatch.setattr(job, "process", lambda path, *args: (seen.append(path.name), real(path, *args))[1])
    return seen


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two good videos (one of them twice), one with two people, one with a cut, and six that are no good."""
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "long.mp4", disc_frames(80))
    shutil.copy(folder / "long.mp4", folder / "same.mp4")
    write(folder / "other.mkv", disc_frames(60, ground=60))
    write(folder / "pair.mp4", disc_frames(60, discs=2))
    write(folder / "cut.mp4", np.concatenate([disc_frames(40), disc_frames(20, ground=180)]))
    write(folder / "two.mp4", disc_frames(2))
    write(folder / "nobody.mp4", disc_frames(60, discs=0))
    write(folder / "short.mp4", disc_frames(20))
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("hello " * 200)
    data = (folder / "long.mp4").read_bytes()
    (folder / "torn.mp4").write_bytes(data[: len(data) * 2 // 3])
    return folder


def settings(videos, output, **changes):
    made = VideosConfig(input=videos, output=output, workers=0, samples_per_shard=2)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def run(config):
    job.run(config, progress=False)
    return json.loads((config.output / "report.json").read_text())


def rows_of(report):
    return {row["file"]: row for row in report["rows"]}


@pytest.fixture(scope="module")
def done_once(videos, tmp_path_factory, disc_networks):
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
    assert rows["torn.mp4"]["reason"] in ("truncated", "corrupt", "not_a_video")
    assert [rows[n]["clips"] for n in ("long.mp4", "other.mkv", "cut.mp4")] == [2, 1, 1]
    assert rows["cut.mp4"]["cuts"] == [40] and rows["cut.mp4"]["left_out"] == {"hard_cut": 1}
    assert report["totals"]["clips"] == 4 and report["totals"]["files_kept"] == 3


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
        assert sample.meta["licence"] == "unknown" and sample.meta["person"].startswith("video-")


def test_all_clips_of_a_video_are_in_one_split_and_both_splits_exist(done):
    config, _ = done
    manifest = read_manifest(config.output)
    assert set(manifest["splits"]) == {"train", "val"} and manifest["samples"] == 4 and manifest["videos"] == 3
    where = {}
    for split in manifest["splits"]:
        for key in ShardSet(config.output, split).keys:
            where.setdefault(key.rsplit("-", 1)[0], set()).add(split)
    assert all(len(splits) == 1 for splits in where.values()) and len(where) == 3
    assert not (config.output / ledger.WORK).exists()


def test_the_report_page_and_the_contact_sheet_are_there(done):
    config, _ = done
    page = (config.output / "report.html").read_text()
    for text in ("long.mp4", "multiple_people", "contact_sheet.png", "duplicate: the same bytes as long.mp4"):
        assert text in page
    assert str(config.input) not in page + (config.output / "manifest.json").read_text()
    assert (config.output / "contact_sheet.png").stat().st_size > 10_000


def test_a_second_run_redoes_nothing_and_changes_nothing(done, networks):
    config, first = done
    before = {p.name: p.read_bytes() for p in config.output.glob("*.tar")}
    networks.clear()
    second = run(config)
    assert networks == []
    assert {p.name: p.read_bytes() for p in config.output.glob("*.tar")} == before
    assert rows_of(second)["long.mp4"]["clips"] == rows_of(first)["long.mp4"]["clips"]


def test_new_videos_are_added_to_a_finished_folder(videos, tmp_path, networks):
    some = tmp_path / "some"
    some.mkdir()
    shutil.copy(videos / "long.mp4", some)
    config = settings(some, tmp_path / "out")
    run(config)
    assert set(read_manifest(config.output)["splits"]) == {"train"}
    kept = (config.output / "train-00000.tar").read_bytes()
    shutil.copy(videos / "other.mkv", some)
    shutil.copy(videos / "cut.mp4", some)
    networks.clear()
    run(config)
    assert sorted(networks) == ["cut.mp4", "other.mkv"]
    assert (config.output / "train-00000.tar").read_bytes() == kept
    assert read_manifest(config.output)["samples"] == 4 and set(read_manifest(config.output)["splits"]) == {
        "train",
        "val",
    }


def test_other_settings_are_not_mixed_into_a_finished_folder(done, videos):
    config, _ = done
    other = settings(videos, config.output)
    other.clip.fps = 10.0
    with pytest.raises(InputError, match="was made with other settings"):
        run(other)


def test_shards_of_another_source_are_left_alone(videos, tmp_path):
    (tmp_path / "train-00000.tar").write_bytes(b"somebody else's")
    with pytest.raises(InputError, match="holds shards of another source"):
        run(settings(videos, tmp_path))
    assert (tmp_path / "train-00000.tar").read_bytes() == b"somebody else's"


def test_a_disk_that_fills_up_costs_nothing_that_was_finished(videos, tmp_path, networks, monkeypatch):
    config = settings(videos, tmp_path / "out")
    real, calls = files.atomic_file, []

    def filling(path):
        calls.append(path)
        if len(calls) > 6:
            raise InputError(f"{path}: the disk is full; free some space") from OSError(errno.ENOSPC, "full")
        return real(path)

    monkeypatch.setattr(files, "atomic_file", filling)
    with pytest.raises(InputError, match="disk is full"):
        run(config)
    finished = len(list((config.output / ledger.WORK).rglob("*.json")))
    assert finished >= 2
    monkeypatch.setattr(files, "atomic_file", real)
    first = list(networks)
    run(config)
    assert read_manifest(config.output)["samples"] == 4
    # The one that met the full disk is done again; those finished before it are not.
    assert len(networks) == len(first) + len(set(networks[len(first) :]))
    assert len(set(first) & set(networks[len(first) :])) <= 1


def test_a_run_killed_while_packing_makes_the_same_shards_again(videos, tmp_path, monkeypatch):
    clean, killed = settings(videos, tmp_path / "clean"), settings(videos, tmp_path / "killed")
    run(clean)
    real = ledger.Ledger.write

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger.Ledger, "write", die)
    with pytest.raises(KeyboardInterrupt):
        run(killed)
    monkeypatch.setattr(ledger.Ledger, "write", real)
    assert list(killed.output.glob("*.tar"))
    run(killed)
    for tar in clean.output.glob("*.tar"):
        assert (killed.output / tar.name).read_bytes() == tar.read_bytes()
    assert shards.read_manifest(killed.output)["splits"] == shards.read_manifest(clean.output)["splits"]


def test_a_defect_of_ours_becomes_a_row_and_the_batch_goes_on(videos, tmp_path, monkeypatch):
    real = job.process

    def faulty(path, *args):
        if path.name == "other.mkv":
            raise ZeroDivisionError("oops")
        return real(path, *args)

    monkeypatch.setattr(job, "process", faulty)
    rows = rows_of(run(settings(videos, tmp_path / "out")))
    assert rows["other.mkv"]["reason"] == "internal_error" and "oops" in rows["other.mkv"]["detail"]
    assert rows["long.mp4"]["clips"] == 2
    monkeypatch.setattr(job, "process", real)
    assert rows_of(run(settings(videos, tmp_path / "out")))["other.mkv"]["clips"] == 1


def test_a_file_that_kills_its_process_is_found_and_the_others_are_done(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "work", work_or_die)
    names = ["a.mp4", "deadly.mp4", "b.mp4", "c.mp4"]
    tasks = [(tmp_path / name, name, settings(tmp_path, tmp_path), frozenset()) for name in names]
    rows = {row["file"]: row.get("reason") for row in job._rows(tasks, 2)}
    assert rows == {"a.mp4": None, "deadly.mp4": "crashed", "b.mp4": None, "c.mp4": None}


def test_when_nothing_can_be_used_one_line_says_so_and_the_report_is_written(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.mp4").write_text("no video " * 100)
    config = settings(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="none of the 1 videos") as caught:
        run(config)
    assert "not_a_video 1" in str(caught.value) and "\n" not in str(caught.value)
    assert "not_a_video" in (tmp_path / "out" / "report.html").read_text()


def test_splits_go_by_hash_and_stay(tmp_path):
    rows = [{"sha256": f"{i * 0x0CCCCCCD:08x}" + "0" * 56} for i in range(20)]
    job.assign_splits(rows, 0.25, have=set())
    assert [r["split"] for r in rows] == ["val"] * 5 + ["train"] * 15
    one = [{"sha256": "00000000" + "0" * 56}]
    job.assign_splits(one, 0.25, have=set())
    assert one[0]["split"] == "train"
    job.assign_splits(one, 0.25, have={"train"})
    assert one[0]["split"] == "val"


def test_a_dry_run_touches_nothing(videos, tmp_path):
    outcome = job.run(settings(videos, tmp_path / "out"), dry_run=True)
    assert "11 videos" in outcome.lines()[0] and not (tmp_path / "out").exists()
