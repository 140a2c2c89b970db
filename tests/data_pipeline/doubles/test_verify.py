"""The record of the benchmark: identical samples pass, other encodings pass as equal, real differences are caught and named."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.doubles import generate, verify
from data_pipeline.doubles.config import DoublesConfig, SplitConfig
from data_pipeline.doubles.takes import Studio, Take
from imanim.config import load
from imanim.data.files import read_json, write_json
from imanim.data.sample import decode
from imanim.data.shards import ShardSet
from imanim.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("v1")
    split = SplitConfig([0, 6], [0, 2], ["talk", "wave"], level_counts={"L3": 1, "L5": 1}, in_turn=True)
    config = DoublesConfig(
        output=str(out), height=64, width=40, frames=9, bodies_per_motion=2, workers=0, supersample=1,
        splits={"cell": split}, portrait_fraction=0.0, pairs="ring", details=True,
    )  # fmt: skip
    generate.run(config, progress=False)
    return out


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, verify.Fingerprint]:
    return verify.fingerprints(folder)


@pytest.fixture(scope="module")
def record(folder: Path, found: dict[str, verify.Fingerprint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "record.safetensors"
    verify.write_record(path, found, {"note": "a test"})
    return path


def changed(folder: Path, i: int = 0, **changes: object) -> verify.Fingerprint:
    """The fingerprint of a sample after changes (not encoded again, which would alter all pixels)."""
    sample = decode(*ShardSet(folder, "cell").read(i))
    return verify.of_sample(dataclasses.replace(sample, **changes), "other bytes")  # type: ignore[arg-type]


def test_a_set_made_again_is_identical(folder: Path, record: Path) -> None:
    verdict = verify.verify(folder, record)
    assert verdict.good and len(verdict.identical) == verdict.recorded == 4
    assert verdict.lines()[0].startswith("IDENTICAL")


def test_the_record_survives_rounding(found: dict[str, verify.Fingerprint], record: Path) -> None:
    for key, one in verify.read_record(record).items():
        assert (one.bytes, one.plan) == (found[key].bytes, found[key].plan)
        for name, values in one.numbers.items():
            assert np.abs(values - found[key].numbers[name]).max() < verify.TOLERANCES[name]


def test_pixels_and_floats_a_little_off_are_equal_within_tolerance(
    folder: Path, record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film, rng = Studio.film, np.random.default_rng(0)

    def elsewhere(self: Studio, *arguments: object) -> Take:
        """Another processor: one pixel value in a hundred is one level off, joints differ in the fifth digit."""
        take = film(self, *arguments)  # type: ignore[arg-type]
        off = (rng.random(take.frames.shape) < 0.01) * rng.choice([-1, 1], take.frames.shape)
        frames = np.clip(take.frames + off, 0, 255).astype(np.uint8)
        return dataclasses.replace(take, frames=frames, joints=take.joints + np.float32([2e-5, -2e-5, 0]))

    monkeypatch.setattr(Studio, "film", elsewhere)
    settings = read_json(folder / "config.json") | {"output": str(tmp_path), "workers": 0}
    del settings["generator"]
    config = load(DoublesConfig, None, settings=settings)
    generate.run(config, progress=False)
    verdict = verify.verify(tmp_path, record)
    assert verdict.good and not verdict.identical, verdict.lines()
    assert verdict.lines()[0].startswith("EQUAL")


@pytest.mark.parametrize("i", range(4))
def test_a_shift_by_one_frame_is_caught(folder: Path, record: Path, i: int) -> None:
    sample, recorded = decode(*ShardSet(folder, "cell").read(i)), verify.read_record(record)
    found = {
        name: verify.compare(
            changed(folder, i, **{name: np.concatenate([value[:1], value[:-1]])}), recorded[sample.key]
        )
        for name, value in (("target", sample.truth), ("driving", sample.driving), ("joints", sample.joints))
    }
    assert verify.compare(changed(folder, i), recorded[sample.key]) == ""  # nothing else is noticed
    for name, reason in found.items():
        assert reason and reason.startswith(("joints",) if name == "joints" else ("colours", "thumbnails")), found


def test_another_body_motion_or_camera_is_caught(folder: Path, record: Path) -> None:
    sample = decode(*ShardSet(folder, "cell").read(0))
    recorded = verify.read_record(record)[sample.key]
    for path, value in (
        (("target", "body"), 5), (("motion", "seed"), 7), (("target", "identity", "sleeve"), 0.5),
        (("driver", "scene", "seed"), 1), (("driver", "camera", "focal"), 1.234),
    ):  # fmt: skip
        meta = json.loads(json.dumps(sample.meta))
        at = meta
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value
        reason = verify.compare(changed(folder, meta=meta), recorded)
        assert reason and reason.startswith("cameras" if "camera" in path else "plan"), path
    other = decode(*ShardSet(folder, "cell").read(1))
    reason = verify.compare(changed(folder, identity=other.identity), recorded)
    assert reason and reason.startswith("thumbnails")
    assert sample.expression is not None
    reason = verify.compare(changed(folder, expression=np.roll(sample.expression, 1, 0)), recorded)
    assert reason and reason.startswith("expression")


def test_missing_and_unknown_samples_are_named(folder: Path, record: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer.safetensors"
    every = verify.read_record(record)
    first = min(every)
    verify.write_record(fewer, {k: v for k, v in every.items() if k != first}, {})
    assert verify.verify(folder, fewer).different == {first: "unknown: not in the record"}
    more = tmp_path / "more.safetensors"
    extra = dataclasses.replace(every[first], key="cell-m000001-wave-d00098-t00099")
    verify.write_record(more, {**every, extra.key: extra}, {})
    verdict = verify.verify(folder, more)
    assert verdict.different == {extra.key: "missing: not in the folder"} and verdict.lines()[0].startswith("DIFFERENT")
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    settings = json.loads((part / "config.json").read_text())
    settings["splits"]["cell"]["only"] = [0]
    write_json(part / "config.json", settings)
    assert verify.verify(part, more).good  # the other motion was not asked for


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no record"):
        verify.read_record(tmp_path / "r")
