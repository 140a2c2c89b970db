"""Face mesh and expression: what a face does, whoever it is and however the head is held."""

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from weights_here import need

from data_pipeline.faces import blazeface
from data_pipeline.faces.base import Face
from data_pipeline.pose import crop
from data_pipeline.pose.base import Region
from evaluation.clip import Clip
from evaluation.features import expression as features
from evaluation.features import face_mesh
from evaluation.features.face_mesh import FaceMesh
from evaluation.metrics.base import ClipMetric, Machine
from evaluation.metrics.expression import METRICS, Expression, ExpressionConfig, correlation
from imanim import config, weights
from imanim.data.video import read_video
from imanim.errors import ConfigError, InputError

FACES = Path(__file__).parent / "faces"
PUBLISHED = np.load(FACES / "a_1_mediapipe.npy").astype(np.float64)
"""[2,468,3] in pixels: what MediaPipe 0.10.21's own graph (mp.solutions.face_mesh, static_image_mode=False) says of a_1 the first
and the second time it sees it."""


def picture(name):
    return np.asarray(Image.open(FACES / f"{name}.png").convert("RGB"))


def whole(image):
    return Region(image.shape[1] / 2, image.shape[0] / 2, image.shape[1], image.shape[0])


def metric(**settings):
    need("face-mesh", "blazepose-detector", "blazepose-landmarks-full", "blazeface-short-range")
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (extra `data`)")
    return Expression(config.from_dict(ExpressionConfig, settings))


def real_clip(name, frames):
    root = os.environ.get("IMANIM_SHARED")
    path = (Path(root) if root else Path(__file__).parents[3] / "shared") / "clips" / name
    if not path.is_file():
        pytest.skip(f"no real clip at hand: {path} is missing (IMANIM_SHARED names the folder that holds clips/)")
    return read_video(path).frames[:frames:3]


# ------------------------------------------------------------------------------------------------------- the mesh


def test_the_mesh_is_that_of_mediapipes_own_graph(monkeypatch):
    need("face-mesh", "blazeface-short-range")

    def published_cut(frame, region, width, height, **outside):
        """MediaPipe's OpenCV code takes a pixel's number for its place: half a pixel of each grid off ours."""
        x, y = region.to_frame(np.array([0.5 - 0.5 / width, 0.5 - 0.5 / height]))
        return np.round(crop.cut(frame, dataclasses.replace(region, x=x + 0.5, y=y + 0.5), width, height, **outside))

    image = picture("a_1")
    for module in (blazeface, face_mesh):
        monkeypatch.setattr(module, "cut", published_cut)
    face = blazeface.BlazeFace().find(image, whole(image))
    assert np.allclose(face.box, [101.746, 78.810, 197.351, 174.399], atol=0.15)
    for looks, wanted in zip((1, 2), PUBLISHED):
        off = np.abs(FaceMesh(looks=looks)(image, face) - wanted)
        assert off.max() < 0.3 and off.mean() < 0.06


def test_in_our_own_pixel_grid_the_mesh_is_within_a_pixel_of_mediapipes():
    need("face-mesh", "blazeface-short-range")
    image = picture("a_1")
    off = np.abs(FaceMesh()(image, blazeface.BlazeFace().find(image, whole(image))) - PUBLISHED[1])[:, :2]
    assert off.mean() < 0.6 and off.max() < 2


def test_the_second_look_forgives_a_wrong_box():
    need("face-mesh", "blazeface-short-range")
    image = picture("b_1")
    face = blazeface.BlazeFace().find(image, whole(image))
    wide = Face(face.box + np.float32([-12, -12, 4, 4]), face.points, face.score)
    off = [np.abs(FaceMesh(looks=looks)(image, face) - FaceMesh(looks=looks)(image, wide)).mean() for looks in (1, 2)]
    assert off[1] < 0.6 * off[0] and off[1] < 0.8


def test_a_turned_picture_turns_the_mesh():
    need("face-mesh", "blazeface-short-range")
    image, mesh = picture("a_1"), FaceMesh()
    face = blazeface.BlazeFace().find(image, whole(image))
    turned = np.asarray(Image.fromarray(image).rotate(30, Image.Resampling.BICUBIC, fillcolor=(90, 120, 160)))
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    spin = np.array([[cos, sin], [-sin, cos]])  # counterclockwise on screen

    def moved(points):
        return (points - 112) @ spin.T + 112

    points = moved(face.points)
    box = np.concatenate([moved((face.box[:2] + face.box[2:]) / 2) - 48, moved((face.box[:2] + face.box[2:]) / 2) + 48])
    found = mesh(turned, Face(box.astype(np.float32), points.astype(np.float32), 1.0))
    assert np.abs(found[:, :2] - moved(mesh(image, face)[:, :2])).mean() < 1.0


def test_where_no_face_is_there_is_no_mesh():
    need("face-mesh")
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    eyes = np.full((5, 2), np.nan, np.float32)
    eyes[:2] = [[50, 50], [80, 50]]
    box = np.array([40, 40, 90, 90], np.float32)
    assert np.isnan(FaceMesh()(image, Face(box, eyes, 0.9))).all()
    nobody = np.full((5, 2), np.nan, np.float32)
    assert np.isnan(FaceMesh()(picture("a_1"), Face(box, nobody, 0.9))).all()


def test_another_network_is_no_face_mesh():
    need("blazeface-short-range")
    with pytest.raises(InputError, match="takes no 192 px picture"):
        FaceMesh(weights.require("blazeface-short-range"))


# ------------------------------------------------------------------------------------------------------- geometry


def performance(mouth, *, seed=0, still=False):
    """Meshes [T,468,3] of the rendered face whose inner lips part by ``mouth`` [T] (pixels), each held and seen otherwise."""
    rng, meshes = np.random.default_rng(seed), []
    lower = [b for _, b in features.LIP_PAIRS]
    for amount in mouth:
        face = PUBLISHED[1].copy()
        face[lower, 1] += amount
        turn = Rotation.from_euler("xyz", rng.uniform(-30, 30, 3) * (not still), degrees=True)
        meshes.append(turn.apply(face) * rng.uniform(0.5, 2) + rng.uniform(-200, 200, 3))
    return np.stack(meshes)


def test_pose_size_and_place_do_not_change_an_expression():
    mouth = 8 * np.sin(np.arange(20) / 3)
    held, free = (features.aligned(performance(mouth, still=still)) for still in (True, False))
    assert np.allclose(held, free, atol=1e-6)
    assert np.allclose(features.movement(held), features.movement(free), atol=1e-6)
    assert np.abs(features.movement(free)).max() > 0.03


def test_an_aligned_face_is_upright_and_one_between_the_eyes():
    faces = features.aligned(performance(np.zeros(5)))
    eyes = faces[:, list(face_mesh.OUTER_EYES)]
    assert np.allclose(np.linalg.norm(eyes[:, 0] - eyes[:, 1], axis=1), 1, atol=1e-9)
    assert np.allclose(eyes[:, 1] - eyes[:, 0], [1, 0, 0], atol=1e-9)  # the person's left is x
    assert (faces[:, features.FOREHEAD, 1] < faces[:, features.BETWEEN_EYES, 1]).all() and (faces[:, 152, 1] > 0).all()


def test_an_opening_is_measured_in_eye_distances():
    mouth = np.linspace(0, 10, 15)
    opened = features.opening(features.aligned(performance(mouth)), features.LIP_PAIRS)
    eyes_px = np.linalg.norm(np.subtract(*PUBLISHED[1][list(face_mesh.OUTER_EYES)]))
    assert np.corrcoef(opened, mouth)[0, 1] > 0.99
    assert (opened[-1] - opened[5]) == pytest.approx((mouth[-1] - mouth[5]) / eyes_px, rel=0.15)


def test_ones_own_neutral_face_is_no_expression():
    mouth = 4 + 4 * np.sin(np.arange(20) / 3)
    faces = features.aligned(performance(mouth))
    other = faces.copy()
    other[:, list(features.LIPS), 1] += 0.2
    assert np.allclose(features.movement(other), features.movement(faces))


def test_a_profile_has_no_frontality():
    front = PUBLISHED[1] - PUBLISHED[1].mean(axis=0)
    turned = [features.frontality(Rotation.from_euler("y", d, degrees=True).apply(front)) for d in (0, 25, 80)]
    assert turned[0] > 0.8 and turned[0] > turned[1] > turned[2] == 0.0


def test_point_tables_name_each_point_once():
    for table in (features.RIGID, features.MOVING):
        assert len(set(table)) == len(table) and min(table) >= 0 and max(table) < face_mesh.POINTS
    assert len(features.MOVING) == 92
    assert {i for pair in features.LIP_PAIRS for i in pair} <= set(features.LIPS)
    assert {i for pair in features.LID_PAIRS for i in pair} <= set(features.EYES)


def test_correlations_need_something_to_follow():
    moving, rng = np.sin(np.arange(30) / 2), np.random.default_rng(0)
    assert correlation(2 * moving + 5, moving, 0.1) == pytest.approx(1.0)
    assert correlation(-moving, moving, 0.1) == pytest.approx(-1.0)
    assert correlation(np.ones(30), moving, 0.1) == 0.0
    assert math.isnan(correlation(moving, 0.01 * rng.normal(size=30), 0.1))


# --------------------------------------------------------------------------------------------------------- metric


def still(name, frames=8):
    return np.repeat(picture(name)[None], frames, axis=0)


def test_a_still_face_agrees_with_itself_and_has_nothing_to_correlate():
    m = metric()
    found = m.measure(Clip("clip", still("a_1"), still("b_1"), picture("a_1"), 12.0, truth=still("a_1")))
    assert found["expression_error"] == 0.0 and found["mesh_found"] == 1.0
    assert math.isnan(found["mouth_correlation"]) and math.isnan(found["eye_correlation"])
    assert [*found] == [value.name for value in m.values]


def test_without_faces_or_truth_nothing_is_claimed():
    m = metric()
    black = np.zeros((8, 224, 224, 3), np.uint8)
    found = m.measure(Clip("clip", black, still("b_1"), picture("a_1"), 12.0, truth=still("a_1")))
    assert found.pop("mesh_found") == 0.0 and all(math.isnan(v) for v in found.values())
    found = m.measure(Clip("clip", still("a_1"), black, picture("a_1"), 12.0))
    assert all(math.isnan(v) for v in found.values())
    found = m.measure(Clip("clip", still("a_1"), still("b_1"), picture("a_1"), 12.0))
    assert found["mesh_found"] == 1.0 and math.isnan(found["expression_error"])
    few = still("a_1")
    few[3:] = 0
    found = m.measure(Clip("clip", few, still("b_1"), picture("a_1"), 12.0, truth=still("a_1")))
    assert found["mesh_found"] == 3 / 8 and math.isnan(found["expression_error"])


def test_the_truth_is_what_counts_and_without_it_the_driver():
    m, steps = metric(), np.arange(24) / 2
    meshes = [
        performance(6 + 6 * wave, seed=i) for i, wave in enumerate((np.sin(steps), np.sin(steps), -np.sin(steps)))
    ]
    m._known = lambda frames: meshes[frames.flat[0]]
    made, truth, driving = (np.full((24, 8, 8, 3), i, np.uint8) for i in range(3))
    found = m.measure(Clip("clip", made, driving, picture("a_1"), 12.0, truth=truth))
    assert found["mouth_correlation"] == pytest.approx(1) and found["expression_error"] == pytest.approx(0, abs=1e-6)
    found = m.measure(Clip("clip", made, driving, picture("a_1"), 12.0))
    assert found["mouth_correlation"] < -0.9 and math.isnan(found["expression_error"])
    found = m.measure(Clip("clip", made, truth, picture("a_1"), 12.0, truth=driving))
    assert found["mouth_correlation"] < -0.9 and found["expression_error"] > 0.3


def test_clips_too_short_to_show_an_expression_are_refused():
    with pytest.raises(InputError, match="clip one: 1 frames; the expression metric needs 8"):
        metric().measure(Clip("one", still("a_1", 1), still("b_1", 1), picture("a_1"), 12.0))


def test_a_real_mouth_follows_itself_less_the_later_it_comes():
    m = metric()
    frames = real_clip("LivePortrait__d18.mp4", 150)
    faces = features.aligned(m.meshes(frames))
    n = len(faces) - 8
    values = [m._compare(faces[lag : lag + n], faces[:n]) for lag in (0, 1, 2, 4)]
    mouth, error = ([v[key] for v in values] for key in ("mouth_correlation", "expression_error"))
    assert mouth[0] == pytest.approx(1) and all(a > b for a, b in zip(mouth, mouth[1:])) and mouth[-1] < 0.8
    assert error[0] == 0 and all(a < b for a, b in zip(error, error[1:])) and error[-1] > 1
    smaller = np.stack([np.asarray(Image.fromarray(f).resize((160, 160), Image.Resampling.BOX)) for f in frames])
    again = m._compare(features.aligned(m.meshes(smaller)), faces)
    assert again["mouth_correlation"] > 0.98 and again["expression_error"] < 0.6


def test_the_protocol_names_every_network_and_rule():
    m = metric()
    said = m.protocol()
    assert json.loads(json.dumps(said)) == said and isinstance(m, ClipMetric)
    assert weights.fingerprint("face-mesh") in said["mesh"]["models"].values()
    assert metric(min_motion=1.0).protocol() != said


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="min_frames: 1"):
        config.from_dict(ExpressionConfig, {"min_frames": 1})
    with pytest.raises(ConfigError, match=r"frames_per_clip: 5; give min_frames \(8\)"):
        config.from_dict(ExpressionConfig, {"frames_per_clip": 5})


def test_missing_weights_are_named_before_the_work(monkeypatch, tmp_path):
    spec = METRICS["expression"]
    assert "face-mesh" in spec.weights(ExpressionConfig()) and "face-mesh" not in spec.weights(
        ExpressionConfig(mesh=tmp_path)
    )
    monkeypatch.setenv("IMANIM_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match="imanim weights import"):
        spec.build(ExpressionConfig(), Machine())
