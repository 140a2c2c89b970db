"""Joint error, PCK and the joint baselines on constructed people."""

import numpy as np
import pytest

from evaluation import baselines
from evaluation.clip import Clip
from evaluation.metrics.base import Machine, NoSettings
from evaluation.metrics.joints import METRICS, bone_lengths, counted, joint_error, pck, stature
from imanim.data.sample import JOINT_PARENTS, JOINTS
from imanim.errors import InputError

H, W = 128, 80


def person() -> np.ndarray:
    """A standing person in pixels [20,2], nose to ankle 80 pixels high."""
    places = {
        "nose": (40, 20), "neck": (40, 30), "r_eye": (38, 18), "l_eye": (42, 18), "r_ear": (36, 19), "l_ear": (44, 19),
        "r_shoulder": (32, 30), "r_elbow": (28, 42), "r_wrist": (26, 54), "l_shoulder": (48, 30), "l_elbow": (52, 42),
        "l_wrist": (54, 54), "r_hip": (36, 60), "r_knee": (36, 80), "r_ankle": (36, 100), "l_hip": (44, 60),
        "l_knee": (44, 80), "l_ankle": (44, 100), "l_toe": (46, 104), "r_toe": (34, 104),
    }  # fmt: skip
    return np.array([places[name] for name in JOINTS], float)


def joints(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels / (W, H), np.ones((*pixels.shape[:-1], 1))], -1).astype(np.float32)


def moving(pixels: np.ndarray, frames: int = 6, seed: int = 0) -> np.ndarray:
    """Frame 0 is the pose itself; afterwards every bone turns on its own. [T,20,2]"""
    rng = np.random.default_rng(seed)
    out = np.repeat(pixels[None], frames, 0)
    for t in range(1, frames):
        for j in baselines.ORDER:
            angle = rng.normal(0, 0.4)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            out[t, j] = out[t, JOINT_PARENTS[j]] + turn @ (pixels[j] - pixels[JOINT_PARENTS[j]])
    return out


def stretched(pixels: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """The same directions, each bone ``ratios`` times as long, the neck where it was. [...,20,2]"""
    out = pixels.copy()
    for j in baselines.ORDER:
        parent = JOINT_PARENTS[j]
        out[..., j, :] = out[..., parent, :] + (pixels[..., j, :] - pixels[..., parent, :]) * ratios[j]
    return out


def test_stature_is_nose_to_ankle_and_ignores_the_pose():
    one = joints(person())
    assert stature(one, H, W) == pytest.approx(80, abs=0.2)
    clip = moving(person())
    assert stature(joints(clip), H, W) == pytest.approx(stature(one, H, W), rel=0.08)


def test_an_offset_is_measured_in_percent_of_the_persons_height():
    truth = joints(moving(person(), 3))
    off = truth.copy()
    off[..., 0] += 8 / W
    assert joint_error(off, truth, H, W) == pytest.approx(100 * 8 / stature(truth, H, W), rel=1e-4)
    assert pck(off, truth, H, W, threshold=20) == 100 and pck(off, truth, H, W, threshold=5) == 0


def test_joints_outside_the_frame_and_unknown_joints_do_not_count():
    truth = joints(moving(person(), 2))
    truth[0, 4, :2] = (1.2, 0.5)
    truth[1, 7] = (np.nan, np.nan, 0)
    assert counted(truth).sum() == 38
    guess = np.nan_to_num(truth, nan=0.0).copy()
    guess[0, 4, :2] = 0
    assert joint_error(guess, truth, H, W) == pytest.approx(0)


def test_copying_a_driver_of_the_same_body_and_view_is_exact():
    truth = joints(moving(person()))
    assert joint_error(baselines.copy_joints(truth), truth, H, W) == 0
    assert joint_error(baselines.hold_joints(truth[0], len(truth)), truth, H, W) > 1


def test_scale_and_shift_recover_a_person_of_another_size_elsewhere():
    driver = moving(person())
    other = driver * 0.7 + (9, 20)
    found = baselines.scale_shift_joints(joints(driver), joints(other[0]), H, W)
    assert joint_error(found, joints(other), H, W) < 1e-3
    assert joint_error(baselines.copy_joints(joints(driver)), joints(other), H, W) > 5


def test_bone_length_recovers_a_pure_change_of_limb_lengths():
    ratios = np.ones(20)
    for name in ("r_elbow", "r_wrist", "l_elbow", "l_wrist", "r_eye", "l_toe"):
        ratios[JOINTS.index(name)] = 1.4
    driver = moving(person())
    truth, identity = joints(stretched(driver, ratios)), joints(stretched(person(), ratios))
    found = baselines.bone_length_joints(joints(driver), identity, H, W)
    assert joint_error(found, truth, H, W) < 1e-3
    assert joint_error(baselines.scale_shift_joints(joints(driver), identity, H, W), truth, H, W) > 1


def test_a_bone_seen_end_on_does_not_explode():
    driver = moving(person())
    driver[0, JOINTS.index("r_wrist")] = driver[0, JOINTS.index("r_elbow")]
    found = baselines.bone_length_joints(joints(driver), joints(person()), H, W)
    arm = bone_lengths(joints(driver), H, W)[:, JOINTS.index("r_wrist")]
    assert np.isfinite(found).all()
    assert (bone_lengths(found, H, W)[:, JOINTS.index("r_wrist")] <= 3 * arm + 1e-6).all()


def test_every_joint_comes_after_its_parent():
    done = {JOINTS.index("neck")}
    for j in baselines.ORDER:
        assert JOINT_PARENTS[j] in done
        done.add(j)
    assert len(done) == 20


def measure(made: np.ndarray | None, truth: np.ndarray | None) -> dict:
    frames = np.zeros((6, H, W, 3), np.uint8)
    metric = METRICS["joints"].build(NoSettings(), Machine())
    found = metric.measure(Clip("k", frames, frames, frames[0], 12.0, joints=truth, made_joints=made))
    assert set(found) == {value.name for value in metric.values}
    return found


def test_error_and_pck_are_those_of_plain_loops():
    truth = joints(moving(person()))
    truth[2, 4, :2] = (1.3, 0.5)
    truth[3, 5] = (np.nan, np.nan, 0)
    made = np.nan_to_num(truth[..., :2]) + np.random.default_rng(0).normal(0, 0.03, (6, 20, 2))
    off = []
    for t in range(6):
        for j in range(20):
            x, y = truth[t, j, 0] * W, truth[t, j, 1] * H
            if 0 <= x < W and 0 <= y < H:
                off.append(100 * np.hypot(made[t, j, 0] * W - x, made[t, j, 1] * H - y) / stature(truth, H, W))
    found = measure(made, truth)
    assert found["joint_error"] == pytest.approx(np.mean(off))
    assert found["pck"] == pytest.approx(100 * np.mean(np.array(off) <= 5)) and 0 < found["pck"] < 100


def test_an_offset_that_stays_is_not_in_the_error_of_the_motion():
    truth = joints(moving(person()))
    truth[2, 4, :2] = (1.3, 0.5)  # not counted there: its mean offset is that of the other frames
    own = np.random.default_rng(0).normal(0, 0.05, (1, 20, 2)).astype(np.float32)
    found = measure(truth[..., :2] + own, truth)
    assert found["joint_error"] > 3 and found["moving_error"] < 1e-3
    held = measure(np.repeat(truth[:1, :, :2], 6, 0), truth)
    assert 0 < held["moving_error"] < held["joint_error"]


def test_the_error_of_the_motion_is_that_of_plain_loops():
    truth = joints(moving(person()))
    truth[2, 4, :2] = (1.3, 0.5)
    made = truth[..., :2] + np.random.default_rng(0).normal(0, 0.03, (6, 20, 2))
    off = []
    for j in range(20):
        at = [t for t in range(6) if (t, j) != (2, 4)]
        moved = [((made[t, j] - truth[t, j, :2]) * (W, H)) for t in at]
        off += [100 * np.hypot(*(m - np.mean(moved, 0))) / stature(truth, H, W) for m in moved]
    assert measure(made, truth)["moving_error"] == pytest.approx(np.mean(off), rel=1e-5)


def test_a_method_that_does_not_say_where_joints_are_has_no_value():
    truth = joints(moving(person()))
    assert all(np.isnan(v) for found in (measure(None, truth), measure(truth[..., :2], None)) for v in found.values())


def test_joints_known_in_part_or_of_another_shape_are_refused():
    truth = joints(moving(person()))
    made = truth[..., :2].copy()
    made[1, 3] = np.nan
    with pytest.raises(InputError, match=r"clip k: made_joints is NaN at 1 of the 120"):
        measure(made, truth)
    with pytest.raises(InputError, match=r"made_joints is \[5, 20, 2\]; give \[6, 20, 2\]"):
        measure(truth[:5, :, :2], truth)
    with pytest.raises(InputError, match="joints has infinite"):
        measure(truth[..., :2], np.full_like(truth, np.inf))
