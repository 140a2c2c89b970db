"""What a Doubles sample says of itself in results, and the training-free baselines over a set."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from data_pipeline.doubles import generate
from data_pipeline.doubles.config import DoublesConfig, SplitConfig
from evaluation import joint_baselines, unknown_view
from evaluation.protocols.config import ProtocolConfig, SourceConfig
from evaluation.protocols.shards import items
from imanim.data.sample import decode
from imanim.data.shards import ShardSet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels")
    split = SplitConfig([0, 6], [0, 2], ["talk", "wave"], level_counts={"L4": 1, "L5": 1}, in_turn=True)
    config = DoublesConfig(
        output=str(out), height=64, width=40, frames=5, bodies_per_motion=2, workers=0, supersample=1,
        splits={"cell": split}, portrait_fraction=0.0, pairs="ring", details=True,
    )  # fmt: skip
    generate.run(config, progress=False)
    return out


def of_cell(pairing: Literal["cross", "self"]) -> ProtocolConfig:
    return ProtocolConfig("test", 1, SourceConfig("shards", splits=["cell"], pairing=pairing), ["psnr"])


def test_items_tell_how_driver_and_target_differ(folder: Path) -> None:
    protocol = of_cell("cross")
    shards = ShardSet(folder, "cell")
    for i, item in enumerate(items(protocol, str(folder))):
        meta, labels = decode(*shards.read(i)).meta, item.labels
        assert labels["cell"] == "cell"
        assert labels["exaggerated"] == (labels["level"] == "L5")
        low, high = (36, 70) if labels["level"] == "L4" else (10, 35)
        assert low - 0.1 <= labels["view_gap_deg"] <= high + 0.1
        ratio = meta["target"]["height_m"] / meta["driver"]["height_m"]
        assert labels["scale_gap"] == pytest.approx(math.log(ratio), abs=1e-4)
        assert labels["proportion_gap"] > (0.08 if labels["exaggerated"] else 0.0)


def test_a_self_pair_has_no_gap(folder: Path) -> None:
    protocol = of_cell("self")
    for item in items(protocol, str(folder)):
        assert item.labels["scale_gap"] == item.labels["view_gap_deg"] == item.labels["proportion_gap"] == 0


def test_baselines_are_measured_by_level(folder: Path, capsys: pytest.CaptureFixture) -> None:
    found = joint_baselines.measure(folder, "level")
    assert {level: len(rows) for level, rows in found.items()} == {"L4": 2, "L5": 2}
    assert all(0 < error < 100 for rows in found.values() for row in rows for error in row)
    assert joint_baselines.main([str(folder), "--by", "split"]) == 0
    assert "| cell | 4 |" in capsys.readouterr().out


def test_what_the_view_hides(folder: Path, capsys: pytest.CaptureFixture) -> None:
    found = unknown_view.measure(folder)
    assert {level: len(rows) for level, rows in found.items()} == {"L4": 2, "L5": 2}
    mean = {level: np.mean(rows, 0) for level, rows in found.items()}
    assert mean["L4"][0] > mean["L5"][0] > 0.5  # the view differs by more at L4
    for error, moving, informed, _ in (row for rows in found.values() for row in rows):
        assert moving < error and informed < error
    assert unknown_view.main([str(folder)]) == 0 and "| L4 | 2 |" in capsys.readouterr().out


def test_where_the_view_is_known_nothing_is_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies, motions and cameras come from the metadata as the generator put them: with the true gap, nothing is off."""
    for name in ("MIN_VIEW_GAP_RAD", "MAX_VIEW_GAP_RAD"):
        monkeypatch.setattr(unknown_view, name, (0.0,) * 6)
    shards = ShardSet(folder, "cell")
    sample = decode(*shards.read(0))
    assert sample.joints is not None
    meta = {**sample.meta, "driver": {"camera": sample.meta["target"]["camera"]}}
    points = unknown_view.People().points(meta, sample.fps, len(sample.joints))
    np.testing.assert_allclose(unknown_view.mean_over_views(points, meta, True), sample.joints[..., :2], atol=5e-4)


def test_copying_the_truth_has_no_error() -> None:
    joints = np.random.default_rng(0).random((3, 20, 3)).astype(np.float32)
    copied = dict(
        zip(joint_baselines.BASELINES, joint_baselines.errors(joints, joints, joints[0], 128, 80), strict=True)
    )
    assert copied["copy"] == 0 and copied["hold"] > 1
