"""Videos made worse in known ways: the ways grow with their strength, and metrics that cannot order them are told apart."""

import numpy as np
import pytest
from protocol_samples import config_for, protocol_for, write_data

from evaluation import sanity
from evaluation.sanity import WAYS, outcome
from imanim.errors import InputError


def clip(frames: int = 12) -> np.ndarray:
    """Frame t is grey level 20 t with a texture."""
    texture = np.random.default_rng(0).integers(0, 30, (32, 24, 3))
    return (20 * np.arange(frames)[:, None, None, None] + texture).astype(np.uint8)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_moves_further_from_the_truth_with_its_strength(way):
    truth = clip()
    made = [WAYS[way](truth, step, np.random.default_rng(1)) for step in (1, 2, 3)]
    off = [np.abs(m.astype(float) - truth).mean() for m in made]
    assert all(m.shape == truth.shape and m.dtype == np.uint8 for m in made)
    assert 0 < off[0] < off[1] < off[2]


def test_shuffled_frames_are_the_same_frames_and_late_ones_start_with_the_first():
    truth = clip()
    shuffled = WAYS["shuffle"](truth, 3, np.random.default_rng(1))
    assert sorted(f.tobytes() for f in shuffled) == sorted(f.tobytes() for f in truth)
    late = WAYS["late"](truth, 3, np.random.default_rng(1))
    np.testing.assert_array_equal(late[4:], truth[:-4])
    assert (late[:4] == truth[0]).all() and (WAYS["freeze"](truth, 3, np.random.default_rng(1)) == truth[0]).all()


@pytest.mark.parametrize(
    "series, better, wanted",
    [
        ([0, 1, 2, 3], "lower", "orders"),
        ([3, 2, 1, 0], "higher", "orders"),
        ([0, 1, 1, 3], "lower", "mixed"),
        ([3, 2, 1, 0], "lower", "mixed"),
        ([5, 5, 5, 5], "lower", "blind"),
        ([0, 1, None, 2], "lower", "unmeasured"),
        ([0, 2, 1, 3], "none", "moves"),
    ],
)
def test_outcomes(series, better, wanted):
    assert outcome(series, better) == wanted


def test_pixel_metrics_order_every_way_on_samples(tmp_path):
    data = write_data(tmp_path / "data")
    cfg = config_for(data, None, tmp_path / "out", protocol=protocol_for())
    report = sanity.check(cfg, str(data), ways=["noise", "shuffle"], progress=False)
    assert report["orders"]["psnr"] == {"noise": "orders", "shuffle": "orders"} and report["failed"] == []
    assert report["values"]["ssim"]["noise"][0] == pytest.approx(1)
    table = sanity.markdown(report)
    assert table.startswith("| value | noise | shuffle |") and "orders: " in table
    with pytest.raises(InputError, match="`rain` is no way"):
        sanity.check(cfg, str(data), ways=["rain"], progress=False)
