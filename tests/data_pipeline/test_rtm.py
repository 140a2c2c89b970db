"""RTMPose/DWPose by ONNX: decoding, and a tiny network of the same shape, made here."""

import builtins

import numpy as np
import pytest

from data_pipeline.config import PoseConfig
from data_pipeline.pose import backends, rtm
from imanim.data.sample import JOINTS
from imanim.errors import InputError


def test_simcc_maxima_are_the_keypoints_and_the_weaker_axis_the_score():
    along_x, along_y = np.zeros((2, 384)), np.zeros((2, 512))
    along_x[0, 96], along_y[0, 384] = 0.9, 0.6
    along_x[1, 200], along_y[1, 10] = 0.2, 0.7
    unit, scores = rtm.decode_simcc(along_x, along_y)
    assert np.allclose(unit[0], [96 / 384, 384 / 512])
    assert scores.tolist() == [0.6, 0.2]


def test_a_raw_yolox_cell_becomes_its_box():
    raw = np.zeros((1, 8 * 8 + 4 * 4 + 2 * 2, 7))
    cell = 64 + 4 * 2 + 1  # the stride 16 grid, row 2, column 1
    raw[0, cell] = [0.5, 0.25, np.log(2), np.log(3), 0.9, 0.8, 0.1]
    raw[0, 3] = [0, 0, 0, 0, 0.9, 0.1, 0.8]  # another class
    boxes, scores = rtm.decode_yolox([raw], 64, 64)
    assert np.allclose(boxes[cell], [24 - 16, 36 - 24, 24 + 16, 36 + 24])
    assert scores[cell] == pytest.approx(0.72) and scores[3] == 0


def test_a_yolox_with_suppression_inside_gives_its_people():
    detections = np.array([[[1, 2, 30, 40, 0.9], [5, 5, 9, 9, 0.8]]])
    boxes, scores = rtm.decode_yolox([detections, np.array([[0, 16]])], 64, 64)
    assert boxes.tolist() == [[1, 2, 30, 40]] and scores.tolist() == [0.9]


@pytest.mark.parametrize("count", sorted(rtm.LAYOUTS))
def test_joints_take_the_keypoint_of_their_own_side(count):
    points = np.stack([np.arange(count, dtype=float), np.zeros(count)], axis=1)
    joints = rtm.to_joints(points, np.ones(count))
    coco = {"nose": 0, "l_eye": 1, "r_eye": 2, "l_ear": 3, "r_ear": 4, "l_shoulder": 5, "r_shoulder": 6, "l_elbow": 7}
    coco |= {"r_elbow": 8, "l_wrist": 9, "r_wrist": 10, "l_hip": 11, "r_hip": 12, "l_knee": 13, "r_knee": 14}
    coco |= {"l_ankle": 15, "r_ankle": 16, "neck": 5.5}
    coco |= {26: {"l_toe": 20, "r_toe": 21}, 133: {"l_toe": 17, "r_toe": 20}}.get(count, {})
    for name in JOINTS:
        if name in coco:
            assert joints[JOINTS.index(name), 0] == coco[name], name
        else:
            assert np.isnan(joints[JOINTS.index(name), 0]) and joints[JOINTS.index(name), 2] == 0


def test_missing_files_and_a_missing_runtime_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"nowhere\.onnx: no such file"):
        rtm.RtmPose(tmp_path / "nowhere.onnx", tmp_path / "nowhere.onnx")
    (tmp_path / "a.onnx").write_bytes(b"x")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="onnxruntime: not installed; run"):
        rtm.RtmPose(tmp_path / "a.onnx", tmp_path / "a.onnx")


def test_both_paths_are_asked_for():
    assert "needs both" in PoseConfig(backend="rtm_onnx").problems()[0]


def fixed_answers(path, shape, outputs):
    """An ONNX network that looks at its input and always answers the same arrays."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra `dev`)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `dev`)")
    helper, numbers = onnx.helper, onnx.numpy_helper
    nodes = [helper.make_node("ReduceSum", ["image"], ["total"], keepdims=0)]
    nodes += [helper.make_node("Mul", ["total", "zero"], ["nothing"])]
    constants = [numbers.from_array(np.array(0, np.float32), "zero")]
    infos = []
    for i, value in enumerate(outputs):
        constants.append(numbers.from_array(value.astype(np.float32), f"value{i}"))
        nodes.append(helper.make_node("Add", [f"value{i}", "nothing"], [f"output{i}"]))
        infos.append(helper.make_tensor_value_info(f"output{i}", onnx.TensorProto.FLOAT, value.shape))
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "fixed", [image], infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def test_from_frame_to_joints_through_onnxruntime(tmp_path):
    # The detector works at 64 x 64: on a 200 x 100 (high x wide) frame its pixels are 3.125 frame pixels.
    detections = np.array([[[8.0, 16, 24, 48, 0.9], [40, 40, 44, 44, 0.2]]])
    detector = fixed_answers(tmp_path / "d.onnx", [1, 3, 64, 64], [detections, np.zeros((1, 2))])
    along_x, along_y = np.zeros((1, 17, 96)), np.zeros((1, 17, 128))
    along_x[0, :, 48], along_y[0, np.arange(17), 20 + 5 * np.arange(17)] = 0.8, 0.8
    along_x[0, 9] = 0.0  # the left wrist is not found
    landmarks = fixed_answers(tmp_path / "l.onnx", [1, 3, 64, 48], [along_x, along_y])
    network = backends.build(PoseConfig(backend="rtm_onnx", detector=detector, landmarks=landmarks))
    frame = np.zeros((200, 100, 3), np.uint8)
    (region,) = network.find(frame)
    assert (region.x, region.y) == pytest.approx((16 * 3.125, 32 * 3.125))
    assert region.height == pytest.approx(100 * 1.25) and region.width == pytest.approx(region.height * 48 / 64)
    pose = network.pose(frame, region)
    nose = pose.joints[JOINTS.index("nose")]
    assert nose.tolist() == pytest.approx([50, 100 + (20 / 128 - 0.5) * 125, 0.8])
    assert pose.joints[JOINTS.index("l_wrist"), 2] == 0
    assert pose.region.x == pytest.approx(50)


def test_a_damaged_file_is_refused(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `dev`)")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(InputError, match=r"bad\.onnx: not a readable ONNX network"):
        rtm.RtmPose(tmp_path / "bad.onnx", tmp_path / "bad.onnx")
