"""Face detectors and the numbers that choose frames."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from real_footage import have_weights, shared_clip

from data_pipeline.config import PoseConfig
from data_pipeline.faces import backends, quality, scrfd
from data_pipeline.faces.base import POINTS, Face, head_region, in_middle
from data_pipeline.faces.config import BACKENDS, FaceConfig
from data_pipeline.pose.base import Region
from imanim import config, weights
from imanim.data.video import read_video
from imanim.errors import ConfigError, InputError

SIDE = 64
CELLS = [(SIDE // stride) ** 2 * 2 for stride in scrfd.STRIDES]


def scrfd_outputs(faces, *, batched=False, points=True):
    """What an SCRFD of a 64 px input says of faces (stride, column, row, score, distances [4], offsets [5,2])."""
    kinds = [[np.zeros((n, wide), np.float32) for n in CELLS] for wide in (1, 4, 10)[: 3 if points else 2]]
    for stride, column, row, score, distances, offsets in faces:
        layer = scrfd.STRIDES.index(stride)
        at = (row * (SIDE // stride) + column) * 2 + 1
        values = (score, distances, np.ravel(offsets))
        for kind, value in zip(kinds, values):
            kind[layer][at] = value
    return [part[None] if batched else part for kind in kinds for part in kind]


OFFSETS = np.array([[-0.5, -0.5], [0.5, -0.5], [0, 0], [-0.4, 0.5], [0.4, 0.5]])


@pytest.mark.parametrize("batched", [False, True])
def test_an_scrfd_anchor_becomes_its_box_and_points(batched):
    outputs = scrfd_outputs([(16, 2, 1, 0.75, [1, 0.5, 1.5, 1], OFFSETS)], batched=batched)
    scores, boxes, points = scrfd.decode(outputs, SIDE, SIDE)
    (at,) = np.flatnonzero(scores)
    assert scores[at] == 0.75 and at == CELLS[0] + (1 * 4 + 2) * 2 + 1
    assert boxes[at].tolist() == [32 - 16, 16 - 8, 32 + 24, 16 + 16]
    assert np.allclose(points[at], [32, 16] + 16 * OFFSETS)


def test_an_scrfd_decode_equals_a_plain_loop_over_anchors():
    rng = np.random.default_rng(0)
    width, height = 96, 64
    counts = [(width // s) * (height // s) * 2 for s in scrfd.STRIDES]
    outputs = [rng.uniform(size=(n, wide)).astype(np.float32) for wide in (1, 4, 10) for n in counts]
    scores, boxes, points = scrfd.decode(outputs, width, height)
    n = 0
    for layer, stride in enumerate(scrfd.STRIDES):
        i = 0
        for row in range(height // stride):
            for column in range(width // stride):
                for _ in range(2):
                    x, y = column * stride, row * stride
                    left, top, right, bottom = outputs[3 + layer][i].astype(float) * stride
                    assert np.allclose(boxes[n], [x - left, y - top, x + right, y + bottom])
                    flat = outputs[6 + layer][i].astype(float) * stride
                    assert np.allclose(points[n], [[x + flat[2 * k], y + flat[2 * k + 1]] for k in range(5)])
                    assert scores[n] == outputs[layer][i, 0]
                    i, n = i + 1, n + 1
    assert n == len(scores)


def test_networks_of_another_layout_are_refused():
    outputs = scrfd_outputs([])
    with pytest.raises(ValueError, match="it has 4 outputs"):
        scrfd.decode(outputs[:4], SIDE, SIDE)
    with pytest.raises(ValueError, match=r"output 1 is \[8, 1\], not \[32,1\]"):
        scrfd.decode([outputs[0], outputs[2], outputs[1], *outputs[3:]], SIDE, SIDE)


def fixed_network(path, shape, outputs):
    """An ONNX network that always answers ``outputs`` plus the mean of its input in every output's first number."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra `dev`)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `dev`)")
    helper, numbers = onnx.helper, onnx.numpy_helper
    nodes, constants, infos = [], [], []
    nodes.append(helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0))
    for i, value in enumerate(outputs):
        first = np.zeros(value.shape, np.float32)
        first.flat[0] = 1.0
        constants.append(numbers.from_array(value.astype(np.float32), f"value{i}"))
        constants.append(numbers.from_array(first, f"first{i}"))
        nodes.append(helper.make_node("Mul", [f"first{i}", "mean"], [f"part{i}"]))
        nodes.append(helper.make_node("Add", [f"value{i}", f"part{i}"], [f"output{i}"]))
        infos.append(helper.make_tensor_value_info(f"output{i}", onnx.TensorProto.FLOAT, value.shape))
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "fixed", [image], infos, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("shape", [[1, 3, SIDE, SIDE], [1, 3, "height", "width"]])
def test_a_face_goes_from_the_frame_through_onnxruntime_back_to_pixels(tmp_path, shape):
    faces = [
        (32, 1, 1, 0.8, [0.5, 0.5, 0.5, 0.5], OFFSETS),
        (16, 2, 2, 0.6, [1.1, 1, 1, 1], OFFSETS),  # the same face again, less certain
        (8, 1, 1, 0.9, [1, 1, 1, 1], OFFSETS),  # somebody else's face at the region's edge, more certain
        (16, 2, 2, 0.3, [2, 2, 2, 2], OFFSETS),
    ]
    path = fixed_network(tmp_path / "face.onnx", shape, scrfd_outputs(faces))
    settings = FaceConfig(backend="scrfd_onnx", detector=path, input_side_px=SIDE)
    assert settings.problems() == []
    detector = backends.build(settings)
    assert detector.models == {"face.onnx": weights.sha256_of(path)}
    frame = np.full((400, 300, 3), 127, np.uint8)
    face = detector.find(frame, Region(150, 200, 128, 128))
    # The region is twice the network's input: pixel (32,32) of it is the frame's (150,200).
    assert face.box.tolist() == [150 - 32, 200 - 32, 150 + 32, 200 + 32] and face.score == pytest.approx(0.8)
    assert np.allclose(face.points, [150, 200] + 64 * OFFSETS) and face.points.dtype == face.box.dtype == np.float32
    assert detector.find(frame, Region(150 + 100, 200 + 100, 128, 128)).box[0] == 250 - 32
    strict = backends.build(FaceConfig("scrfd_onnx", path, min_score=0.85, input_side_px=SIDE))
    assert strict.find(frame, Region(150, 200, 128, 128)) is None


def test_an_scrfd_without_points_gives_nan_points(tmp_path):
    outputs = scrfd_outputs([(32, 1, 1, 0.8, [0.5] * 4, OFFSETS)], points=False)
    detector = scrfd.Scrfd(fixed_network(tmp_path / "f.onnx", [1, 3, SIDE, SIDE], outputs))
    face = detector.find(np.full((64, 64, 3), 127, np.uint8), Region(32, 32, 64, 64))
    assert face.box.tolist() == [16, 16, 48, 48] and np.isnan(face.points).all()


def test_what_is_no_scrfd_is_refused(tmp_path):
    path = fixed_network(tmp_path / "other.onnx", [1, 3, SIDE, SIDE], [np.zeros((4, 4))])
    with pytest.raises(InputError, match=r"other\.onnx: it has 1 outputs; SCRFD"):
        scrfd.Scrfd(path).find(np.zeros((64, 64, 3), np.uint8), Region(32, 32, 64, 64))
    path = fixed_network(tmp_path / "flat.onnx", [1, 5], [np.zeros((1, 4))])
    with pytest.raises(InputError, match=r"flat\.onnx: its input is \[1, 5\]"):
        scrfd.Scrfd(path)
    with pytest.raises(InputError, match=r"nowhere\.onnx: no such file"):
        scrfd.Scrfd(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("x")
    with pytest.raises(InputError, match="not a readable ONNX network"):
        scrfd.Scrfd(tmp_path / "text.onnx")


def test_the_face_in_the_middle_is_this_heads():
    region = Region(100, 100, 40, 40)
    edge = (np.array([0.0, 0.0, 0.3, 0.3]), np.full((5, 2), 0.1), 0.9)
    middle = (np.array([0.4, 0.4, 0.7, 0.7]), np.full((5, 2), 0.5), 0.6)
    assert in_middle(region, [edge, middle]).box.tolist() == pytest.approx([96, 96, 108, 108])
    assert in_middle(region, [edge]) is None


def test_the_head_region_needs_three_points():
    head = np.array([[10, 10], [30, 10], [np.nan, 4], [20, 20]], np.float32)
    region = head_region(head)
    assert (region.x, region.y, region.width) == (20, 15, 60)
    assert head_region(head[:3]) is None


# ---------------------------------------------------------------------------------------------------------- quality


def noise_face(side, seed=0):
    """A textured square whose detail scales with its size."""
    small = np.random.default_rng(seed).integers(0, 256, (28, 28, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def test_sharpness_equals_opencvs_variance_of_the_laplacian():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    face = noise_face(112)
    grey = np.asarray(Image.fromarray(face).convert("L"))
    expected = cv2.Laplacian(grey, cv2.CV_64F).var()
    assert quality.sharpness(face, np.array([0, 0, 112, 112.0])) == pytest.approx(expected)


def test_sharpness_falls_with_blur_and_hardly_changes_with_size():
    box = np.array([0, 0, 448, 448.0])
    large = noise_face(448)
    blurred = np.asarray(Image.fromarray(large).resize((14, 14), Image.Resampling.BILINEAR).resize((448, 448)))
    assert quality.sharpness(blurred, box) < quality.sharpness(large, box) / 10
    same = quality.sharpness(noise_face(224), box / 2)
    assert same == pytest.approx(quality.sharpness(large, box), rel=0.1)


def test_only_the_box_counts_and_a_box_outside_or_unknown_gives_zero():
    frame = np.zeros((200, 200, 3), np.uint8)
    frame[50:162, 50:162] = noise_face(112)
    inside = quality.sharpness(frame, np.array([50, 50, 162, 162.0]))
    assert inside == quality.sharpness(noise_face(112), np.array([-20.0, 0, 112, 140])) > 0
    assert quality.sharpness(frame, np.array([0, 0, 45, 45.0])) == 0
    assert quality.sharpness(frame, np.array([300, 300, 400, 400.0])) == 0
    assert quality.sharpness(frame, np.full(4, np.nan)) == 0


@pytest.mark.parametrize(("nose_x", "expected"), [(50, 1.0), (60, 0.5), (40, 0.5), (70, 0.0), (90, 0.0), (10, 0.0)])
def test_frontality_follows_the_nose_between_the_eyes_at_any_tilt(nose_x, expected):
    points = np.array([[30, 40], [70, 40], [nose_x, 60], [np.nan, np.nan], [np.nan, np.nan]])
    angle = 0.6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert quality.frontality(points) == pytest.approx(expected)
    assert quality.frontality(points @ turn.T * 3 + 7) == pytest.approx(expected)
    points[0] = np.nan
    assert quality.frontality(points) == 0.0


# --------------------------------------------------------------------------------------------------------- settings


def test_settings_are_checked_and_every_name_has_its_maker(tmp_path):
    assert set(BACKENDS) == set(backends.BACKENDS)
    with pytest.raises(
        ConfigError, match=r"backend: `retinaface` is not known; give one of blazeface, mtcnn, scrfd_onnx or package"
    ):
        config.from_dict(FaceConfig, {"backend": "retinaface"})
    with pytest.raises(ConfigError, match="needs the path"):
        config.from_dict(FaceConfig, {"backend": "scrfd_onnx"})
    with pytest.raises(ConfigError, match="multiple of 32"):
        config.from_dict(FaceConfig, {"input_side_px": 100})
    assert backends.required_weights(FaceConfig()) == ["blazeface-short-range"]
    assert backends.required_weights(FaceConfig(detector=tmp_path)) == []


PLUG_IN = """
class Mine:
    name = "mine"
    def __init__(self, config):
        self.models = {"score": str(config.options["score"])}
    def find(self, frame, region):
        return None
def half(config):
    return type("Half", (), {"name": "half"})()
"""


def test_a_plug_in_is_found_by_its_path_and_checked(tmp_path, monkeypatch):
    (tmp_path / "my_faces.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(tmp_path)
    made = backends.build(config.from_dict(FaceConfig, {"backend": "my_faces:Mine", "options": {"score": 3}}))
    assert made.models == {"score": "3"}
    with pytest.raises(InputError, match=r"made a Half without find, models; see FaceDetector"):
        backends.build(FaceConfig(backend="my_faces:half"))
    with pytest.raises(InputError, match=r"my_faces:none cannot be imported"):
        backends.build(FaceConfig(backend="my_faces:none"))
    with pytest.raises(InputError, match=r"no_such_module:x cannot be imported"):
        backends.build(FaceConfig(backend="no_such_module:x"))


def test_missing_weights_are_named_and_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="imanim weights import blazeface-short-range"):
        backends.build(FaceConfig())


def test_the_settings_import_no_network_library():
    code = "import sys, data_pipeline.faces.config, data_pipeline.identity.config\n"
    code += "print({'onnxruntime', 'dlib', 'torch', 'scipy', 'ai_edge_litert'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# -------------------------------------------------------------------------------------------------- the real network


def test_a_real_face_has_its_points_in_place_and_mirrors_with_the_picture():
    have_weights("blazeface-short-range", "blazepose-detector", "blazepose-landmarks-full")
    from data_pipeline.pose.backends import build as build_pose

    frame = read_video(shared_clip("LivePortrait__d18.mp4")).frames[0]
    pose, detector = build_pose(PoseConfig()), backends.build(FaceConfig())
    region = head_region(pose.pose(frame, pose.find(frame)[0]).head)
    face = detector.find(frame, region)
    at = dict(zip(POINTS, face.points))
    assert at["r_eye"][0] < at["nose"][0] < at["l_eye"][0] and at["nose"][1] > at["l_eye"][1]
    assert np.isnan(face.points[3:]).all() and isinstance(face, Face) and face.score > 0.8
    assert (face.points[:3] > face.box[:2]).all() and (face.points[:3] < face.box[2:]).all()
    assert quality.frontality(face.points) > 0.8
    wide = frame.shape[1]
    mirrored = detector.find(
        np.ascontiguousarray(frame[:, ::-1]), Region(wide - region.x, region.y, region.width, region.height)
    )
    expected = [wide, 0] + face.points[[1, 0, 2]] * [-1, 1]
    assert np.abs(mirrored.points[:3] - expected).max() < 0.05 * (face.box[2] - face.box[0])
    assert detector.find(frame, Region(20, 20, 30, 30)) is None  # the studio's wall
