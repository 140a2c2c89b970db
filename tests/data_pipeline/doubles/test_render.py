"""Rendering: deterministic, cameras and pictures agree, levels differ as they say, joints and faces are found."""

import numpy as np
import pytest

from data_pipeline.doubles.bodies import Body
from data_pipeline.doubles.camera import Camera, View, make_camera, plan_cameras
from data_pipeline.doubles.render import Renderer, face_box, face_vertices, joint_visibility
from data_pipeline.doubles.wardrobe import random_identity, random_scene
from imanim.data.sample import JOINTS, PARTS
from imanim.errors import InputError

W, H = 80, 128
PERSON = random_identity(np.random.default_rng(11))
BODY = Body(PERSON.phenotype)
SCENE = random_scene(np.random.default_rng(12))
FRONT = View(0.0, 0.05, 3.0, 0.6, 0.0, 0.0, "full_body")


def standing(frames: int = 1, spin: float = 0.0):
    deltas = np.tile(np.eye(3, dtype=np.float32), (frames, 104, 1, 1))
    for t in range(frames):
        c, s = np.cos(spin * (t + 1)), np.sin(spin * (t + 1))
        deltas[t, 0] = [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    return BODY.pose(deltas, np.tile(BODY.rest_heads[:1], (frames, 1)))


def test_the_same_input_gives_the_same_bytes_alone_or_in_a_batch() -> None:
    vertices, camera = standing(3, 0.4).vertices, FRONT.camera(BODY.height_m)
    batch = Renderer(BODY, PERSON, W, H).frames(vertices, SCENE, camera)
    other = Renderer(BODY, PERSON, W, H)
    for t in (2, 0, 1):
        frame = other.frame(vertices[t], SCENE, camera)
        np.testing.assert_array_equal(frame.rgb, batch.rgb[t])
        np.testing.assert_array_equal(frame.parts, batch.parts[t])
        np.testing.assert_array_equal(frame.depth, batch.depth[t])


def test_a_frame_has_the_shapes_and_labels_of_the_contract() -> None:
    out = Renderer(BODY, PERSON, W, H).frame(standing().vertices[0], SCENE, FRONT.camera(BODY.height_m))
    assert out.rgb.shape == (H, W, 3)
    assert out.rgb.dtype == out.parts.dtype == np.uint8
    assert out.depth.dtype == np.float32
    assert out.parts.max() < len(PARTS)
    np.testing.assert_array_equal(np.isinf(out.depth), out.parts == 0)
    for part in ("skin", "shirt", "shoes"):
        assert (out.parts == PARTS.index(part)).sum() > 5, part
    person = np.flatnonzero((out.parts > 0).any(1))
    assert 0.5 < (person[-1] - person[0]) / H < 0.75


def test_projection_agrees_with_the_picture() -> None:
    posed, camera = standing(), FRONT.camera(BODY.height_m)
    out = Renderer(BODY, PERSON, W, H, supersample=1).frame(posed.vertices[0], SCENE, camera)
    uv, _ = camera.project(posed.vertices[0][np.unique(BODY.asset.triangles)], W, H)
    rows, columns = np.nonzero(out.parts)
    face = BODY.asset.groups == 0
    skin, _ = camera.project(posed.vertices[0][np.unique(BODY.asset.triangles[face])], W, H)
    assert abs((columns.min() + 0.5) / W - skin[:, 0].min()) < 0.03
    assert abs((columns.max() + 0.5) / W - skin[:, 0].max()) < 0.03
    assert abs((rows.max() + 0.5) / H - uv[:, 1].max()) < 0.04


def test_left_is_on_the_right_of_a_frontal_picture_and_points_behind_are_nan() -> None:
    camera = FRONT.camera(1.7)
    uv, depth = camera.project(np.array([[0.3, 0, 1.0], [-0.3, 0, 1.0], [0, -50.0, 1.0]], np.float32), W, H)
    assert uv[0, 0] > 0.5 > uv[1, 0]
    assert np.isnan(uv[2]).all()
    assert depth[2] < 0


def test_joints_are_seen_from_the_front_and_hidden_from_behind() -> None:
    renderer = Renderer(BODY, PERSON, W, H)
    posed = standing()
    seen = {}
    for name, azimuth in (("front", 0.0), ("back", np.pi)):
        view = View(azimuth, 0.05, 3.0, 0.6, 0, 0, "full_body")
        camera = view.camera(BODY.height_m)
        depth = renderer.frames(posed.vertices, SCENE, camera).depth
        seen[name], visible = joint_visibility(posed.keypoints, camera, depth, BODY.height_m)
        assert seen[name].shape == (1, 20, 3)
        assert np.isfinite(seen[name]).all()
        assert (visible == (seen[name][..., 2] > 0)).all()
    assert seen["front"][0, :, 2].all()
    for joint in ("nose", "l_eye", "r_eye"):
        assert seen["back"][0, JOINTS.index(joint), 2] == 0
    assert seen["back"][0, JOINTS.index("l_knee"), 2] == 1


def test_the_face_box_holds_the_face_and_is_nan_from_behind() -> None:
    posed = standing(2, np.pi / 2)  # a quarter turn, then half a turn
    camera = FRONT.camera(BODY.height_m)
    front = face_box(standing().vertices, camera, W, H)
    eyes, _ = camera.project(standing().keypoints[0, [0, 14, 15]], W, H)
    assert ((eyes > front[0, :2]) & (eyes < front[0, 2:])).all()
    assert (front[0, 2:] - front[0, :2]).max() < 0.25
    turned = face_box(posed.vertices, camera, W, H)
    assert np.isfinite(turned[0]).all()
    assert np.isnan(turned[1]).all()
    assert len(face_vertices()) > 500


def test_an_expression_changes_the_picture_of_a_portrait() -> None:
    expressions = np.zeros((2, 52), np.float32)
    expressions[1, BODY.asset.expression_names.index("jawOpen")] = 0.8
    identity = np.tile(np.eye(3, dtype=np.float32), (2, 104, 1, 1))
    vertices = BODY.pose(identity, np.tile(BODY.rest_heads[:1], (2, 1)), expressions).vertices
    camera = make_camera(np.random.default_rng(1), BODY.height_m, 0, "portrait")
    out = Renderer(BODY, PERSON, W, H).frames(vertices, SCENE, camera)
    assert (np.abs(out.rgb[0].astype(int) - out.rgb[1]).max(-1) > 25).sum() > 20
    box = face_box(vertices, camera, W, H)[0]
    assert box[2] - box[0] > 0.25  # the face is large enough to read
    inside = [PARTS.index(p) for p in ("teeth", "tongue")]
    assert np.isin(out.parts[1], inside).sum() > np.isin(out.parts[0], inside).sum()


def test_levels_differ_as_they_say() -> None:
    def azimuth(camera: Camera) -> float:
        x, y = np.array(camera.eye[:2]) - camera.target[:2]
        return float(np.arctan2(x, -y))

    gaps: dict[int, list[float]] = {level: [] for level in range(5)}
    for seed in range(40):
        for level in range(5):
            plan = plan_cameras(np.random.default_rng(seed), level)
            driver, target = plan.camera("driver", 1.2), plan.camera("target", 1.8)
            assert plan.camera("reference", 1.8) == target
            same = make_camera(np.random.default_rng(seed), 1.2, level, "full_body", "driver")
            assert same == driver
            gaps[level].append(abs(azimuth(driver) - azimuth(target)))
            # body-normalised framing: crown and sole fall on the same rows whatever the height
            if level < 2:
                rows = [c.project(np.array([[0, 0, h]]), W, H)[0] for c, h in ((driver, 1.2), (target, 1.8))]
                np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)
            elif level == 2:
                assert driver.focal != pytest.approx(target.focal, rel=1e-3)
    assert max(gaps[0] + gaps[1]) < 1e-6
    assert max(gaps[2]) < 0.03
    assert np.deg2rad(9) < min(gaps[3]) < max(gaps[3]) < np.deg2rad(36)
    assert np.deg2rad(34) < min(gaps[4]) < max(gaps[4]) < np.deg2rad(72)


def test_raised_arms_mostly_stay_in_the_full_body_frame() -> None:
    inside = []
    for seed in range(40):
        camera = make_camera(np.random.default_rng(seed), 1.7, 1)
        reach = np.array([[0, 0, 1.7 * 1.25], [0.75, 0, 1.4], [-0.75, 0, 1.4], [0, 0, 0]], np.float32)
        uv, _ = camera.project(reach, W, H)
        inside.append(((uv >= 0) & (uv < 1)).all(-1))
        assert ((uv > -0.1) & (uv < 1.1)).all(), seed
    assert np.mean(inside) > 0.8
    assert np.array(inside)[:, 3].all()  # the feet always


def test_wrong_input_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="level: 7"):
        plan_cameras(np.random.default_rng(0), 7)
    with pytest.raises(InputError, match="looks straight"):
        Camera((0, 0, 5), (0, 0, 1), 1.0).world_to_camera()
    with pytest.raises(InputError, match="phenotype"):
        Renderer(Body(dict(PERSON.phenotype) | {"age": 0.01}), PERSON, W, H)
    with pytest.raises(InputError, match="vertices"):
        Renderer(BODY, PERSON, W, H).frames(np.zeros((1, 5, 3), np.float32), SCENE, FRONT.camera(1.7))
