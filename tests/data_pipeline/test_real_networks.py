"""BlazePose and BlazeFace themselves, on people whose joints are known (Doubles) and on a real clip where one is at hand."""

import numpy as np
import pytest
from real_footage import have_weights, shared_clip

from data_pipeline.config import FaceConfig, PoseConfig, VideosConfig
from data_pipeline.faces import backends as face_backends
from data_pipeline.faces.base import head_region
from data_pipeline.jobs import job
from data_pipeline.pose import backends
from imanim.data.sample import JOINTS, decode
from imanim.data.shards import ShardSet
from imanim.data.video import read_video, write_video

BODY = [JOINTS.index(n) for n in JOINTS if not n.endswith(("_ear", "_eye", "_toe"))]


@pytest.fixture(scope="module")
def networks():
    have_weights()
    return backends.build(PoseConfig()), face_backends.build(FaceConfig())


SIZE = (240, 384)  # width, height
PRECISION = 0.03  # of the person's height; 0.011 was measured, on four bodies and motions


@pytest.fixture(scope="module")
def take():
    """A Doubles person who waves, facing the camera: 30 frames, everything about them known."""
    pytest.importorskip("warp", reason="warp is not installed (extra `doubles`)")
    from data_pipeline.doubles.camera import plan_cameras
    from data_pipeline.doubles.motions import Motion
    from data_pipeline.doubles.takes import Studio, make_scene, place_camera

    studio = Studio(*SIZE)
    person = studio.person(3)
    performance = person.performer.perform(Motion("wave", 5, 12.0, 30, False))
    view = plan_cameras(np.random.default_rng(0), 0, "full_body").target
    return studio.film(person, performance, make_scene(11), place_camera(view, person, performance))


def test_nobody_is_found_where_nobody_is(networks):
    pose, _ = networks
    y, x = np.mgrid[0:240, 0:320]
    picture = np.stack([x % 256, y, (x + y) % 256], axis=-1).astype(np.uint8)
    assert pose.find(picture) == []


def test_a_rendered_person_is_found_where_they_are_with_left_and_right_in_place(networks, take):
    pose, faces = networks
    for image, truth, face in list(zip(take.frames, take.joints, take.faces))[::10]:
        people = pose.find(image)
        assert len(people) == 1
        found = pose.pose(image, people[0])
        assert found is not None
        size = np.ptp(truth[:, 1]) * SIZE[1]
        error = np.linalg.norm(found.joints[:, :2] - truth[:, :2] * SIZE, axis=1) / size
        assert error[BODY].mean() < PRECISION
        left, right = JOINTS.index("l_shoulder"), JOINTS.index("r_shoulder")
        assert found.joints[left, 0] > found.joints[right, 0]  # they face us
        box = faces.find(image, head_region(found.head)).box
        assert np.abs((box[:2] + box[2:]) / 2 - (face[:2] + face[2:]) / 2 * SIZE).max() < PRECISION * size


def test_a_rendered_video_becomes_shards_with_the_true_joints(networks, take, tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "double.mp4", take.frames, 12.0)
    config = VideosConfig(input=tmp_path / "in", output=tmp_path / "out", workers=1)
    job.run(config, progress=False)
    shards = ShardSet(config.output, "train")
    assert len(shards) == 1
    sample = decode(*shards.read(0))
    x, y, width, height = sample.meta["crop"]
    truth = (take.joints[:17, :, :2] * SIZE - (x, y)) / (width, height)
    size = np.ptp(truth[..., 1], axis=1).mean()
    error = np.linalg.norm((sample.joints[..., :2] - truth) * (width / height, 1), axis=-1) / size
    assert np.nanmean(error[:, BODY]) < PRECISION
    assert (sample.joints[:, BODY, 2] > 0).mean() > 0.8
    assert np.isfinite(sample.faces).all()
    identity = round(sample.meta["video"]["identity_sec"] * 12)
    assert identity >= 17
    x, y, width, height = sample.meta["identity_crop"]
    truth = (take.joints[identity, :, :2] * SIZE - (x, y)) / (width, height)
    error = np.linalg.norm((sample.identity_joints[:, :2] - truth) * (width / height, 1), axis=-1) / size
    assert np.nanmean(error[BODY]) < PRECISION


def test_a_real_dancer_is_found_in_nearly_every_frame(networks):
    pose, faces = networks
    frames = read_video(shared_clip("LivePortrait__s13.mp4")).frames[::8]
    people = [pose.find(image) for image in frames]
    found = [pose.pose(image, p[0]) for image, p in zip(frames, people) if p]
    assert len([f for f in found if f is not None]) >= len(frames) - 1
    assert max(len(p) for p in people) == 1
    # She faces the camera, standing: her left is on our right, and heads are above hips above feet.
    joints = np.stack([f.joints for f in found if f is not None])
    at = {name: joints[:, i] for i, name in enumerate(JOINTS)}
    assert (at["l_shoulder"][:, 0] > at["r_shoulder"][:, 0]).all()
    assert (at["nose"][:, 1] < at["neck"][:, 1]).all() and (at["l_hip"][:, 1] < at["l_ankle"][:, 1]).all()
    boxes = [faces.find(image, head_region(f.head)) for image, f in zip(frames, found) if f is not None]
    assert np.mean([box is not None for box in boxes]) > 0.9
