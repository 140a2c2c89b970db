"""Generation: the contract, disjoint splits, bytes that depend on the settings alone, resuming, failing, refusing."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.doubles import generate
from data_pipeline.doubles.config import DoublesConfig, SplitConfig
from data_pipeline.doubles.splits import leaks, plan_group
from imanim.config import load
from imanim.data.files import read_json
from imanim.data.sample import decode
from imanim.data.shards import ShardSet, read_manifest
from imanim.errors import ConfigError, InputError

CONFIGS = Path(__file__).parents[3] / "configs" / "data"


def settings(folder: Path, **changes: object) -> DoublesConfig:
    splits = {
        "train": SplitConfig([0, 8], [0, 3], ["wave", "walk", "talk"], {"L0": 1.0, "L3": 2.0}),
        "test": SplitConfig([50, 54], [900, 901], ["circles", "turn", "conduct"], {"L3": 1.0}),
        "test_seen_kinds": SplitConfig([60, 64], [950, 951], ["wave", "walk"], {"L4": 1.0}, True),
    }
    base = DoublesConfig(
        output=str(folder), height=64, width=40, frames=5, bodies_per_motion=2, workers=0, samples_per_shard=2,
        supersample=1, splits=splits, portrait_fraction=0.5, self_pairs=False,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def digest(folder: Path) -> dict[str, str]:
    files = [p for p in folder.iterdir() if p.suffix in (".tar", ".json", ".png")]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doubles")
    report = generate.run(settings(folder), progress=False)
    assert report.samples == {"train": 6, "test": 2, "test_seen_kinds": 2}
    assert not report.failures
    return folder


def metas(folder: Path) -> dict[str, list[dict]]:
    out = {}
    for split in read_manifest(folder)["splits"]:
        shards = ShardSet(folder, split)
        out[split] = [json.loads(shards.read(i)[1]["meta.json"]) for i in range(len(shards))]
    return out


def test_samples_keep_the_contract_and_show_what_they_say(made: Path) -> None:
    shards = ShardSet(made, "train")
    for i in range(len(shards)):
        sample = decode(*shards.read(i))
        assert sample.target is not None and sample.driving_joints is not None and sample.identity_joints is not None
        assert sample.parts is not None and sample.driving_parts is not None
        assert sample.driving.shape == (5, 64, 40, 3) and sample.joints.shape == (5, 20, 3)
        assert (sample.parts > 0).any((1, 2)).all()  # somebody is in every frame
        nose = sample.joints[:, 0, :2]
        assert ((nose > 0) & (nose < 1)).all()
        seen = sample.joints[..., 2] == 1
        rows, columns = (np.clip(sample.joints[..., 1] * 64, 0, 63), np.clip(sample.joints[..., 0] * 40, 0, 39))
        labels = sample.parts[np.arange(5)[:, None], rows.astype(int), columns.astype(int)]
        assert (labels[seen] > 0).mean() > 0.85  # seen joints lie on the person


def test_metadata_names_everything_that_made_a_sample(made: Path) -> None:
    for samples in metas(made).values():
        for meta in samples:
            assert meta["source"] == "doubles" and "Apache-2.0" in meta["licence"] and "CC0" in meta["licence"]
            assert meta["person"] == f"doubles-{meta['target']['body']}" != meta["driver_person"]
            for role in ("driver", "target"):
                assert {"body", "identity", "scene", "camera", "height_m"} <= set(meta[role])
            assert (meta["identity"]["motion"]["kind"] is None) == (meta["level"] == "L0")
            assert meta["identity"]["motion"]["kind"] != meta["motion"]["kind"]


def test_views_differ_as_the_level_says(made: Path) -> None:
    def azimuth(camera: dict) -> float:
        x, y = (camera["eye"][i] - camera["target"][i] for i in (0, 1))
        return float(np.degrees(np.arctan2(x, -y)))

    for samples in metas(made).values():
        for meta in samples:
            gap = abs(azimuth(meta["driver"]["camera"]) - azimuth(meta["target"]["camera"]))
            low, high = {"L0": (0, 0.1), "L3": (9.9, 35.1), "L4": (35.9, 70.1)}[meta["level"]]
            assert low <= gap <= high


def test_splits_share_no_body_no_motion_and_no_kind(made: Path) -> None:
    written = metas(made)
    assert leaks(written, seen_kinds=["test_seen_kinds"]) == []
    assert any("kinds" in line for line in leaks(written))  # seen kinds are shared, and it would be noticed
    written["test"].append(written["train"][0])
    found = "\n".join(leaks(written, seen_kinds=["test_seen_kinds"]))
    assert "bodies" in found and "motion seeds" in found and "kinds" in found


def test_the_number_of_processes_does_not_change_a_byte(made: Path, tmp_path: Path) -> None:
    generate.run(settings(tmp_path / "again", workers=2), progress=False)
    assert digest(tmp_path / "again") == digest(made)


def test_an_interrupted_run_continues_to_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = tmp_path / "cut", generate.write_shard

    def cut(place: Path, split: str, number: int, samples: list) -> Path:
        if (split, number) == ("train", 1):
            raise KeyboardInterrupt
        return write(place, split, number, samples)

    monkeypatch.setattr(generate, "write_shard", cut)
    with pytest.raises(KeyboardInterrupt):
        generate.run(settings(folder), progress=False)
    monkeypatch.undo()
    assert not (folder / "manifest.json").exists()
    first = (folder / "train-00000.tar").stat().st_mtime_ns
    report = generate.run(settings(folder), progress=False)
    assert report.reused_shards == 1
    assert (folder / "train-00000.tar").stat().st_mtime_ns == first
    assert digest(folder) == digest(made)


def test_a_failing_sample_is_reported_and_the_rest_is_made(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ShardSet(made, "train").keys[1]
    make = generate.GroupMaker._sample

    def fail(self: generate.GroupMaker, group: object, driver: int, target: int, cache: dict) -> object:
        sample = make(self, group, driver, target, cache)  # type: ignore[arg-type]
        if sample.key == bad:
            raise ValueError("no such luck")
        return sample

    monkeypatch.setattr(generate.GroupMaker, "_sample", fail)
    report = generate.run(settings(tmp_path / "f"), progress=False)
    assert report.samples["train"] == 5 and [f["key"] for f in report.failures] == [bad]
    assert "no such luck" in json.dumps(read_json(tmp_path / "f" / "report.json"))
    assert bad not in ShardSet(tmp_path / "f", "train").keys
    again = generate.run(settings(tmp_path / "f"), progress=False)
    assert [f["key"] for f in again.failures] == [bad]  # still known when nothing was left to make


def test_other_settings_are_refused_in_the_same_folder(made: Path) -> None:
    with pytest.raises(InputError, match="seed"):
        generate.run(settings(made, seed=1), progress=False)
    generate.run(settings(made, workers=1), progress=False)  # not a setting that changes samples


def test_a_dry_run_plans_and_writes_nothing(tmp_path: Path) -> None:
    report = generate.run(settings(tmp_path / "dry"), progress=False, dry_run=True)
    assert report.dry_run and sum(report.samples.values()) == 10 and report.plan["frames"] == 5 * 2 * 11
    assert not (tmp_path / "dry").exists()
    assert all("\n" not in line for line in report.lines())


def test_self_pairs_have_no_target_clip(tmp_path: Path) -> None:
    one = {"train": SplitConfig([0, 4], [0, 1], ["wave", "walk"], {"L1": 1.0})}
    generate.run(settings(tmp_path, splits=one, bodies_per_motion=1, self_pairs=True), progress=False)
    sample = decode(*ShardSet(tmp_path, "train").read(0))
    assert sample.target is None and sample.driving_joints is None and sample.meta["pair"] == "self"


def test_shipped_settings_are_sound_and_of_the_promised_size() -> None:
    full, demo = (load(DoublesConfig, CONFIGS / name) for name in ("doubles.yaml", "doubles_demo.yaml"))
    size = {n: (s.motions[1] - s.motions[0]) * full.samples_per_motion for n, s in full.splits.items()}
    assert size["train"] == 3000 and size["test"] >= 200
    small = {n: (s.motions[1] - s.motions[0]) * demo.samples_per_motion for n, s in demo.splits.items()}
    assert (small["train"], small["val"], small["test"]) == (60, 12, 24)
    assert {plan_group(demo, "test", i).level for i in range(4)} == {3}
    kinds = [plan_group(full, "train", i).kind for i in range(500)]
    assert min(kinds.count(k) for k in set(kinds)) > 15  # every kind is trained on
    portraits = np.mean([plan_group(full, "train", i).portrait for i in range(500)])
    assert abs(portraits - full.portrait_fraction) < 0.07


def test_overlapping_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="overlap"):
        load(DoublesConfig, CONFIGS / "doubles.yaml", ["splits.test.bodies=[590,650]"])
    with pytest.raises(ConfigError, match="share kinds"):
        load(DoublesConfig, CONFIGS / "doubles.yaml", ["splits.test.kinds=[walk,turn]"])
    with pytest.raises(ConfigError, match="4n"):
        load(DoublesConfig, CONFIGS / "doubles.yaml", ["frames=16"])
