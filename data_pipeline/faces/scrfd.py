"""SCRFD detectors (ONNX files of yours): Guo et al., "Sample and Computation Redistribution for Efficient Face Detection" (2022).

The layout of InsightFace's exports: for strides 8, 16 and 32 scores, then boxes, then (in the `_kps` files) five points, with
two anchors a cell; boxes are distances from the anchor to the four sides and points are offsets, both in units of the stride.
InsightFace's own weights are for non-commercial research; the layout is not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipeline.faces.base import Face, in_middle
from data_pipeline.faces.onnx_network import OnnxNetwork
from data_pipeline.pose import ssd
from data_pipeline.pose.base import Region
from data_pipeline.pose.crop import cut
from imanim.errors import InputError
from imanim.weights import sha256_of

STRIDES = (8, 16, 32)
ANCHORS = 2
MEAN, DEVIATION = 127.5, 128.0  # RGB
MAX_OVERLAP = 0.4


class Scrfd:
    """A :class:`~data_pipeline.faces.base.FaceDetector`; boxes reach from the forehead to the chin."""

    name = "scrfd_onnx"

    def __init__(self, detector: str | Path, min_score: float = 0.5, input_side_px: int = 320):
        self._network = OnnxNetwork(detector)
        height, width = (s or input_side_px for s in self._network.shape[2:])
        self._size, self._min_score = (width, height), min_score
        self.models = {Path(detector).name: sha256_of(detector)}

    def find(self, frame: np.ndarray, region: Region) -> Face | None:
        """The face in the middle of the region. Raises InputError when the network's outputs are not SCRFD's."""
        width, height = self._size
        image = (cut(frame, region, width, height, black_outside=True) - MEAN) / DEVIATION
        try:
            scores, boxes, points = decode(self._network(image), width, height)
        except ValueError as error:
            raise InputError(f"{self._network.path}: {error}; SCRFD with strides 8, 16, 32 is known") from None
        size = np.array([width, height])
        order = np.argsort(-scores, kind="stable")
        best = order[scores[order] >= self._min_score]
        kept: list[int] = []
        for i in best:
            if all(ssd.iou(boxes[i], boxes[k]) <= MAX_OVERLAP for k in kept):
                kept.append(int(i))
        return in_middle(region, [(boxes[i] / np.tile(size, 2), points[i] / size, float(scores[i])) for i in kept])


def decode(outputs: list[np.ndarray], width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Network outputs -> scores [N] in [0,1], boxes float64 [N,4] and points [N,5,2] in pixels of the input.

    Args:
        outputs: scores of each stride, then boxes, then points (or no points: theirs become NaN), each [n,C] or [1,n,C].
        width, height: of the network's input, multiples of 32.

    Raises:
        ValueError: outputs of another number or shape.
    """
    layers, kinds = len(STRIDES), len(outputs) // len(STRIDES)
    if len(outputs) not in (2 * layers, 3 * layers):
        raise ValueError(f"it has {len(outputs)} outputs")
    channels = (1, 4, 10)[:kinds]
    scores, boxes, points = [], [], []
    for layer, stride in enumerate(STRIDES):
        y, x = np.meshgrid(np.arange(height // stride), np.arange(width // stride), indexing="ij")
        anchors = np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2) * float(stride), ANCHORS, axis=0)
        parts = []
        for kind, wide in enumerate(channels):
            part = outputs[kind * layers + layer].astype(np.float64)
            if part.size != len(anchors) * wide or part.shape[-1] != wide:
                raise ValueError(f"output {kind * layers + layer} is {list(part.shape)}, not [{len(anchors)},{wide}]")
            parts.append(part.reshape(len(anchors), wide))
        scores.append(parts[0][:, 0])
        reach = parts[1] * stride
        boxes.append(np.concatenate([anchors - reach[:, :2], anchors + reach[:, 2:]], axis=1))
        offsets = parts[2].reshape(-1, 5, 2) * stride if kinds == 3 else np.full((len(anchors), 5, 2), np.nan)
        points.append(anchors[:, None] + offsets)
    return np.concatenate(scores), np.concatenate(boxes), np.concatenate(points)
