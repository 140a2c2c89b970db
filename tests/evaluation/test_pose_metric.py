"""Pose accuracy: against plain loops, with a network that knows what is in the frames, and BlazePose on Doubles."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from weights_here import need

from evaluation.clip import Clip
from evaluation.metrics import pose
from evaluation.metrics.base import Machine
from evaluation.metrics.joints import stature
from evaluation.metrics.pose import PoseMetric, PoseSettings, driver_error, match, read
from imanim import config
from imanim.data.sample import JOINTS
from imanim.errors import ConfigError, InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data_pipeline"))

from moving_disc import OFFSETS, DiscNetwork, disc_centre, disc_frames

H, W = 200, 160


def disc_joints(frames: int) -> np.ndarray:
    """Where :class:`DiscNetwork` sees the joints of the disc: float32 [T,20,3]."""
    xy = np.stack([np.array(disc_centre(t)) + OFFSETS for t in range(frames)]) / (W, H)
    return np.concatenate([xy, np.ones((frames, 20, 1))], -1).astype(np.float32)


class Watched(DiscNetwork):
    """Counts what it is asked, and notes the size of the frames."""

    def __init__(self):
        self.finds, self.poses, self.sizes = 0, 0, set()

    def find(self, frame):
        self.finds += 1
        return super().find(frame)

    def pose(self, frame, region):
        self.poses += 1
        self.sizes.add(frame.shape[:2])
        return super().pose(frame, region)


def measure(made, truth=None, settings=None, **more) -> dict:
    clip = Clip("k", made, more.pop("driving", made), made[0], 12.0, truth=truth, **more)
    return PoseMetric(settings or PoseSettings(enlarge=1), DiscNetwork()).measure(clip)


def random_joints(seed: int, frames: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(-0.1, 1.1, (frames, 20, 2)), rng.uniform(0, 1, (frames, 20, 1))], -1)


def test_a_match_is_what_plain_loops_give():
    reference = random_joints(0)
    reading = reference + np.random.default_rng(1).normal(0, 0.02, reference.shape)
    reading[2, 3:9] = (np.nan, np.nan, 0)
    unit = stature(reference, H, W)
    off, right, lost, total = [], 0, 0, 0
    for t in range(5):
        for j in range(20):
            x, y, sure = reference[t, j]
            if not (0 <= x < 1 and 0 <= y < 1 and sure >= 0.5):
                continue
            total += 1
            px, py, seen = reading[t, j]
            if not seen >= 0.5:
                lost += 1
                continue
            off.append(((px - x) ** 2 * W**2 + (py - y) ** 2 * H**2) ** 0.5)
            right += off[-1] <= 0.01 * unit
    found = match(reading, reference, H, W, pck_percent=1.0)
    assert found.akd_px == pytest.approx(np.mean(off))
    assert found.error == pytest.approx(100 * np.mean(off) / unit)
    assert found.pck == pytest.approx(100 * right / total) and 0 < right < total - lost
    assert found.missing == pytest.approx(100 * lost / total) and lost > 0


def test_nothing_seen_and_nothing_wanted_are_told_apart():
    reference = np.concatenate([random_joints(0)[..., :2], np.ones((5, 20, 1))], -1)
    nobody = np.full((5, 20, 3), np.nan)
    nobody[..., 2] = 0
    found = match(nobody, reference, H, W)
    assert (found.pck, found.missing) == (0, 100) and np.isnan([found.error, found.akd_px]).all()
    found = match(reference, nobody, H, W)
    assert np.isnan([found.pck, found.missing, found.error, found.akd_px]).all()


def test_a_driver_of_another_size_elsewhere_is_laid_on_exactly_and_another_pose_is_not():
    driver = disc_joints(9)
    pixels = driver[..., :2] * (W, H)
    made = np.concatenate([(0.6 * pixels + (50, 30)) / (320, 240), driver[..., 2:]], -1)
    assert driver_error(made, driver, (240, 320), (H, W)) == pytest.approx(0, abs=1e-4)
    bent = made.copy()
    bent[:, 4, 0] += 0.1
    unit = 0.6 * stature(driver, H, W)
    assert 0.7 * 32 / 20 / unit < driver_error(bent, driver, (240, 320), (H, W)) / 100 < 2 * 32 / 20 / unit
    turned = np.concatenate([made[..., 1::-1], made[..., 2:]], -1)
    assert driver_error(turned, driver, (240, 320), (H, W)) > 5
    unseen = made.copy()
    unseen[..., 2] = 0
    assert np.isnan(driver_error(unseen, driver, (240, 320), (H, W)))


def test_the_person_is_followed_and_looked_for_again_when_lost():
    frames = disc_frames(8)
    frames[3] = 90
    network = Watched()
    joints = read(network, frames, enlarge=1)
    assert network.finds == 3  # the first frame, the empty one, the one after it
    assert np.isnan(joints[3, :, :2]).all() and (joints[3, :, 2] == 0).all()
    rest = np.delete(np.arange(8), 3)
    assert np.abs((joints - disc_joints(8))[rest, :, :2] * (W, H)).max() < 0.5


class Tilted(DiscNetwork):
    """Its detector turns everybody upside down, where the landmarks are hardly seen."""

    def find(self, frame):
        return [replace(region, angle_rad=3.0) for region in super().find(frame)]

    def pose(self, frame, region):
        found = super().pose(frame, region)
        if found is not None and region.angle_rad:
            found.joints[:, :2] = found.joints[::-1, :2]
            found.joints[:, 2] = 0.6
            return replace(found, region=replace(found.region, angle_rad=3.0))
        return found


def test_a_person_is_not_read_upside_down_where_upright_is_seen_better():
    joints = read(Tilted(), disc_frames(3), enlarge=1)
    assert np.abs((joints - disc_joints(3))[..., :2] * (W, H)).max() < 0.5


@pytest.mark.parametrize(("enlarge", "factor"), [(1, 1), (2, 2), (None, 2)])
def test_small_frames_are_enlarged_and_joints_stay_where_they_are(enlarge, factor):
    network = Watched()
    joints = read(network, disc_frames(2), enlarge)
    assert network.sizes == {(factor * H, factor * W)}
    nose = joints[:, JOINTS.index("nose"), :2] * (W, H)
    assert np.abs(nose - [disc_centre(0), disc_centre(1)]).max() < 0.75
    assert pose.factor_for(128, 80, None) == 3 and pose.factor_for(480, 832, None) == 1


def test_exact_joints_are_the_reference_and_the_networks_own_error_stands_beside():
    frames = disc_frames(6)
    joints = disc_joints(6)
    joints[..., 0] += 4 / W
    made = np.roll(frames, 7, axis=2)
    found = measure(made, frames, joints=joints)
    unit = stature(joints, H, W)
    assert found["pose_exact"] == 1
    assert found["pose_floor"] == pytest.approx(100 * 4 / unit, rel=0.05)
    assert found["pose_mean_error"] == pytest.approx(100 * 3 / unit, rel=0.1)
    assert found["pose_akd"] == pytest.approx(7, abs=1e-3)  # the same network on both
    assert (found["pose_missing"], found["pose_found"]) == (0, 100) and np.isnan(found["pose_driver_error"])


def test_without_exact_joints_the_true_frames_are_read():
    frames = disc_frames(6)
    joints = disc_joints(6)[:, ::-1]
    for settings, more in (
        (PoseSettings(enlarge=1), {}),
        (PoseSettings(reference="frames", enlarge=1), {"joints": joints}),
    ):
        found = measure(frames, frames, settings, **more)
        assert found["pose_mean_error"] == 0 and found["pose_pck"] == 100 and found["pose_exact"] == 0
        assert np.isnan(found["pose_floor"])


def test_without_a_truth_only_the_distance_from_the_driver_is_given():
    frames = disc_frames(6)
    found = measure(np.roll(frames, 20, axis=2), driving=frames)
    assert found["pose_driver_error"] == pytest.approx(0, abs=0.2) and found["pose_found"] == 100
    others = {name for name, value in found.items() if np.isfinite(value)} - {"pose_driver_error", "pose_found"}
    assert not others
    still = measure(np.repeat(frames[:1], 6, 0), driving=frames, driving_joints=disc_joints(6))
    assert still["pose_driver_error"] > found["pose_driver_error"] + 1


def test_a_picture_without_a_person_is_missing_everything():
    frames = disc_frames(4)
    found = measure(np.full_like(frames, 90), frames)
    assert found["pose_found"] == 0 and found["pose_missing"] == 100 and found["pose_pck"] == 0
    assert np.isnan(found["pose_mean_error"]) and np.isnan(found["pose_akd"])


def test_one_truth_is_read_once_for_several_methods():
    network, frames = Watched(), disc_frames(5)
    metric = PoseMetric(PoseSettings(), network)
    first = metric.measure(Clip("k", frames, frames, frames[0], 12.0, truth=frames))
    assert network.poses == 5
    other = np.roll(frames, 3, axis=1)
    metric.measure(Clip("k", other, frames, frames[0], 12.0, truth=frames))
    assert network.poses == 10
    np.testing.assert_equal(metric.measure(Clip("k", frames, frames, frames[0], 12.0, truth=frames)), first)


def test_what_cannot_be_measured_is_refused_by_name():
    frames = disc_frames(4)
    with pytest.raises(InputError, match=r"clip k: joints is \[3, 20, 3\]"):
        measure(frames, frames, joints=disc_joints(3))
    with pytest.raises(InputError, match="clip k: joints has infinite"):
        measure(frames, frames, joints=np.full((4, 20, 3), np.inf, np.float32))
    with pytest.raises(InputError, match="true joints are not known"):
        measure(frames, frames, PoseSettings(reference="joints"))
    bad = {"pose": {"smoothing": 0.5}, "enlarge": 0, "pck_percent": 0}
    with pytest.raises(ConfigError) as caught:
        config.from_dict(PoseSettings, bad)
    assert len(caught.value.problems) == 3


def test_the_protocol_names_the_networks_by_their_hashes():
    need("blazepose-detector", "blazepose-landmarks-full")
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (extra `data`)")
    spec = pose.METRICS["pose"]
    assert spec.weights(PoseSettings()) == ["blazepose-detector", "blazepose-landmarks-full"]
    protocol = spec.build(PoseSettings(), Machine()).protocol()
    assert protocol["network"] == "blazepose" and all(len(sha) == 64 for sha in protocol["models"].values())


@pytest.fixture(scope="module")
def takes():
    """Two Doubles people who wave in the same way, 80x128, 12 frames: films with everything known."""
    need("blazepose-detector", "blazepose-landmarks-full")
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (extra `data`)")
    pytest.importorskip("warp", reason="warp is not installed (extra `doubles`)")
    from data_pipeline.doubles.camera import plan_cameras
    from data_pipeline.doubles.motions import Motion
    from data_pipeline.doubles.takes import Studio, make_scene, place_camera

    studio = Studio(80, 128)
    films = []
    for number in (3, 8):
        person = studio.person(number)
        performance = person.performer.perform(Motion("wave", 5, 12.0, 12, False))
        view = plan_cameras(np.random.default_rng(0), 0, "full_body").target
        films.append(studio.film(person, performance, make_scene(11), place_camera(view, person, performance)))
    return films


def test_blazepose_reads_small_renders_nearly_as_well_as_they_are_known(takes):
    truth, driver = takes
    metric = pose.build(PoseSettings(), Machine())

    def values(made, **more):
        return metric.measure(Clip("k", made, driver.frames, truth.frames[0], 12.0, **more))

    known = {"truth": truth.frames, "joints": truth.joints}
    exact = values(truth.frames, **known)
    assert exact["pose_found"] == 100 and exact["pose_floor"] < 3 and exact["pose_floor_pck"] > 90
    assert exact["pose_mean_error"] == exact["pose_floor"] and exact["pose_akd"] == exact["pose_missing"] == 0
    still = values(np.repeat(truth.frames[:1], 12, 0), **known)
    late = values(np.roll(truth.frames, 1, axis=0), **known)
    assert exact["pose_mean_error"] < late["pose_mean_error"] < still["pose_mean_error"]
    moved = values(np.roll(truth.frames, 4, axis=1), **known)
    assert moved["pose_akd"] == pytest.approx(4, abs=0.6)
    ruined = values(ndimage.gaussian_filter(truth.frames, (0, 6, 6, 0)), **known)
    assert ruined["pose_pck"] < 50 and ruined["pose_missing"] > 50
    follows = values(truth.frames)["pose_driver_error"]
    assert follows < 8 and follows < values(np.repeat(truth.frames[:1], 12, 0))["pose_driver_error"]
