"""The sample contract and the shards that hold it."""

import json
import tarfile

import numpy as np
import pytest

from imanim.data import shards
from imanim.data.sample import JOINT_PARENTS, JOINTS, Sample, check, decode, encode
from imanim.data.stream import OUTSIDE, Loader, SampleDataset
from imanim.errors import InputError


def make_sample(key: str = "a", *, frames: int = 5, seed: int = 0, cross: bool = True) -> Sample:
    rng = np.random.default_rng(seed)
    smooth = np.linspace(0, 200, 32 * 16 * 3).reshape(1, 32, 16, 3).astype(np.uint8).repeat(frames, 0)
    joints = rng.random((frames, len(JOINTS), 3)).astype(np.float32)
    joints[0, 3] = (np.nan, np.nan, 0)
    faces = np.full((frames, 4), np.nan, np.float32)
    faces[1] = (0.2, 0.1, 0.5, 0.4)
    labels = rng.integers(0, 13, (frames, 32, 16)).astype(np.uint8)
    extra = {
        "target": smooth[:, ::-1].copy(),
        "driving_joints": joints * 0.5,
        "identity_joints": joints[1],
        "parts": labels,
    }
    return Sample(key, smooth, 12.0, smooth[0], joints, faces, {"person": "p1"}, **(extra if cross else {}))


def test_a_sample_survives_being_written() -> None:
    sample = make_sample()
    back = decode("a", encode(sample))
    for name in ("joints", "driving_joints", "identity_joints", "faces", "parts", "identity"):
        assert np.array_equal(getattr(back, name), getattr(sample, name), equal_nan=name != "parts"), name
    assert back.fps == 12.0 and back.meta["person"] == "p1" and back.meta["size"] == [32, 16]
    assert np.abs(back.target.astype(int) - sample.target.astype(int)).mean() < 4
    assert encode(sample) == encode(sample)


def test_a_self_pair_takes_the_driver_as_the_truth() -> None:
    back = decode("a", encode(make_sample(cross=False)))
    assert back.target is None and back.truth is back.driving and back.joints_of_driver is back.joints


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda s: setattr(s, "joints", s.joints[:3]), r"joints is float32 \[3, 20, 3\]"),
        (lambda s: setattr(s, "joints", s.joints.astype(np.float64)), "joints is float64"),
        (lambda s: s.joints.__setitem__((0, 0), (np.nan, 0.5, 1.0)), "visibility 0"),
        (lambda s: s.joints.__setitem__((0, 0, 0), np.inf), "infinite"),
        (lambda s: s.faces.__setitem__((1, 0), np.nan), "faces"),
        (lambda s: s.parts.__setitem__((0, 0, 0), 99), "label 99"),
        (lambda s: setattr(s, "fps", 0.0), "fps"),
    ],
)
def test_a_breach_of_the_contract_is_named(spoil, words: str) -> None:
    sample = make_sample()
    spoil(sample)
    with pytest.raises(InputError, match=words):
        encode(sample)


def test_damaged_members_are_refused_by_key_and_name() -> None:
    members = encode(make_sample())
    for name, data in [("joints.npy", b"x"), ("driving.mp4", b"x"), ("meta.json", b"{"), ("parts.png", b"x")]:
        with pytest.raises(InputError, match=f"sample k: {name}"):
            decode("k", {**members, name: data})
    with pytest.raises(InputError, match=r"faces\.npy is missing"):
        decode("k", {n: d for n, d in members.items() if n != "faces.npy"})
    with pytest.raises(InputError, match="schema 99"):
        decode("k", {**members, "meta.json": json.dumps({"schema": 99}).encode()})


def test_pickled_arrays_are_never_loaded() -> None:
    import io
    import pickle

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for evil in (buffer.getvalue(), pickle.dumps({"a": 1})):
        with pytest.raises(InputError, match=r"joints\.npy is damaged"):
            decode("k", {**encode(make_sample()), "joints.npy": evil})


def test_the_skeleton_is_a_tree_rooted_at_the_neck() -> None:
    assert len(JOINTS) == len(JOINT_PARENTS) == 20 and JOINTS[1] == "neck" and JOINT_PARENTS[1] == -1
    for joint in range(20):
        for _ in range(20):
            joint = max(JOINT_PARENTS[joint], 0) if joint != 1 else 1
        assert joint == 1


@pytest.fixture
def folder(tmp_path):
    samples = [(f"s{i:03d}", encode(make_sample(f"s{i:03d}", seed=i))) for i in range(7)]
    shards.write_shard(tmp_path, "train", 0, samples[:4])
    shards.write_shard(tmp_path, "train", 1, samples[4:])
    shards.write_shard(tmp_path, "test", 0, samples[:2])
    shards.write_manifest(tmp_path, {"licence": "x"})
    return tmp_path


def test_shards_are_ordinary_tars_and_the_index_finds_every_member(folder) -> None:
    read = shards.ShardSet(folder, "train")
    assert len(read) == 7 and read.keys[5] == "s005"
    for i in range(7):
        key, members = read.read(i)
        with tarfile.open(folder / shards.shard_name("train", i // 4)) as tar:
            for name, data in members.items():
                assert tar.extractfile(f"{key}.{name}").read() == data
    read.verify()


def test_webdataset_itself_reads_our_shards(folder) -> None:
    import webdataset

    urls = [str(folder / shards.shard_name("train", n)) for n in (0, 1)]
    keys = [s["__key__"] for s in webdataset.WebDataset(urls, shardshuffle=False)]
    assert [k.split("/")[-1] for k in keys] == [f"s{i:03d}" for i in range(7)]


def test_the_manifest_counts_and_says_what_is_missing(folder, tmp_path) -> None:
    manifest = shards.read_manifest(folder)
    assert manifest["samples"] == 9 and manifest["splits"]["test"]["samples"] == 2 and manifest["licence"] == "x"
    with pytest.raises(InputError, match="no samples in split `val`; this folder has: test, train"):
        shards.ShardSet(folder, "val")
    with pytest.raises(InputError, match="no such folder"):
        shards.ShardSet(tmp_path / "absent", "train")
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="finish preprocessing"):
        shards.ShardSet(folder, "train")


def test_a_changed_or_cut_shard_is_refused(folder) -> None:
    tar = folder / shards.shard_name("train", 0)
    data = bytearray(tar.read_bytes())
    data[1000] ^= 255
    tar.write_bytes(bytes(data))
    with pytest.raises(InputError, match="sha256"):
        shards.ShardSet(folder, "train").verify()
    tar.write_bytes(bytes(data[:-512]))
    with pytest.raises(InputError, match="not the shard that the manifest lists"):
        shards.ShardSet(folder, "train")
    assert not shards.is_complete(folder, "train", 0) and shards.is_complete(folder, "train", 1)


@pytest.mark.parametrize("key", ["", "a.b", "a/b"])
def test_keys_that_webdataset_would_split_are_refused(tmp_path, key: str) -> None:
    with pytest.raises(InputError, match="sample key"):
        shards.write_shard(tmp_path, "train", 0, [(key, {"x": b""})])


def test_a_loader_resumes_at_any_step_and_splits_into_micro_batches(folder) -> None:
    data = SampleDataset(shards.ShardSet(folder, "train"), frames=5, height=32, width=16, parts=True)
    whole = iter(Loader(data, global_batch=4, seed=3))
    keys = [next(whole)["keys"] for _ in range(4)]
    later = iter(Loader(data, global_batch=4, seed=3, start_step=2, micro_batches=2))
    assert next(later)["keys"] + next(later)["keys"] == keys[2]
    halves = [next(iter(Loader(data, global_batch=4, seed=3, rank=r, ranks=2, start_step=3)))["keys"] for r in (0, 1)]
    assert halves[0] + halves[1] == keys[3]
    with pytest.raises(InputError, match="multiple of 3 ranks"):
        Loader(data, global_batch=4, seed=3, ranks=3)


def test_a_batch_has_the_contracts_shapes_and_ranges(folder) -> None:
    data = SampleDataset(shards.ShardSet(folder, "train"), frames=5, height=32, width=16, parts=True)
    batch = next(iter(Loader(data, global_batch=2, seed=0)))
    assert batch["driving"].shape == batch["target"].shape == (2, 5, 3, 32, 16)
    assert batch["driving"].min() >= 0 and batch["driving"].max() <= 1
    assert batch["joints"].shape == (2, 5, 20, 3) and batch["faces"].shape == (2, 5, 4)
    assert (batch["joints"][:, 0, 3, :2] == OUTSIDE).all() and batch["joints"].isfinite().all()
    assert batch["parts"].shape == (2, 5, 32, 16)


def test_samples_of_another_size_are_refused(folder) -> None:
    data = SampleDataset(shards.ShardSet(folder, "train"), frames=9, height=32, width=16)
    with pytest.raises(InputError, match="5 frames of 32x16"):
        data[0]


def test_check_passes_a_good_sample() -> None:
    assert check(make_sample()) is None
