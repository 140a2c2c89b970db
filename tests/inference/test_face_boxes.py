"""Face boxes from joints, and from a file."""

import numpy as np
import pytest

from imanim.data.sample import JOINTS
from imanim.errors import InputError
from imanim.inference.faces import face_boxes, load_faces


def head(x: float, y: float, size: float) -> np.ndarray:
    """Joints [1,20,2] in pixels: a head of ``size`` pixels nose to neck at (x, y)."""
    joints = np.full((1, len(JOINTS), 2), -50.0)
    offsets = {
        "nose": (0, 0),
        "neck": (0, 1),
        "r_eye": (-0.2, -0.2),
        "l_eye": (0.2, -0.2),
        "r_ear": (-0.4, 0),
        "l_ear": (0.4, 0),
    }
    for name, (dx, dy) in offsets.items():
        joints[0, JOINTS.index(name)] = (x + dx * size, y + dy * size)
    return joints


def test_boxes_are_square_in_pixels_and_follow_the_head():
    small, large = (face_boxes(head(40, 30, s) / (80, 128), 128, 80)[0] for s in (8, 16))
    for box, scale in ((small, 8), (large, 16)):
        x0, y0, x1, y1 = box * (80, 128, 80, 128)
        assert x1 - x0 == pytest.approx(y1 - y0, abs=1e-3)
        assert x1 - x0 == pytest.approx(1.07 * scale, abs=0.1)
        assert (x0 + x1) / 2 == pytest.approx(40, abs=0.1) and (y0 + y1) / 2 == pytest.approx(
            30 - 0.024 * scale, abs=0.1
        )


def test_a_head_outside_the_frame_has_no_box():
    assert np.isnan(face_boxes(head(40, -10, 8) / (80, 128), 128, 80)).all()


def test_a_head_seen_from_behind_has_no_face():
    joints = head(40, 30, 10)
    joints[..., 0] = 80 - joints[..., 0]
    assert np.isnan(face_boxes(joints / (80, 128), 128, 80)).all()


def test_boxes_are_read_from_a_file(tmp_path):
    boxes = np.array([[0.1, 0.1, 0.3, 0.2]] * 4 + [[np.nan] * 4])
    np.save(tmp_path / "f.npy", boxes)
    assert np.array_equal(load_faces(tmp_path / "f.npy", 5), boxes.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize(
    "value, says",
    [
        (np.zeros((4, 4)), "expected float"),
        (np.zeros((5, 4), int), "expected float"),
        (np.array([[0.3, 0.1, 0.1, 0.2]] * 5), "x0<x1"),
        (np.array([{"a": 1}] * 5, dtype=object), "not a readable"),
    ],
)
def test_other_files_are_refused(tmp_path, value, says):
    np.save(tmp_path / "f.npy", value)
    with pytest.raises(InputError, match=says):
        load_faces(tmp_path / "f.npy", 5)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_faces(tmp_path / "none.npy", 5)
