"""A set that is damaged is found out, and made good byte for byte."""

import json
import shutil

import pytest
from moving_disc import disc_frames, settings, write
from test_job import bytes_of

from data_pipeline.jobs import job, verifying
from imanim.data.files import read_json, write_json
from imanim.data.shards import write_shard
from imanim.errors import InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, blue in (("a", 10), ("b", 60), ("c", 100)):
        write(folder / f"{name}.mp4", disc_frames(120, ground=60 + blue, blue=blue))
    config = settings(folder, tmp_path_factory.mktemp("made") / "out")
    job.run(config, progress=False)
    return config


@pytest.fixture
def config(made, tmp_path):
    shutil.copytree(made.output, tmp_path / "out")
    return settings(made.input, tmp_path / "out")


def verify(config, **options):
    return verifying.verify(config, progress=False, **options)


def test_a_whole_set_is_whole(config):
    found = verify(config)
    assert found.exit_code == 0 and "6 samples are whole" in found.lines()[0]
    assert read_json(config.output / verifying.RESULT)["ok"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


DAMAGE = {
    "a flipped byte": lambda out: flip(out / "train-00000.tar"),
    "cut short": lambda out: (out / "train-00000.tar").write_bytes((out / "train-00000.tar").read_bytes()[:5000]),
    "gone": lambda out: (out / "train-00000.tar").unlink(),
    "no index": lambda out: (out / "train-00000.index.json").unlink(),
    "index of another": lambda out: shutil.copy(out / "train-00001.index.json", out / "train-00000.index.json"),
    "all gone": lambda out: [p.unlink() for p in out.glob("*.tar")],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_repaired_byte_for_byte(config, damage):
    before = bytes_of(config.output)
    damage(config.output)
    found = verify(config, quick=True)
    assert found.exit_code == 1 and "train-00000.tar" in found.lines()[0] and "repair" in found.lines()[-1]
    assert "train-00000.tar" in verifying.repair(config, progress=False).lines()[0]
    assert bytes_of(config.output) == before
    assert verify(config).exit_code == 0
    assert verifying.repair(config, progress=False).lines() == [f"{config.output}: nothing to repair"]


def test_a_sample_that_cannot_be_decoded_is_found_though_its_bytes_are_as_listed(config):
    """The writer itself may have been at fault: hashes say nothing of that."""
    manifest = read_json(config.output / "manifest.json")
    shard = manifest["splits"]["train"]["shards"][0]
    from data_pipeline.jobs.stores import TarSamples

    tar = TarSamples(config.output / shard["name"])
    keys = [entry["key"] for entry in read_json(config.output / "train-00000.index.json")["samples"]]
    samples = [(key, tar.read(key)) for key in keys]
    samples[0][1]["driving.mp4"] = samples[0][1]["driving.mp4"][:900]
    write_shard(config.output, "train", 0, samples)
    index = read_json(config.output / "train-00000.index.json")
    shard |= {"bytes": index["bytes"], "sha256": index["sha256"]}
    write_json(config.output / "manifest.json", manifest)
    assert verify(config, quick=True).exit_code == 0
    found = verify(config)
    assert found.exit_code == 1 and keys[0] in found.lines()[0]


def test_a_person_in_two_splits_is_found(config):
    train, val = (
        {p.name: p for p in config.output.glob("*.tar")}[name] for name in ("train-00000.tar", "val-00000.tar")
    )
    shutil.copy(train, val)
    shutil.copy(train.with_suffix(".index.json"), val.with_suffix(".index.json"))
    manifest = read_json(config.output / "manifest.json")
    one, two = (manifest["splits"][s]["shards"][0] for s in ("train", "val"))
    two |= {key: one[key] for key in ("samples", "bytes", "sha256")}
    write_json(config.output / "manifest.json", manifest)
    problems = [line for line in verify(config).lines() if "train and val" in line]
    assert any("person" in line for line in problems) and any("video" in line for line in problems)
    assert any(
        "is in train-00000.tar too" in p["problem"] for p in read_json(config.output / verifying.RESULT)["problems"]
    )


def test_a_shard_whose_video_is_gone_cannot_be_repaired_and_says_so(config, tmp_path):
    moved = tmp_path / "videos"
    shutil.copytree(config.input, moved)
    config.input = moved
    for path in moved.iterdir():
        path.write_bytes(path.read_bytes()[:3000])
    (config.output / "train-00000.tar").unlink()
    with pytest.raises(InputError, match="could not be cut again"):
        verifying.repair(config, progress=False)
    assert json.loads((config.output / "manifest.json").read_text())["samples"] == 6


def test_a_merge_does_not_forget_a_shard_that_is_gone(config):
    before = bytes_of(config.output)
    (config.output / "train-00000.tar").unlink()
    with pytest.raises(InputError, match=r"train-00000\.tar: is gone.*repair"):
        job.merge(config)
    (config.output / "stray-00007.tar").write_bytes(b"somebody put it here")
    verifying.repair(config, progress=False)
    job.merge(config)
    (config.output / "stray-00007.tar").unlink()
    assert bytes_of(config.output) == before
