"""RTMPose and DWPose networks (ONNX files of yours) behind a YOLOX person detector: the production choice.

Jiang et al., "RTMPose" (2023); Yang et al., "Effective Whole-body Pose Estimation with Two-stages Distillation" (2023); Li et
al., "SimCC" (2022): a landmark is the maximum of one distribution along x and one along y, at twice the input's resolution.
Landmark networks of 17 (COCO), 26 (Halpe, with feet) and 133 (COCO-WholeBody) points are known by their output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.pose import ssd
from data_pipeline.pose.base import Pose, Region
from data_pipeline.pose.crop import cut
from imanim import weights
from imanim.errors import InputError

MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # ImageNet, RGB, as the networks were trained
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)
BOX_SCALE = 1.25  # the landmark network sees the person's box with this much air
KEYPOINT_AIR = 1.1  # a box of keypoints lacks hair, hands and soles; the detector's box has them
GRAY = 114  # YOLOX's padding
STRIDES = (8, 16, 32)
MIN_KEYPOINT_SCORE = 0.3
MIN_PERSON_SCORE = 0.3
MAX_OVERLAP = 0.45

# Keypoints in the order of imanim.data.sample.JOINTS; None = neck, the middle of the shoulders where the set lacks it.
_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
LAYOUTS: dict[int, tuple[int | None, ...]] = {
    17: (*_COCO, None, None),
    26: (*_COCO, 20, 21),
    133: (*_COCO, 17, 20),
}
HEAD = (0, 1, 2, 3, 4)
SHOULDERS = (6, 5)
NECK, TOES = 1, (18, 19)


class RtmPose:
    """A :class:`~data_pipeline.pose.base.PoseNetwork` made of two ONNX files, run by onnxruntime on the CPU."""

    name = "rtm_onnx"

    def __init__(self, detector: str | Path, landmarks: str | Path, min_score: float = 0.5):
        self._detector, self._landmarks = _session(detector), _session(landmarks)
        self._detector_side = _input_size(self._detector, detector)
        self._landmark_size = _input_size(self._landmarks, landmarks)
        self._path, self._min_score = Path(landmarks), min_score
        self.models = {Path(path).name: weights.sha256_of(path) for path in (detector, landmarks)}

    def find(self, frame: np.ndarray) -> list[Region]:
        """People in a frame uint8 [H,W,3], the most certain first."""
        wide, high = self._detector_side
        scale = min(wide / frame.shape[1], high / frame.shape[0])
        size = (max(1, int(frame.shape[1] * scale)), max(1, int(frame.shape[0] * scale)))
        padded = np.full((high, wide, 3), GRAY, np.float32)
        padded[: size[1], : size[0]] = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
        # YOLOX was trained on BGR in 0..255.
        outputs = _run(self._detector, padded[..., ::-1])
        boxes, scores = decode_yolox(outputs, wide, high)
        keep = np.flatnonzero(scores >= self._min_score)
        keep = keep[np.argsort(-scores[keep], kind="stable")]
        chosen = [ssd.Detection(float(scores[i]), boxes[i] / scale, np.empty((0, 2))) for i in keep]
        return [self._region(d.box, d.score) for d in _best_of_overlapping(chosen)]

    def pose(self, frame: np.ndarray, region: Region) -> Pose | None:
        """The joints of the person in the region, None when hardly a keypoint is found there."""
        wide, high = self._landmark_size
        image = (cut(frame, region, wide, high, black_outside=True) - MEAN) / DEVIATION
        along_x, along_y = _run(self._landmarks, image)[:2]
        unit, scores = decode_simcc(along_x[0], along_y[0])
        if len(unit) not in LAYOUTS:
            raise InputError(
                f"{self._path}: finds {len(unit)} keypoints; networks of {', '.join(map(str, LAYOUTS))} are known"
            )
        sure = scores >= MIN_KEYPOINT_SCORE
        body = sure[: min(len(sure), 26)]
        if body.sum() < 3 or scores[: len(body)][body].mean() < MIN_PERSON_SCORE:
            return None
        points = region.to_frame(unit)
        seen = points[: len(body)][body]
        middle, half = (
            (seen.max(axis=0) + seen.min(axis=0)) / 2,
            (seen.max(axis=0) - seen.min(axis=0)) / 2 * KEYPOINT_AIR,
        )
        following = self._region(
            np.concatenate([middle - half, middle + half]), float(scores[: len(body)][body].mean())
        )
        head = np.where(sure[list(HEAD), None], points[list(HEAD)], np.nan).astype(np.float32)
        return Pose(to_joints(points, scores), head, following.score, following, hands_of(scores))

    def _region(self, box: np.ndarray, score: float) -> Region:
        """A person's box [4] in pixels -> the landmark network's region: air around it, widened to the input's aspect."""
        centre, size = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 2.0) * BOX_SCALE
        aspect = self._landmark_size[0] / self._landmark_size[1]
        width = max(float(size[0]), float(size[1]) * aspect)
        return Region(float(centre[0]), float(centre[1]), width, width / aspect, 0.0, min(score, 1.0))


def decode_yolox(outputs: list[np.ndarray], width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Detector outputs -> boxes float64 [N,4] in input pixels and person scores [N].

    Two kinds of export exist: with suppression inside ([1,N,5] boxes with scores, [1,N] classes), and raw ([1,N,5+classes]
    centre offsets and log sizes per cell, object score, class scores).
    """
    raw = outputs[0][0].astype(np.float64)
    if raw.shape[-1] == 5:
        people = outputs[1][0] == 0 if len(outputs) > 1 else np.ones(len(raw), bool)
        return raw[people, :4], raw[people, 4]
    cells, strides = [], []
    for stride in STRIDES:
        y, x = np.meshgrid(np.arange(height // stride), np.arange(width // stride), indexing="ij")
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((cells[-1].shape[0], 1), stride))
    grid, stride_of = np.concatenate(cells), np.concatenate(strides)
    centre = (raw[:, :2] + grid) * stride_of
    half = np.exp(raw[:, 2:4]) * stride_of / 2
    classes = raw[:, 5:]
    person = classes.argmax(axis=1) == 0
    return np.concatenate([centre - half, centre + half], axis=1), raw[:, 4] * classes[:, 0] * person


def decode_simcc(along_x: np.ndarray, along_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SimCC distributions -> keypoints [K,2] in [0,1] of the input and scores [K] in [0,1].

    Args:
        along_x: [K, width x split ratio]; along_y: [K, height x split ratio].
    """
    x, y = along_x.argmax(axis=1), along_y.argmax(axis=1)
    score = np.minimum(along_x.max(axis=1), along_y.max(axis=1)).astype(np.float64)
    unit = np.stack([x / along_x.shape[1], y / along_y.shape[1]], axis=1)
    return unit, np.clip(score, 0.0, 1.0)


def to_joints(points: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Keypoints [K,2] in pixels with scores [K] -> joints float32 [20,3]; joints that the set lacks are NaN, score 0."""
    joints = np.full((20, 3), np.nan, np.float32)
    joints[:, 2] = 0.0
    for j, source in enumerate(LAYOUTS[len(points)]):
        if source is not None:
            joints[j] = *points[source], scores[source]
    joints[NECK] = *points[list(SHOULDERS)].mean(axis=0), scores[list(SHOULDERS)].min()
    return joints


def hands_of(scores: np.ndarray) -> np.ndarray:
    """Keypoint scores [K] -> mean score of the right and the left hand, float32 [2]; NaN for sets without hands."""
    if len(scores) != 133:
        return np.full(2, np.nan, np.float32)
    return np.array([scores[112:133].mean(), scores[91:112].mean()], np.float32)


def _best_of_overlapping(found: list[ssd.Detection]) -> list[ssd.Detection]:
    kept: list[ssd.Detection] = []
    for d in found:
        if all(ssd.iou(d.box, k.box) <= MAX_OVERLAP for k in kept):
            kept.append(d)
    return kept


def _session(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise InputError(f"pose network {path}: no such file; give the path of an .onnx file")
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "onnxruntime: not installed; run `pip install onnxruntime`, or set pose.backend=blazepose"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the job's workers are the parallelism
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no base below Exception
        raise InputError(f"{path}: not a readable ONNX network ({error}); get the file again") from None


def _input_size(session: Any, path: str | Path) -> tuple[int, int]:
    """(width, height) of the network's input [N,3,height,width]."""
    shape = session.get_inputs()[0].shape
    if len(shape) != 4 or not all(isinstance(s, int) for s in shape[2:]):
        raise InputError(
            f"{path}: its input is {shape}, not [N,3,height,width] of fixed size; export it with a fixed size"
        )
    return int(shape[3]), int(shape[2])


def _run(session: Any, image: np.ndarray) -> list[np.ndarray]:
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
    return session.run(None, {session.get_inputs()[0].name: planes})
