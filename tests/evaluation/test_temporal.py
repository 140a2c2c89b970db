"""Temporal consistency on moving textures whose flow is known, and what spoiling a video does to each value."""

import sys

import numpy as np
import pytest
from scipy import ndimage
from weights_here import need

from evaluation.clip import Clip
from evaluation.metrics import temporal
from evaluation.metrics.base import Machine
from evaluation.metrics.temporal import (
    Flow,
    TemporalMetric,
    TemporalSettings,
    brightness,
    consistency,
    flicker,
    lag,
    log_gap,
    motion_energy,
    optical_flow,
    thumbnails,
    warping_error,
)
from imanim import config
from imanim.errors import ConfigError, InputError

pytest.importorskip("cv2", reason="opencv-python-headless is not installed (extra `data`)")

H, W, T = 96, 64, 13


def texture(seed: int, side: int = 260) -> np.ndarray:
    """Smooth colour noise, float64 [side,side,3] in 20..230."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side, 3)), (2, 2, 0))
    return 125 + 105 * noise / np.abs(noise).max()


def panned(x_px: float, y_px: float, frames: int = T, seed: int = 0) -> np.ndarray:
    """A texture that moves by whole pixels a frame: uint8 [T,H,W,3]."""
    ground = texture(seed).round().astype(np.uint8)
    starts = [(60 - round(t * y_px), 100 - round(t * x_px)) for t in range(frames)]
    return np.stack([ground[y : y + H, x : x + W] for y, x in starts])


def scene(frames: int = T, start: int = 0) -> np.ndarray:
    """A textured disc on its way over a still texture, faster and slower: uint8 [T,H,W,3]."""
    ground, skin = texture(1)[:H, :W], texture(2)
    y, x = np.mgrid[:H, :W]
    out = []
    for t in range(start, start + frames):
        cx, cy = 32 + 16 * np.sin(0.35 * t), 48 + 20 * np.sin(0.23 * t + 1)
        moved = ndimage.shift(skin, (cy - 48, cx - 32, 0), order=1, mode="wrap")[:H, :W]
        out.append(np.where(((x - cx) ** 2 + (y - cy) ** 2 < 18**2)[..., None], moved, ground))
    return np.stack(out).round().astype(np.uint8)


def shuffled(frames: np.ndarray) -> np.ndarray:
    return frames[np.random.default_rng(3).permutation(len(frames))]


def noisy(frames: np.ndarray, levels: float) -> np.ndarray:
    noise = np.random.default_rng(4).normal(0, levels, frames.shape)
    return np.clip(frames + noise, 0, 255).round().astype(np.uint8)


def measure(made: np.ndarray, truth: np.ndarray | None, features=None, driving: np.ndarray | None = None) -> dict:
    clip = Clip("k", made, made if driving is None else driving, made[0], 12.0, truth=truth)
    return TemporalMetric(TemporalSettings(features=features is not None), features).measure(clip)


@pytest.mark.parametrize("step", [(1, 0), (3, -2), (-5, 4)])
def test_the_flow_of_a_known_translation_is_found_and_warping_it_costs_nothing(step):
    clip = panned(*step, frames=4)
    flow = optical_flow(clip)
    inner = flow.forward[:, 12:-12, 12:-12]
    assert np.median(np.linalg.norm(inner - step, axis=-1)) < 0.01
    assert flow.counted[:, 12:-12, 12:-12].mean() > 0.99
    assert warping_error(clip, flow) < 0.02
    assert warping_error(shuffled(panned(*step)), optical_flow(panned(*step))) > 5


def test_the_warping_error_is_the_mean_square_of_shifted_frames():
    clip = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3)).astype(np.uint8)
    counted = np.zeros((2, 20, 24), bool)
    counted[:, :18, :23] = True
    flow = Flow(np.broadcast_to(np.array([1, 2], np.float32), (2, 20, 24, 2)), counted)
    values = clip / 255
    expected = 1e3 * np.mean((values[1:, 2:, 1:] - values[:-1, :18, :23]) ** 2)
    assert warping_error(clip, flow) == pytest.approx(expected, rel=1e-5)
    assert np.isnan(warping_error(clip, Flow(flow.forward, np.zeros_like(counted))))


def test_what_a_moving_thing_uncovers_or_leaves_the_frame_does_not_count():
    clip = scene()
    flow = optical_flow(clip)
    everything = Flow(flow.forward, np.ones_like(flow.counted))
    assert 0.6 < flow.counted.mean() < 0.99
    assert warping_error(clip, flow) < 0.5 * warping_error(clip, everything)
    pan = optical_flow(panned(6, 0, frames=3))
    assert not pan.counted[:, :, -5:].any()  # these leave to the right


def test_the_flow_does_not_depend_on_threads_and_leaves_their_number_alone():
    import cv2

    clip, before = scene(4), cv2.getNumThreads()
    flows = []
    try:
        for threads in (1, 3):
            cv2.setNumThreads(threads)
            flows.append(optical_flow(clip).forward)
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(*flows)


def test_flicker_is_nothing_for_steady_change_and_motion_energy_is_its_step():
    ramp = np.broadcast_to((10 * np.arange(6, dtype=np.uint8))[:, None, None, None], (6, 20, 20, 3)).copy()
    assert flicker(ramp) == pytest.approx(0, abs=1e-9) and motion_energy(ramp) == pytest.approx(np.full(5, 10))
    ramp[1::2] += 4
    assert flicker(ramp) == pytest.approx(8)  # 4 up and 4 down


def test_ratios_are_symmetric_and_finite_for_a_frozen_video():
    assert log_gap(8.0, 4.0) == pytest.approx(log_gap(4.0, 8.0)) == pytest.approx(np.log(8.1 / 4.1))
    assert np.isfinite(log_gap(0.0, 4.0)) and log_gap(3.0, 3.0) == 0


def test_consistency_is_the_mean_cosine_of_neighbours():
    rows = np.array([[1, 0], [2, 0], [0, 3]], np.float32)
    assert consistency(rows) == pytest.approx(0.5)


def small_pictures(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), H // 16, 16, W // 16, 16, 3).mean((2, 4)).reshape(len(frames), -1) - 125


GAPS = ("warping_gap", "flicker_gap", "feature_consistency_gap", "motion_energy_gap")


def test_the_truth_has_no_gap_and_what_spoils_it_has():
    truth = scene()
    exact = measure(truth, truth, small_pictures)
    assert [exact[name] for name in GAPS] == [0, 0, 0, 0] and exact["motion_energy_ratio"] == 1
    assert exact["warping_error"] == exact["warping_error_self"]
    blurred = measure(ndimage.gaussian_filter(truth, (0, 1.5, 1.5, 0)), truth, small_pictures)
    noise = [measure(noisy(truth, levels), truth, small_pictures) for levels in (4, 12)]
    assert blurred["motion_energy_ratio"] < 0.95 and blurred["flicker_gap"] > 0.05
    for name in ("warping_error", "warping_gap", "flicker_gap", "motion_energy_gap"):
        assert 0 < noise[0][name] < noise[1][name]


def test_shuffled_frames_are_far_worse_than_late_ones_in_everything():
    truth = scene()
    late = measure(scene(start=-1), truth, small_pictures)
    mixed = measure(shuffled(truth), truth, small_pictures)
    for name in ("warping_error", *GAPS):
        assert mixed[name] > 2 * late[name], name


def test_a_frozen_video_does_not_win():
    truth = scene()
    frozen, noise = (measure(made, truth, small_pictures) for made in (np.repeat(truth[:1], T, 0), noisy(truth, 3)))
    # By itself it is as consistent as can be: that is why the truth stands beside.
    assert frozen["warping_error_self"] == pytest.approx(0, abs=1e-9) and frozen["flicker"] == 0
    assert frozen["feature_consistency"] == pytest.approx(1)
    assert frozen["motion_energy_ratio"] == 0
    for name in GAPS:
        assert frozen[name] > noise[name], name
    assert np.isnan(frozen["lag_frames"]) and np.isnan(frozen["lag_driver_frames"])


@pytest.mark.parametrize("shift", [-4, -1, 0, 1, 4, 6])
def test_an_exact_shift_is_found_with_its_sign(shift):
    truth, made = scene(), scene(start=-shift)
    spoiled = noisy(ndimage.gaussian_filter(made, (0, 1, 1, 0)) // 2 + 60, 5)
    found = measure(made, truth)
    assert (found["lag_frames"], found["lag_abs_frames"]) == (shift, abs(shift))
    assert found["lag_correlation"] == pytest.approx(1, abs=1e-6)
    assert lag(brightness(spoiled), brightness(truth))[0] == shift


def test_frames_held_back_at_the_start_are_a_lag_too():
    truth = scene()
    assert measure(truth[np.maximum(np.arange(T) - 4, 0)], truth)["lag_frames"] == 4


def test_lags_are_found_in_small_pictures_of_large_frames():
    frames = np.random.default_rng(0).integers(0, 256, (2, 301, 258, 3)).astype(np.uint8)
    small = thumbnails(frames)
    assert small.shape == (2, 150, 129) and thumbnails(frames[:, :200]).shape == (2, 100, 129)
    assert small[1, 3, 5] == pytest.approx(brightness(frames)[1, 6:8, 10:12].mean())
    assert np.array_equal(thumbnails(scene(2)), brightness(scene(2)))


def test_what_follows_nothing_has_no_lag():
    value, correlation = lag(brightness(noisy(np.full_like(scene(), 120), 20)), brightness(scene()))
    assert np.isnan(value) and correlation < 0.3
    assert all(np.isnan(lag(np.full((9, 4), 3.3), np.random.default_rng(0).normal(size=(9, 4)))))


def test_without_a_truth_the_amount_of_motion_tells_the_lag_behind_the_driver():
    driving = scene(29)[:, ::-1]
    found = measure(255 - scene(29, start=-3), None, driving=driving)
    assert found["lag_driver_frames"] == 3
    assert np.isnan(found["lag_frames"]) and np.isnan(found["warping_error"]) and found["warping_error_self"] > 0


def test_the_same_clip_gives_the_same_numbers_whatever_came_before():
    truth = scene()
    metric = TemporalMetric(TemporalSettings(features=False))
    clips = [Clip(k, made, truth, truth[0], 12.0, truth=truth) for k, made in (("a", noisy(truth, 3)), ("b", truth))]
    first = [metric.measure(clip) for clip in clips]
    again = [TemporalMetric(TemporalSettings(features=False)).measure(clip) for clip in reversed(clips)]
    for one, other in zip(first, reversed(again)):
        np.testing.assert_equal(one, other)


def test_videos_too_short_or_too_small_are_refused_by_name():
    with pytest.raises(InputError, match=r"clip k: 2x96x64.*3 frames"):
        measure(scene(2), scene(2))
    with pytest.raises(InputError, match=r"13x12x64.*16 pixels"):
        measure(scene()[:, :12], None)
    with pytest.raises(ConfigError, match="max_lag_frames"):
        config.from_dict(TemporalSettings, {"max_lag_frames": 0})


def test_a_missing_opencv_is_said_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"pip install imanim\[data\]"):
        temporal.build(TemporalSettings(features=False), Machine())


def test_values_and_protocol_name_what_is_measured():
    metric = temporal.build(TemporalSettings(features=False), Machine())
    assert set(measure(scene(4), scene(4))) == {v.name for v in metric.values}
    assert not any("feature" in v.name for v in metric.values) and metric.protocol()["features"] is None
    spec = temporal.METRICS["temporal"]
    assert (
        spec.weights(TemporalSettings()) == ["inception-2015"] and spec.weights(TemporalSettings(features=False)) == []
    )


def test_inceptions_features_know_a_shuffled_and_a_frozen_video():
    need("inception-2015")
    truth = scene(6)
    metric = temporal.build(TemporalSettings(), Machine(batch_size=4))
    gaps = [
        metric.measure(Clip("k", made, truth, truth[0], 12.0, truth=truth))["feature_consistency_gap"]
        for made in (truth, np.repeat(truth[:1], 6, 0), shuffled(truth))
    ]
    assert gaps[0] == 0 and gaps[1] > 0.005 and gaps[2] > 0.005
    assert "inception-2015" in metric.protocol()["features"]
